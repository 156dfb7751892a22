"""Depth bases: how the weights of a continuous block depend on depth t in [0, 1].

theta(t) = sum_k phi_k(t) theta_k, with K coefficients theta_k. Each basis is smooth on each of
`elements(K)` equal elements; a point is an element and a coordinate x in [0, 1] within it, exact
fractions, so that no rounding decides to which element a stage belongs.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from keras_pde.checks import check_count
from keras_pde.registry import unknown_name


class Basis:
    """K functions on [0, 1].

    Attributes:
        name: as users write it.
        smallest: least K.
        local: whether each function is nonzero on a few elements only. Coefficients of other bases
            are determined only if there are at least K steps.
        nodal: whether coefficients are values of theta, so that each can be drawn as a weight is.
    """

    name: str
    smallest = 1
    local = True
    nodal = True

    def elements(self, count):
        """The number of elements."""
        raise NotImplementedError

    def refined(self, count):
        """K of the next finer basis, whose span contains this one's."""
        raise NotImplementedError

    def degree(self, count):
        """Of the polynomials on an element, or of such that come close."""
        raise NotImplementedError

    def values(self, count, element, x):
        """`(K,)` values at coordinate x of an element."""
        raise NotImplementedError

    def check(self, count):
        check_count(count, f"basis={self.name!r} with num_basis", self.smallest)

    def at(self, count, t, left=False):
        """`(K,)` values at depth t, a fraction; `left` takes the limit from below at a break."""
        elements = self.elements(count)
        element = int(t * elements)
        x = t * elements - element
        if element == elements or (left and x == 0 and element):
            element, x = element - 1, x + 1
        return self.values(count, element, x)


class Constant(Basis):
    """Piecewise constant: theta_k on the k-th of K elements. A residual network's weights."""

    name = "constant"

    def elements(self, count):
        return count

    def refined(self, count):
        return 2 * count

    def degree(self, count):
        return 0

    def values(self, count, element, x):
        return _entries(count, {element: 1.0})


class Hat(Basis):
    """Continuous and piecewise linear, with theta_k at the node (k - 1) / (K - 1)."""

    name = "hat"

    def elements(self, count):
        return max(count - 1, 1)

    def refined(self, count):
        return 2 * count - 1 if count > 1 else 2

    def degree(self, count):
        return 1

    def values(self, count, element, x):
        if count == 1:
            return np.ones(1)
        return _entries(count, {element: 1 - x, element + 1: x})


class DiscontinuousLinear(Basis):
    """Piecewise linear with jumps: two coefficients an element, its values at either end."""

    name = "discontinuous_linear"
    smallest = 2

    def check(self, count):
        super().check(count)
        if count % 2:
            raise ValueError(
                f"Received num_basis={count} with basis={self.name!r}; expected an even number, "
                "two an element."
            )

    def elements(self, count):
        return count // 2

    def refined(self, count):
        return 2 * count

    def degree(self, count):
        return 1

    def values(self, count, element, x):
        return _entries(count, {2 * element: 1 - x, 2 * element + 1: x})


class Polynomial(Basis):
    """Legendre polynomials up to degree K - 1, orthonormal on [0, 1]."""

    name = "polynomial"
    local = False
    nodal = False

    def elements(self, count):
        return 1

    def refined(self, count):
        return 2 * count

    def degree(self, count):
        return count - 1

    def values(self, count, element, x):
        degrees = np.arange(count)
        legendre = np.polynomial.legendre.legvander([2 * float(x) - 1], count - 1)[0]
        return np.sqrt(2 * degrees + 1) * legendre


class Fourier(Basis):
    """1, sqrt(2) cos(2 pi j t), sqrt(2) sin(2 pi j t) for j = 1, 2, ...: orthonormal, periodic."""

    name = "fourier"
    local = False
    nodal = False

    def elements(self, count):
        return 1

    def refined(self, count):
        return 2 * count + 1

    def degree(self, count):
        return 2 * count + 8

    def values(self, count, element, x):
        order = np.arange(count)
        angle = 2 * np.pi * float(x) * ((order + 1) // 2)
        waves = np.where(order % 2, np.cos(angle), np.sin(angle))
        return np.where(order == 0, 1.0, np.sqrt(2) * waves)


class BSpline(Basis):
    """Cubic B-splines with end knots repeated: twice continuously differentiable."""

    name = "bspline"
    smallest = 4
    local = False
    nodal = False

    def elements(self, count):
        return count - 3

    def refined(self, count):
        return 2 * count - 3

    def degree(self, count):
        return 3

    def values(self, count, element, x):
        from scipy.interpolate import BSpline as Spline

        elements = self.elements(count)
        knots = np.concatenate([[0] * 3, np.arange(elements + 1), [elements] * 3])
        # The polynomial piece of this element, continued to its right end.
        point = element + min(float(x), 1 - 1e-15)
        return Spline.design_matrix([point], knots.astype(float), 3).toarray()[0]


def _entries(count, values):
    vector = np.zeros(count)
    for k, value in values.items():
        vector[k] = value
    return vector


_BASES = {
    basis.name: basis
    for basis in (Constant(), Hat(), DiscontinuousLinear(), Polynomial(), Fourier(), BSpline())
}


def names() -> list[str]:
    """The names of all bases."""
    return list(_BASES)


def get(basis) -> Basis:
    """A basis from its name, or itself.

    Raises:
        ValueError: no basis has that name.
    """
    if isinstance(basis, Basis):
        return basis
    if basis not in _BASES:
        raise unknown_name("basis", basis, names())
    return _BASES[basis]


def rows(basis, count, steps, nodes):
    """Values of the basis at every stage: `(steps, stages, K)`.

    Stage c of step n is at depth (n + c) / steps; at c = 1 it takes the left limit, since the step
    ends there: with the right limit, Runge-Kutta methods lose all order at each jump.
    """
    return np.array(
        [
            [basis.at(count, (n + c) / Fraction(steps), left=c == 1) for c in nodes]
            for n in range(steps)
        ]
    )


def cuts_elements(basis, count, steps):
    """Whether a step reaches over a break of the basis, where Runge-Kutta methods lose order."""
    return steps % basis.elements(count) != 0


def quadrature(basis, count):
    """Rows `(points, K)` and weights `(points,)` that integrate squares of theta over depth."""
    points, weights = np.polynomial.legendre.leggauss(basis.degree(count) + 1)
    elements = basis.elements(count)
    rows = [basis.values(count, e, (1 + x) / 2) for e in range(elements) for x in points]
    return np.array(rows), np.tile(weights / 2 / elements, elements)


def transfer(source, count, target, target_count):
    """The matrix `(K', K)` of the L2 projection from one basis to another, exact up to rounding.

    M theta' = B theta with M_ij = int phi'_i phi'_j, B_ij = int phi'_i phi_j, by Gauss-Legendre
    quadrature between the breaks of both.
    """
    breaks = {Fraction(e, n) for n in _pieces(source, count) for e in range(n + 1)}
    breaks |= {Fraction(e, n) for n in _pieces(target, target_count) for e in range(n + 1)}
    breaks = sorted(breaks)
    points, weights = np.polynomial.legendre.leggauss(16)
    depths, lengths = [], []
    for low, high in pairwise(breaks):
        depths += [low + (high - low) * Fraction((1 + point) / 2) for point in points]
        lengths += [float(high - low) * weight / 2 for weight in weights]
    old = np.array([source.at(count, t) for t in depths])
    new = np.array([target.at(target_count, t) for t in depths])
    weighted = new.T * np.array(lengths)
    matrix = np.linalg.solve(weighted @ new, weighted @ old)
    return np.where(np.abs(matrix) < 1e-12, 0.0, matrix)


def _pieces(basis, count):
    # Polynomials and waves of high order are not integrated exactly in one piece of 16 points.
    return [basis.elements(count)] + ([] if basis.local else [max(count // 4, 1)])


@dataclass(frozen=True)
class Transfer:
    """Matrices `(K', K)` that carry what belongs to coefficients from one basis to another.

    With the mass matrices M, M', the coefficients' own matrix P, and d, d' the diagonals of M, M':

    Attributes:
        weights: P.
        gradients: M' P M^-1. Gradients are M times the coefficients of a function of depth, the L2
            gradient, and that function is kept: halving an element halves its gradient.
        squares: of gradients, of which only positive means and the change of scale are kept.
    """

    weights: np.ndarray
    gradients: np.ndarray
    squares: np.ndarray


def slot_transfer(source, count, target, target_count) -> Transfer:
    """How an optimizer's slots travel with the coefficients."""
    p = transfer(source, count, target, target_count)
    mass, target_mass = _mass(source, count), _mass(target, target_count)
    positive = np.abs(p) + 1e-9  # new modes take after the mean of the others
    means = positive / positive.sum(1, keepdims=True)
    scale = target_mass.diagonal() / (means @ mass.diagonal())
    return Transfer(p, target_mass @ p @ np.linalg.inv(mass), scale[:, None] ** 2 * means)


def _mass(basis, count):
    rows, weights = quadrature(basis, count)
    return (rows.T * weights) @ rows
