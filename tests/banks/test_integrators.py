"""What every scheme declares, measured: order, stability limits, reversibility."""

import math
from fractions import Fraction

import numpy as np
import pytest
from integrator_cases import LIMITS

from keras_pde import integrators

SCHEMES = [integrators.get(name) for name in integrators.names()]
REVERSIBLE = [scheme for scheme in SCHEMES if scheme.reversible]


def schemes(which):
    return pytest.mark.parametrize("scheme", which, ids=lambda scheme: scheme.name)


def solve(scheme, field, y, steps, end=1.0):
    """y(end); `field(t, part, y)`."""
    h = end / steps

    def at(n):
        return lambda stage, y: field((n + float(scheme.nodes[stage])) * h, scheme.parts[stage], y)

    state, done = scheme.start(at(0), y, h)
    for n in range(done, steps):
        state = scheme.step(at(n), state, h)
    return scheme.end(state)


def growing(t, part, y):
    """y' = y cos t, whose solution is exp(sin t)."""
    return y * np.cos(t)


def pendulum(t, part, y):
    return -np.sin(y) if part else y


def error(scheme, steps):
    if any(scheme.parts):
        start = (np.array(0.9), np.array(0.3))
        q, p = solve(scheme, pendulum, start, steps)
        exact = solve(integrators.get("rk4"), _together, np.array(start), 2000)
        return np.hypot(q - exact[0], p - exact[1])
    # At several ends, since at one the leading terms of the error may cancel; at late ones for
    # methods of high order, whose errors are rounding otherwise.
    ends = (10.0, 15.0, 20.0) if scheme.order > 4 else (1.0, 2.0, 3.0)
    return sum(
        abs(solve(scheme, growing, np.array(1.0), steps, end) - math.exp(math.sin(end)))
        for end in ends
    )


def _together(t, part, y):
    return np.array([y[1], -math.sin(y[0])])


@schemes(SCHEMES)
def test_order(scheme):
    counts = np.array([128, 256, 512]) * (2 if scheme.order > 4 else 1)
    errors = [error(scheme, steps) for steps in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(scheme.order, abs=0.1)


@schemes(SCHEMES)
def test_limits_are_those_of_the_literature(scheme):
    declared = (scheme.imaginary_limit, scheme.real_limit)
    assert declared == pytest.approx(LIMITS[scheme.name], rel=1e-3)


def _pair(scheme, y):
    return (y, 0 * y) if any(scheme.parts) else y


@schemes(SCHEMES)
@pytest.mark.parametrize("axis", ["imaginary", "real"])
def test_limits_are_where_steps_begin_to_grow(scheme, axis):
    direction = 1j if axis == "imaginary" else -1

    def stable(w):
        return scheme.amplification(w * direction) < 1 + 1e-9

    low, high = 0.0, 0.05
    while stable(high):
        low, high = high, high + 0.05
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    # Without a limit any step grows, if only by (h w)^4 / 8, as Heun's: by 1e-9 at 0.0095.
    assert low == pytest.approx(getattr(scheme, f"{axis}_limit"), rel=0.01, abs=0.01)


@schemes(SCHEMES)
def test_amplification_is_the_growth_of_many_steps(scheme):
    """Against the steps themselves: after many, the fastest growing part is all that is left."""
    for z in (-0.4 + 1.1j, 0.3 + 0.2j, 3.5j, -3.0 + 0j):
        w = -1j * z if any(scheme.parts) else z

        def linear(stage, y, w=w):
            return (-1) ** scheme.parts[stage] * w * y

        state, _ = scheme.start(linear, _pair(scheme, 1.0 + 0.3j), 1.0)
        sizes = []
        for _ in range(40):
            state = scheme.step(linear, state, 1.0)
            sizes.append(np.linalg.norm(state))
        measured = (sizes[39] / sizes[19]) ** (1 / 20)
        np.testing.assert_allclose(scheme.amplification(z), measured, rtol=2e-3)


@schemes(SCHEMES)
def test_amplification_keeps_the_shape(scheme):
    z = np.array([[0.1j, -0.2], [0.3, 1j]])
    single = [[scheme.amplification(value) for value in row] for row in z]
    np.testing.assert_allclose(scheme.amplification(z), single, rtol=1e-12)


@schemes(REVERSIBLE)
def test_steps_are_undone(scheme):
    def field(stage, y):
        return np.sin(y + stage)

    start = _pair(scheme, np.linspace(-1, 1, 5))
    first, _ = scheme.start(field, start, 0.1)
    state = first
    for _ in range(20):
        state = scheme.step(field, state, 0.1)
    for _ in range(20):
        state = scheme.back(field, state, 0.1)
    np.testing.assert_allclose(state, first, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["verlet", "symplectic_euler"])
def test_energy_drift_is_bounded_over_ten_thousand_steps(name):
    scheme = integrators.get(name)

    def field(stage, y):
        return pendulum(0, scheme.parts[stage], y)

    def energy(state):
        return state[1] ** 2 / 2 - math.cos(state[0])

    state = (1.0, 0.0)
    first, errors = energy(state), []
    for _ in range(10_000):
        state = scheme.step(field, state, 0.1)
        errors.append(abs(energy(state) - first))
    # The second half is no worse than the first: it oscillates, and does not drift.
    assert max(errors[5000:]) == pytest.approx(max(errors[:5000]), rel=1e-3)
    assert max(errors) < (0.05 if scheme.order == 1 else 2e-3)


def test_irreversible_schemes_say_so():
    with pytest.raises(ValueError, match="cannot be undone; expected a reversible"):
        integrators.get("rk4").back(None, (1.0,), 0.1)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "expected those below the diagonal"),
        ([[1]], [1], "below the diagonal"),
        ([[], [1, 0]], [0, 1], "below the diagonal"),
        ([[], [1]], ["1/2", "1/3"], "not consistent"),
        ([[], [1]], [1], "expected 2 weights"),
    ],
)
def test_tableaus_that_make_no_method_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        integrators.RungeKutta("mine", 2, a, b)


def test_a_tableau_of_ones_own():
    ralston = integrators.RungeKutta("ralston", 2, [[], ["2/3"]], ["1/4", "3/4"])
    assert integrators.get(ralston) is ralston
    assert ralston.nodes == (0, Fraction(2, 3)) and ralston.stages == 2
    assert (ralston.imaginary_limit, ralston.real_limit) == pytest.approx((0, 2))


def test_floats_in_a_tableau_mean_their_decimals():
    scheme = integrators.RungeKutta("mine", 1, [[], [1 / 3]], [0.3, 0.7])
    assert scheme.nodes[1] == Fraction(1, 3) and scheme.b == (Fraction(3, 10), Fraction(7, 10))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'rk4'"):
        integrators.get("rk5")
