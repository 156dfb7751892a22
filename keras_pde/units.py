"""Radii and shares as people write them."""

import re
from fractions import Fraction

_FRACTION = re.compile(r"[0-9]+/0*[1-9][0-9]*")


def radius(value) -> float:
    """A length from a number or from its text: 0.3, `"0.3"`, `"8/255"`."""
    return float(Fraction(value) if isinstance(value, str) else value)


def is_fraction(text) -> bool:
    """Whether a text is a quotient of integers, such as `"8/255"`."""
    return isinstance(text, str) and bool(_FRACTION.fullmatch(text))


def radius_text(epsilon: float) -> str:
    """A length as people write it: 8/255, 0.3."""
    steps = round(255 * epsilon)
    if steps and abs(255 * epsilon - steps) < 1e-4 and epsilon != round(epsilon, 2):
        return f"{steps}/255"
    return f"{epsilon:g}"


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"
