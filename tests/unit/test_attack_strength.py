"""Attacks on linear models: as strong as closed forms say that they can be, and no stronger."""

import numpy as np
import pytest
from attack_cases import (
    DUAL,
    JAX,
    NORMS,
    boundary,
    equidistant,
    kernel_of,
    linear,
    not_on_jax,
    vectors,
)
from keras import ops

from keras_pde.attacks import FGSM, PGD, MinimalDistance, Target
from keras_pde.attacks.iterated import Evaluated


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_reaches_the_worst_case_of_a_linear_model(norm):
    kernel = kernel_of(2)
    x, y = equidistant(kernel, norm, 1.0)
    target = Target(linear(kernel), x)
    for random_start in (False, True):
        for epsilon, share in ((0.999, 0.0), (1.001, 1.0)):
            # From a random point the path slides along the sphere and only nears the corner.
            if random_start and epsilon > 1:
                epsilon = {"linf": 1.001, "l2": 1.1, "l1": 1.02}[norm]
            pgd = PGD(norm, epsilon, steps=40, random_start=random_start, bounds=None)
            assert np.mean(pgd(target, x, y).success) == share
    # Beyond the boundary the margin itself: margin(x) + epsilon |w|_dual.
    pgd = PGD(norm, 2.0, steps=40, random_start=False, bounds=None)
    found = pgd(target, x, y, early_exit=False)
    slope = np.linalg.norm(kernel[:, 0] - kernel[:, 1], DUAL[norm])
    margins = margin_of(kernel, x, y) + 2.0 * slope
    np.testing.assert_allclose(margin_of(kernel, found.adversarial, y), margins, rtol=1e-4)


def margin_of(kernel, x, y):
    z = np.asarray(x, "float64") @ kernel
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, y] = -np.inf
    return others.max(axis=1) - z[rows, y]


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_pgd_reaches_the_worst_case_in_the_box(norm):
    """The optimum: every pixel as far as it may (linf), the steepest pixels first (l1)."""
    kernel = kernel_of(2, size=9)
    x, y = vectors(12, 9, seed=4), np.zeros(12, "int32")
    # A bias that leaves some images correct, and all of them wrong within the ball.
    bias = np.array([-margin_of(kernel, x, y).min(), 0.0])
    z = x @ kernel + bias
    x, y = x[z.argmax(axis=1) == 0], y[z.argmax(axis=1) == 0]
    assert len(x) >= 3
    w = kernel[:, 1] - kernel[:, 0]
    epsilon = {"linf": 0.6, "l1": 3.0}[norm]
    room = np.where(w > 0, 1 - x, x).astype("float64")
    if norm == "linf":
        best = np.minimum(room, epsilon) @ np.abs(w)
    else:
        best, left = np.zeros(len(x)), np.full(len(x), epsilon)
        for i in np.argsort(-np.abs(w)):
            used = np.minimum(room[:, i], left)
            best, left = best + used * abs(w[i]), left - used
    pgd = PGD(norm, epsilon, steps=100, random_start=False)
    found = pgd(linear(kernel, bias), x, y, early_exit=False)
    gained = (found.adversarial.astype("float64") - x) @ w
    assert np.all(found.status == "found")
    assert np.all(gained <= best * (1 + 1e-6))
    np.testing.assert_allclose(gained, best, rtol=1e-5 if norm == "linf" else 0.02)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [10] if JAX else [2, 10])
def test_minimal_distance_of_a_linear_model(norm, classes):
    # With unit kernels all boundaries are the same slope apart: the nearest is the runner-up's.
    kernel = kernel_of(2) if classes == 2 else np.eye(10)
    x, y = equidistant(kernel, norm, 0.5)
    x *= np.linspace(0.2, 5, len(x), dtype="float32")[:, None]
    attack = MinimalDistance(norm, tolerance=1e-4, loss="margin", bounds=None)
    found = attack(linear(kernel), x, y)
    expected = boundary(kernel, norm, x, y)
    np.testing.assert_allclose(found.distance, expected, rtol=1e-3)
    assert np.all(found.distance >= expected * (1 - 1e-5))


@not_on_jax
@pytest.mark.parametrize("norm", [slow("l1"), "l2", slow("linf")])
def test_minimal_distance_is_an_upper_bound_with_many_classes(norm):
    kernel = kernel_of(10)
    x, y = equidistant(kernel, norm, 1.0, count=40)
    attack = MinimalDistance(norm, tolerance=1e-3, loss="margin", bounds=None)
    found = attack(linear(kernel), x, y)
    assert np.all(found.distance >= 1 - 1e-4)
    assert np.mean(found.distance < 1.01) > 0.5, "mostly the nearest class"
    assert np.median(found.distance) < 1.05


def test_fgsm_moves_every_pixel_by_epsilon():
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "linf", 0.5)
    found = FGSM("linf", 0.75, bounds=None)(linear(kernel), x, y)
    w = kernel[:, 1] - kernel[:, 0]
    expected = x + 0.75 * np.sign(w) * np.where(y == 0, 1, -1)[:, None]
    np.testing.assert_allclose(found.adversarial, expected, atol=1e-6)


def test_unreachable_boundary_is_infinitely_far():
    x = vectors()
    y = np.zeros(8, "int32")
    attack = MinimalDistance("l2", steps=2)
    flat = linear(np.zeros((6, 2)), [1.0, 0.0])
    far = linear(np.stack([np.zeros(6), np.full(6, 1e-3)], axis=1), [1.0, 0.0])
    for model in (flat, far):
        found = attack(model, x, y)
        assert np.all(np.isinf(found.distance)) and set(found.status) == {"not_found"}
        np.testing.assert_array_equal(found.adversarial, x)


@not_on_jax
def test_minimal_distance_settings():
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 0.5)
    target = Target(linear(kernel), x)

    def run(**settings):
        return MinimalDistance("l2", **{"loss": "margin", "bounds": None, **settings})(target, x, y)

    np.testing.assert_allclose(run(tolerance=0.0, bisections=20).distance, 0.5, rtol=1e-5)
    coarse = run(bisections=0, initial_radius=0.42)
    # 0.42 fails; 0.63 succeeds at its fifth step of 0.105, which is the first beyond 0.5.
    np.testing.assert_allclose(coarse.distance, 0.525, rtol=1e-5)
    far = run(initial_radius=1e-3)
    np.testing.assert_allclose(far.distance, 0.5, rtol=0.011)
    fine = run(tolerance=1e-3)
    assert fine.forward_passes > run(tolerance=0.1).forward_passes
    # More than 20 enlargements by 1.5 are not tried.
    assert set(run(initial_radius=1e-5).status) == {"not_found"}


@not_on_jax
def test_paper2018_preset():
    attack = MinimalDistance.paper2018("linf")
    assert attack == MinimalDistance("linf", steps=10, bisections=20, tolerance=0.0, loss="ce")
    kernel = kernel_of(2, size=12)
    x, y = equidistant(kernel, "linf", 0.01)
    x = x - x.min() + 0.1
    # The shift would change the class: the bias takes it back.
    bias = -(x - equidistant(kernel, "linf", 0.01)[0])[0] @ kernel
    inside = np.all((x > 0.02) & (x < 0.98), axis=1)
    assert inside.sum() >= 4
    found = attack(linear(kernel, bias), x[inside], y[inside])
    np.testing.assert_allclose(found.distance, 0.01, rtol=1e-3)


@not_on_jax
def test_a_success_below_an_earlier_failure_reopens_the_bracket():
    """A pit in front of the boundary: trials of 0.45 fall in, so that 0.3 failed bounds nothing."""
    attack = MinimalDistance("l2", tolerance=0.0, bisections=3)
    x = ops.zeros((1, 1))
    state = {
        **attack.start(x, None),
        "images": ops.full((1, 1), 0.3),
        "best": x,
        "fooled": ops.zeros((1,), dtype="bool"),
        "k": ops.full((1,), 4, dtype="int32"),
        "radius": ops.full((1,), 0.45),
        "low": ops.full((1,), 0.35),
    }
    evaluated = Evaluated(None, None, ops.ones((1,), "bool"), None, None, ops.ones((1, 1)))
    new = attack.advance(state, evaluated, x)
    assert float(new["high"][0]) == pytest.approx(0.3)
    assert float(new["low"][0]) == 0.0
    assert float(new["radius"][0]) == pytest.approx(0.15)
    assert not bool(new["done"][0])
