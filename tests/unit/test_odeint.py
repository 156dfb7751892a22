"""The solver: orders, errors and work against SciPy's, the same for an example in any batch."""

import math

import numpy as np
import pytest
from keras import ops
from odeint_cases import BACKEND, growing, oscillator, solve
from scipy.integrate import solve_ivp

from keras_pde import integrators
from keras_pde.odeint import dense, odeint

RUNGE_KUTTA = [
    name
    for name in integrators.names()
    if isinstance(integrators.get(name), integrators.RungeKutta)
]
ADAPTIVE = ["bosh3", "dopri5", "tsit5"]


@pytest.mark.parametrize("method", RUNGE_KUTTA)
def test_order_of_equal_steps(method, float64):
    # Three resolutions in one batch: with z(t) = y(s t), steps of z are s times as long for y.
    s = ops.convert_to_tensor(np.array([[1.0], [1 / 2], [1 / 4]]))
    steps = 16  # of more, those of order 5 would leave rounding only
    z, statistics = solve(
        lambda t, z: s * growing(s * t, z), np.ones((3, 1)), np.arange(9.0), method, steps=steps
    )
    errors = [
        # At several ends, since at one the leading terms of the error may cancel.
        sum(abs(z[end * k, i, 0] - math.exp(math.sin(end))) for end in (1, 2))
        for i, k in enumerate((1, 2, 4))
    ]
    slope = -np.polyfit(np.log([1, 2, 4]), np.log(errors), 1)[0]
    assert slope == pytest.approx(integrators.get(method).order, abs=0.3)
    assert (statistics.accepted == 8 * steps).all()
    assert (statistics.evaluations == 8 * steps * integrators.get(method).stages).all()


def test_step_size_is_a_limit(float64):
    t = np.array([0.0, 0.25, 1.0])
    y, statistics = solve(growing, np.ones((2, 1)), t, method="rk4", step_size=0.1)
    assert statistics.accepted.tolist() == [3 + 8] * 2
    np.testing.assert_allclose(y[:, 0, 0], np.exp(np.sin(t)), rtol=1e-5)
    _, statistics = solve(growing, np.ones((1, 1)), [0.0, 0.3], method="rk4", step_size=0.1)
    assert statistics.accepted.tolist() == [3]


# Linear, Lotka-Volterra, van der Pol: one an example, over times of the same length.
PROBLEMS = [
    (lambda y: [-2 * y[0] + 9 * y[1], -9 * y[0] - 1 * y[1]], [1.0, 0.5]),
    (lambda y: [3 * y[0] * (1.5 - y[1]), 3 * y[1] * (y[0] - 1)], [2.0, 1.0]),
    (lambda y: [5 * y[1], 5 * (4 * (1 - y[0] ** 2) * y[1] - y[0])], [1.0, 1.0]),
]
TIMES = np.linspace(0, 2.5, 21)


def all_problems(t, y):
    return ops.stack([ops.stack(rule((y[i, 0], y[i, 1]))) for i, (rule, _) in enumerate(PROBLEMS)])


@pytest.fixture(scope="module")
def exact():
    """`(problems, T, 2)`."""
    return [
        solve_ivp(
            lambda t, y, rule=rule: rule(y),
            (0, TIMES[-1]),
            y0,
            method="DOP853",
            t_eval=TIMES,
            rtol=1e-12,
            atol=1e-13,
        ).y.T
        for rule, y0 in PROBLEMS
    ]


@pytest.mark.parametrize(
    ("method", "scipys"), [("dopri5", "RK45"), ("bosh3", "RK23"), ("tsit5", None)]
)
def test_error_and_work_are_scipys(method, scipys, exact, float64):
    rtol = 1e-4 if method == "bosh3" else 1e-6
    y0 = np.array([y0 for _, y0 in PROBLEMS])
    y, statistics = solve(all_problems, y0, TIMES, method, rtol, 1e-2 * rtol, max_steps=1000)
    for i, (rule, start) in enumerate(PROBLEMS):
        scale = abs(exact[i]).max(axis=0)
        errors = (abs(y[:, i] - exact[i]) / scale).max(axis=1)
        # All times but the last are interpolated.
        assert errors.max() < 50 * rtol, i
        other = solve_ivp(
            lambda t, y, rule=rule: rule(y),
            (0, TIMES[-1]),
            start,
            method=scipys or "RK45",
            rtol=rtol,
            atol=1e-2 * rtol,
        )
        assert statistics.evaluations[i] < 1.3 * other.nfev
        if scipys:
            assert statistics.evaluations[i] > other.nfev / 1.3
    assert (statistics.status == 0).all()


@pytest.mark.skipif(BACKEND == "jax", reason="it calls a function once, to compile it")
@pytest.mark.parametrize("method", ADAPTIVE)
def test_evaluations_are_counted(method, float64):
    calls = []

    def counted(t, y):
        calls.append(t)
        return oscillator(t, y)

    _, statistics = odeint(counted, np.ones((1, 2)), [0.0, 2.0], method, return_stats=True)
    assert int(statistics.evaluations[0]) == len(calls)
    assert int(statistics.accepted[0]) > 5


def test_each_example_has_its_own_steps(float64):
    frequency = ops.convert_to_tensor(np.array([[1.0], [40.0], [2.0]]))

    def swinging(w):
        return lambda t, y: w * oscillator(t, y)

    y0, t = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]]), np.array([0.0, 0.7, 2.0])
    together, cost = solve(swinging(frequency), y0, t, "bosh3", 1e-4, max_steps=1000)
    assert cost.accepted[1] > 20 * cost.accepted[0]
    for i in (0, 2):
        alone, cost_alone = solve(swinging(frequency[i]), y0[i : i + 1], t, "bosh3", 1e-4)
        np.testing.assert_allclose(together[:, i], alone[:, 0], rtol=1e-12)
        assert [count[i] for count in cost] == [count[0] for count in cost_alone]


@pytest.mark.parametrize("method", ADAPTIVE)
def test_dense_output_is_of_order_four(method):
    """Of the order of the scheme, if that is less; and smooth from one step to the next."""
    scheme = integrators.get(method)
    matrix, begin, x = dense.weights(scheme), 0.3, np.linspace(0.1, 0.9, 9)
    powers = x[:, None] ** np.arange(1, 5)

    def error(h):
        y0 = np.exp(np.sin(begin))
        times = [begin + float(node) * h for node in scheme.nodes]
        _, slopes = scheme.slopes(lambda stage, y: y * np.cos(times[stage]), y0, h)
        return abs(y0 + h * powers @ matrix @ slopes - np.exp(np.sin(begin + x * h))).max()

    order = min(scheme.order, 4)
    assert np.log2(error(0.2) / error(0.1)) == pytest.approx(order + 1, abs=0.3)
    unit = np.eye(scheme.stages)
    np.testing.assert_allclose(matrix[0], unit[0], atol=1e-12)
    np.testing.assert_allclose(np.arange(1, 5) @ matrix, unit[-1], atol=1e-12)
    np.testing.assert_allclose(matrix.sum(0), [float(b) for b in scheme.b], atol=1e-12)


@pytest.mark.parametrize("kwargs", [{"method": "rk4", "steps": 40}, {"rtol": 1e-7, "atol": 1e-8}])
def test_backwards_in_time_returns(kwargs, float64):
    y0, t = np.array([[1.0, 0.2], [0.3, 0.1]]), np.array([0.5, 1.0, 2.0])
    there, _ = solve(growing, y0, t, **kwargs)
    np.testing.assert_allclose(there[-1], y0 * np.exp(np.sin(2.0) - np.sin(0.5)), rtol=1e-5)
    back, statistics = solve(growing, there[-1], t[::-1], **kwargs)
    np.testing.assert_allclose(back, there[::-1], rtol=1e-5)
    assert (statistics.status == 0).all()


def test_an_embedded_pair_of_ones_own(float64):
    heun_euler = integrators.RungeKutta("heun_euler", 2, [[], [1]], ["1/2", "1/2"], lower=[1, 0])
    t = np.array([0.0, 0.9, 2.0])
    y, _ = solve(growing, np.ones((1, 1)), t, heun_euler, 1e-4, 1e-5)
    np.testing.assert_allclose(y[:, 0, 0], np.exp(np.sin(t)), rtol=2e-3)
