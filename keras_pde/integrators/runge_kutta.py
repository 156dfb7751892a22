from fractions import Fraction
from functools import cached_property

import numpy as np

from keras_pde.integrators.scheme import Scheme


class RungeKutta(Scheme):
    """An explicit Runge-Kutta method, from its Butcher tableau:

        k_i = f(t + c_i h, y + h sum_j a_ij k_j),    y_new = y + h sum_i b_i k_i.

    The stability limits follow from the tableau: R(z) = 1 + sum_k (b A^(k-1) 1) z^k must not exceed
    1 in modulus. Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I,
    II.1, and Hairer and Wanner, II, IV.2.

    Args:
        name: as users write it.
        order: of the error.
        a: the rows of the tableau below the diagonal, the first one empty: `[[], ["1/2"]]`.
            Numbers, or fractions as text.
        b: one weight a stage.
        lower: weights of an embedded method of lower order, for step size control; None for none.

    Raises:
        ValueError: the rows do not form a triangle, the weights do not add up to 1, or their number
            is not that of the stages.

    Example:

    >>> heun = RungeKutta("heun", order=2, a=[[], [1]], b=["1/2", "1/2"])
    """

    def __init__(self, name, order, a, b, lower=None):
        self.name, self.order = name, order
        self.a = tuple(_fractions(row) for row in a)
        self.b = _fractions(b)
        self.lower = None if lower is None else _fractions(lower)
        self._check()
        self.nodes = tuple(sum(row, Fraction(0)) for row in self.a)

    def _check(self):
        lengths = [len(row) for row in self.a]
        if not lengths or lengths != list(range(len(lengths))):
            raise ValueError(
                f"Received a tableau {self.name!r} with rows of {lengths} entries; expected those "
                f"below the diagonal: {list(range(max(len(lengths), 1)))}, the first row empty."
            )
        for weights in (self.b, self.lower):
            if weights is not None and (len(weights) != len(lengths) or sum(weights) != 1):
                shown = [str(w) for w in weights]
                raise ValueError(
                    f"Received a tableau {self.name!r} with weights {shown}, whose sum is "
                    f"{sum(weights)}; expected {len(lengths)} weights, one a row, with sum 1: it "
                    "is not consistent otherwise. Write thirds as '1/3'."
                )

    def get_config(self):
        """The arguments as JSON holds them."""
        return {
            "name": self.name,
            "order": self.order,
            "a": [[str(entry) for entry in row] for row in self.a],
            "b": [str(weight) for weight in self.b],
            "lower": self.lower and [str(weight) for weight in self.lower],
        }

    def step(self, field, state, h):
        return (self.slopes(field, state[0], h)[0],)

    def slopes(self, field, y, h):
        """`(y_new, [k_1, k_2, ...])`."""
        slopes = []
        for stage, row in enumerate(self.a):
            slopes.append(field(stage, moved(y, row, slopes, h)))
        return moved(y, self.b, slopes, h), slopes

    @cached_property
    def stability(self):
        """Coefficients of the polynomial R(z), constant first, as fractions."""
        coefficients, powers = [Fraction(1)], [Fraction(1)] * self.stages
        for _ in range(self.stages):
            coefficients.append(_dot(self.b, powers))
            powers = [_dot(row, powers) for row in self.a]
        return coefficients

    def amplification(self, z):
        return abs(np.polynomial.polynomial.polyval(z, [float(c) for c in self.stability]))

    @cached_property
    def imaginary_limit(self):
        # |R(i w)|^2 - 1, as a polynomial in w.
        even = [c * (-1) ** (k // 2) * (k % 2 == 0) for k, c in enumerate(self.stability)]
        odd = [c * (-1) ** (k // 2) * (k % 2) for k, c in enumerate(self.stability)]
        return _first_exit(_plus(_square(even), _square(odd)))

    @cached_property
    def real_limit(self):
        return _first_exit(_square([c * (-1) ** k for k, c in enumerate(self.stability)]))


def moved(y, weights, slopes, h):
    """y + h sum_i w_i k_i."""
    terms = [float(w) * k for w, k in zip(weights, slopes, strict=True) if w]
    return y + h * sum(terms[1:], terms[0]) if terms else y


def _fractions(row):
    # 1e12: floats such as 0.1 mean the short decimal; 1/3 as a float is the third.
    return tuple(Fraction(value).limit_denominator(10**12) for value in row)


def _dot(weights, values):
    return sum((w * v for w, v in zip(weights, values, strict=False)), Fraction(0))


def _square(p):
    result = [Fraction(0)] * (2 * len(p) - 1)
    for i, u in enumerate(p):
        for j, v in enumerate(p):
            result[i + j] += u * v
    return result


def _plus(p, q):
    return [u + v for u, v in zip(p, q, strict=True)]


def _first_exit(squared):
    """The smallest positive w at which a polynomial |R|^2 exceeds 1; 0 if it does so at once."""
    excess = [squared[0] - 1, *squared[1:]]
    lowest = next((k for k, c in enumerate(excess) if c), None)
    if lowest is None:
        return np.inf
    if excess[lowest] > 0:
        return 0.0
    roots = np.roots([float(c) for c in reversed(excess[lowest:])])
    positive = roots[(abs(roots.imag) < 1e-9 * (1 + abs(roots))) & (roots.real > 0)].real
    return float(positive.min()) if len(positive) else np.inf
