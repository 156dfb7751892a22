"""Depth bases: where stages lie, and exact changes of basis."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_pde import integrators
from keras_pde.layers.continuous import bases

NAMES = bases.names()
COUNTS = {"discontinuous_linear": (2, 4, 6), "bspline": (4, 5, 8)}
CASES = [(name, count) for name in NAMES for count in COUNTS.get(name, (1, 3, 4))]
DEPTHS = [Fraction(i, 60) for i in range(61)]


def theta(name, coefficients, depths=DEPTHS):
    basis = bases.get(name)
    return np.array([basis.at(len(coefficients), t) @ coefficients for t in depths])


@pytest.mark.parametrize(("name", "count"), CASES)
class TestBasis:
    def test_refinement_keeps_the_function(self, name, count):
        basis, coefficients = bases.get(name), np.random.default_rng(0).normal(size=count)
        finer = basis.refined(count)
        assert finer > count
        prolonged = bases.transfer(basis, count, basis, finer) @ coefficients
        np.testing.assert_allclose(theta(name, prolonged), theta(name, coefficients), atol=1e-9)
        back = bases.transfer(basis, finer, basis, count) @ prolonged
        np.testing.assert_allclose(back, coefficients, atol=1e-9)

    def test_constants_are_represented(self, name, count):
        basis = bases.get(name)
        coefficients = bases.transfer(bases.get("constant"), 1, basis, count) @ np.ones(1)
        np.testing.assert_allclose(theta(name, coefficients), 1, atol=1e-9)

    def test_projection_is_the_best_in_the_mean_square(self, name, count):
        source, coefficients = bases.get("constant"), np.random.default_rng(1).normal(size=5)
        best = bases.transfer(source, 5, bases.get(name), count) @ coefficients
        # A fine midpoint rule, another way to integrate than the projection's own.
        depths = [Fraction(2 * i + 1, 2000) for i in range(1000)]
        target = theta("constant", coefficients, depths)

        def distance(c):
            return np.mean((theta(name, c, depths) - target) ** 2)

        for direction in np.eye(count):
            assert distance(best) < distance(best + 0.05 * direction)
            assert distance(best) < distance(best - 0.05 * direction)

    def test_quadrature_integrates_squares(self, name, count):
        basis, coefficients = bases.get(name), np.random.default_rng(2).normal(size=count)
        rows, weights = bases.quadrature(basis, count)
        depths = [Fraction(2 * i + 1, 4000) for i in range(2000)]
        mean = np.mean(theta(name, coefficients, depths) ** 2)
        assert weights @ (rows @ coefficients) ** 2 == pytest.approx(mean, rel=2e-3)

    def test_smooth_within_elements(self, name, count):
        basis = bases.get(name)
        for element in range(basis.elements(count)):
            low, high = Fraction(element, basis.elements(count)), Fraction(1, 10**6)
            inside, before = basis.at(count, low + high), basis.at(count, low, left=False)
            np.testing.assert_allclose(inside, before, atol=1e-3)


def test_projection_of_pairs_is_their_mean():
    constant = bases.get("constant")
    matrix = bases.transfer(constant, 6, constant, 3)
    np.testing.assert_allclose(matrix, np.kron(np.eye(3), [[0.5, 0.5]]), atol=1e-12)


def test_projection_keeps_variances_positive():
    constant = bases.get("constant")
    for count in range(1, 9):
        assert (bases.transfer(constant, 7, constant, count) >= 0).all()


def check_elements(scheme, steps, count):
    """floor(K (n + c) / N) in integers, c a multiple of 1/6, and the left limit at c = 1."""
    nodes = integrators.get(scheme).nodes
    rows = bases.rows(bases.get("constant"), count, steps, nodes)
    assert rows.shape == (steps, len(nodes), count)
    n = np.arange(steps)[:, None]
    sixths = np.array([int(6 * c) for c in nodes])
    last = -(-count * (n + 1) // steps) - 1
    expected = np.where(sixths == 6, last, count * (6 * n + sixths) // (6 * steps))
    np.testing.assert_array_equal(rows.argmax(-1), expected)
    assert (rows.sum(-1) == 1).all()


@pytest.mark.parametrize("scheme", ["euler", "rk4"])
def test_every_stage_visits_its_element(scheme):
    for steps in range(1, 257):
        check_elements(scheme, steps, steps)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 256), st.integers(1, 256))
def test_any_steps_visit_any_elements(steps, count):
    check_elements("rk4", steps, count)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("constant", 0, "at least 1"),
        ("hat", 2.5, "an integer"),
        ("discontinuous_linear", 3, "even number"),
        ("bspline", 3, "at least 4"),
    ],
)
def test_counts_that_a_basis_cannot_have(name, count, message):
    with pytest.raises(ValueError, match=message):
        bases.get(name).check(count)


def test_unknown_bases_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'fourier'"):
        bases.get("furier")
