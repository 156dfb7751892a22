"""The threat model: which perturbations count, and how their size is written."""

import numbers
import re
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from keras_pde import geometry
from keras_pde.checks import bounds_text, check_bounds, limits

# Distances are sums of float32 numbers: what an attack projects on the ball of radius epsilon may
# be measured a rounding beyond it, and is within it all the same.
TOLERANCE = 1e-5
_FRACTION = re.compile(r"[0-9]+/0*[1-9][0-9]*")
_DECIMAL = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST = 1e18  # the squares of longer ones are beyond float32


def is_fraction(text) -> bool:
    """Whether a text is a quotient of integers, such as `"8/255"`."""
    return isinstance(text, str) and bool(_FRACTION.fullmatch(text))


def radius(value, bounds=(0.0, 1.0), what="epsilon") -> float:
    """A length from a number or from its text: 0.3, `"0.3"`, `"8/255"`.

    Args:
        value: number or text.
        bounds: range of the images, as in `Threat`. A fraction as text, such as `"8/255"`, is a
            length in images of [0, 1] and is refused for those of another range.
        what: how the error names the argument.

    Raises:
        ValueError: it is no finite length of at least 0, or a fraction for another range.

    Example:

    >>> radius("8/255") == 8 / 255
    """
    text = value.strip() if isinstance(value, str) else ""
    if is_fraction(text) and not (bounds is None or are_unit(bounds)):
        raise ValueError(
            f"Received {what}={value!r} for images in {bounds_text(bounds)}; a fraction as text is "
            "a length in images of [0, 1]. Pass the length in the units of these images, a number."
        )
    try:
        if is_fraction(text) or _DECIMAL.fullmatch(text):
            value = Fraction(text)
        length = float(value)
        fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if fits and 0 <= length < _LONGEST:
        return length
    raise ValueError(
        f"Received {what}={value!r}; expected a finite length of at least 0 and below "
        f"{_LONGEST:g}, such as 0.3 or 8/255."
    )


def are_unit(bounds) -> bool:
    """Whether bounds are [0, 1], however they are written."""
    return bounds is not None and all(
        np.all(limit == end) for limit, end in zip(limits(bounds), (0, 1), strict=True)
    )


def radius_text(epsilon: float) -> str:
    """A length as people write it: 8/255, 0.3."""
    steps = round(255 * epsilon)
    if steps and abs(255 * epsilon - steps) < 1e-4 and epsilon != round(epsilon, 2):
        return f"{steps}/255"
    return f"{epsilon:g}"


def same_radius(a: float, b: float) -> bool:
    """Whether two lengths are one, written with more or fewer digits."""
    return abs(a - b) <= 1e-6 * max(a, b)


def within(distance, epsilon):
    """Whether perturbations of these measured lengths belong to the ball of radius epsilon."""
    return distance <= epsilon * (1 + TOLERANCE)


@dataclass(frozen=True)
class Threat:
    """A threat model: perturbations d of an example x with |d| <= epsilon, x + d within bounds.

    A value: it can be compared, hashed and printed, and is what attacks and objectives hold as
    `.threat`.

    Args:
        norm: `"l1" | "l2" | "linf"`, norm of the perturbation.
        epsilon: its largest length, in the units of the examples: a number, or text such as
            `"8/255"`; `None` for a norm and bounds without a length.
        bounds: `(low, high)` range of valid examples. Each is a number, or an array that broadcasts
            to one example: a value per channel `(3,)`, or per feature. `None` for no limit.

    Raises:
        ValueError: an unknown norm, no length, no range, a fraction for examples of another range
            than [0, 1], or in `"linf"` an epsilon beyond the whole range.

    Example:

    >>> threat = kp.Threat("linf", "8/255")
    >>> attack = kp.attacks.PGD("linf", steps=40).at(threat.epsilon)
    >>> attack.threat == threat
    """

    norm: str
    epsilon: float | None = None
    bounds: tuple | None = (0.0, 1.0)

    def __post_init__(self):
        put = object.__setattr__
        put(self, "norm", geometry.get(self.norm).name)
        put(self, "bounds", check_bounds(self.bounds))
        if self.epsilon is not None:
            put(self, "epsilon", radius(self.epsilon, self.bounds))
            self._check_reach()

    def _check_reach(self):
        """Refuses a length beyond that which turns any image into any other: a wrong unit."""
        if self.bounds is None or self.norm != "linf":
            return
        low, high = limits(self.bounds)
        width = float(np.max(high - low))
        if self.epsilon > width and not same_radius(self.epsilon, width):
            raise ValueError(
                f"Received epsilon={self.epsilon:g} in {self.norm!r}; expected at most {width:g} "
                f"for images in {bounds_text(self.bounds)}, such as 8/255 for 8 in 0-255."
            )

    def at(self, epsilon) -> "Threat":
        """The same norm and bounds with another length."""
        return replace(self, epsilon=epsilon)

    def __str__(self) -> str:
        """As tables write it: `linf 8/255`; fractions are lengths in [0, 1]."""
        if self.epsilon is None:
            return self.norm
        unit = self.bounds is None or are_unit(self.bounds)
        return f"{self.norm} {radius_text(self.epsilon) if unit else format(self.epsilon, 'g')}"
