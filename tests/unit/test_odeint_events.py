"""Events and the dense solution: against closed forms and SciPy's."""

import keras
import numpy as np
import pytest
from keras import ops
from odeint_cases import compiled, growing, oscillator
from scipy.integrate import solve_ivp

from keras_pde import autodiff
from keras_pde.odeint import odeint

ACCURATE = {"rtol": 1e-9, "atol": 1e-10}


def arrays(result):
    return keras.tree.map_structure(ops.convert_to_numpy, result)


def first(t, y):
    return y[:, 0]


def run(*args, **kwargs):
    """Compiled, which is faster, with a y0 that the compiler does not know."""
    func, y0, *rest = args
    call = compiled(lambda y0: odeint(func, y0, *rest, **kwargs))
    return arrays(call(ops.convert_to_tensor(y0)))


PHASES = np.array([0.3, 1.0, 2.5])
STARTS = np.stack([np.cos(PHASES), -np.sin(PHASES)], axis=-1)  # y = cos(t + phase)


@pytest.mark.parametrize("direction", [0, 1, -1])
@pytest.mark.parametrize("method", ["dopri5", "rodas5p"])
def test_times_of_all_events(direction, method, float64):
    tolerances = ACCURATE if method == "dopri5" else {"rtol": 1e-7, "atol": 1e-8}
    y, events = run(
        oscillator,
        STARTS,
        [0.0, 4.0, 10.0],
        method,
        event_fn=first,
        terminal=False,
        direction=direction,
        max_events=2,
        **tolerances,
    )
    zeros = np.pi * (np.arange(6) + 0.5) - PHASES[:, None]
    rising = np.broadcast_to(np.arange(6) % 2 == 1, zeros.shape)
    wanted = {0: np.ones_like(rising), 1: rising, -1: ~rising}[direction]
    for i, (row, chosen) in enumerate(zip(zeros, wanted, strict=True)):
        expected = row[chosen & (row > 0) & (row < 10)]
        assert events.count[i] == len(expected)
        np.testing.assert_allclose(events.t[: len(expected), i], expected[:2], atol=1e-6)
        np.testing.assert_allclose(events.y[: len(expected), i, 0], 0, atol=1e-6)
        assert np.isnan(events.t[len(expected) :, i]).all()
    np.testing.assert_allclose(y[1:, :, 0], np.cos(np.array([[4], [10]]) + PHASES), atol=1e-5)


def test_events_are_scipys(float64):
    """A condition on time and all of the state, in a system that no formula solves."""

    def lorenz(t, y):
        a, b, c = y[0], y[1], y[2]
        return [10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c]

    def section(t, y):
        return y[2] - 25 + t

    theirs = solve_ivp(
        lorenz, (0, 2), [1.0, 2, 20], events=section, rtol=1e-11, atol=1e-11, method="DOP853"
    )
    _, events, statistics = run(
        lambda t, y: ops.stack(lorenz(t, y)),
        np.array([1.0, 2, 20]),
        [0.0, 2.0],
        event_fn=section,
        terminal=False,
        return_stats=True,
        max_steps=2000,
        **ACCURATE,
    )
    count = len(theirs.t_events[0])
    assert statistics.status == 0 and events.count == count == 5
    np.testing.assert_allclose(events.t[:count], theirs.t_events[0], atol=1e-6)
    np.testing.assert_allclose(events.y[:count], theirs.y_events[0], atol=1e-5)
    assert np.isnan(events.t[count:]).all() and np.isnan(events.y[count:]).all()


def test_a_terminal_event_ends_its_example_alone(float64):
    """It falls from so many metres; who starts on the ground has no event there."""
    heights = np.array([[5.0, 0.0], [500.0, 0.0], [0.0, 3.0]])
    times = np.array([0.0, 0.5, 1.5, 3.0])

    def fall(t, y):
        return ops.stack([y[:, 1], 0 * y[:, 0] - 9.81], axis=-1)

    y, ground, statistics = run(fall, heights, times, event_fn=first, return_stats=True, **ACCURATE)
    expected = [np.sqrt(10 / 9.81), np.nan, 6 / 9.81]
    np.testing.assert_allclose(ground.t, expected, rtol=1e-9)
    np.testing.assert_allclose(ground.y[:, 1], [-9.81 * expected[0], np.nan, -3.0], rtol=1e-9)
    assert ground.count.tolist() == [1, 0, 1] and statistics.status.tolist() == [3, 0, 3]
    lands = np.nan_to_num(np.array(expected), nan=9)
    np.testing.assert_array_equal(np.isnan(y[..., 0]), times[:, None] > lands)
    start, speed = heights.T
    exact = start + speed * times[:, None] - 9.81 / 2 * times[:, None] ** 2
    known = ~np.isnan(y[..., 0])
    np.testing.assert_allclose(y[..., 0][known], exact[known], atol=1e-8)


@pytest.mark.parametrize("method", ["dopri5", "rodas5p"])
def test_events_have_derivatives(method, float64):
    """The time of flight sqrt(2 y / g), and the speed at its end, in y and g."""

    def flight(point):
        height, g = point

        def fall(t, y):
            return ops.stack([y[1], -g])

        y0 = ops.stack([height, ops.zeros_like(height)])
        _, ground = odeint(fall, y0, [0.0, 4.0], method, event_fn=lambda t, y: y[0], **ACCURATE)
        return ground.t + 3 * ground.y[1]

    point = [ops.convert_to_tensor(np.array(v)) for v in (20.0, 9.0)]
    gradient = compiled(lambda point: autodiff.value_and_grad(flight, point)[1])(point)
    time, speed = np.sqrt(2 * 20 / 9), np.sqrt(2 * 20 * 9)
    np.testing.assert_allclose(float(gradient[0]), time / 40 - 3 * speed / 40, rtol=1e-6)
    np.testing.assert_allclose(float(gradient[1]), -time / 18 - 3 * speed / 18, rtol=1e-6)


def test_second_derivatives_of_events_and_times(float64):
    """Of decay y = exp(-k t): its half-life ln 2 / k, y at the time k, and y in its last time."""

    def second(fn):
        def slope(k):
            return autodiff.value_and_grad(fn, k)[1]

        point = ops.convert_to_tensor(np.array(1.0))
        return float(compiled(lambda k: autodiff.value_and_grad(slope, k)[1])(point))

    def solved(k, event_fn):
        y0 = ops.ones((1,), "float64")
        return odeint(lambda t, y: -k * y, y0, [0.0, 5.0], event_fn=event_fn, **ACCURATE)[1]

    half = second(lambda k: solved(k, lambda t, y: y[0] - 0.5).t)
    np.testing.assert_allclose(half, 2 * np.log(2), rtol=1e-5)
    at_k = second(lambda k: solved(k, lambda t, y: t - k).y[0])  # exp(-k^2)
    np.testing.assert_allclose(at_k, 2 * np.exp(-1), rtol=1e-5)

    def at_end(t):
        times = ops.stack([0 * t, t / 2, t])
        y = odeint(lambda t, y: -t * y, ops.ones((1,), "float64"), times, **ACCURATE)
        return y[1, 0] + y[2, 0]  # exp(-t^2 / 8) + exp(-t^2 / 2)

    expected = (1 / 16 - 1 / 4) * np.exp(-1 / 8) + (1 - 1) * np.exp(-1 / 2)
    np.testing.assert_allclose(second(at_end), expected, rtol=1e-4)


def test_small_numbers_and_events_at_requested_times():
    """Products of values below 1e-20 are 0 in float32; a row at the event is not past it."""
    _, event = odeint(
        lambda t, y: -y,
        np.array([1e-21], "float32"),
        [0.0, 3.0],
        event_fn=lambda t, y: y[0] - 0.5e-21,
        atol=1e-34,
    )
    np.testing.assert_allclose(float(event.t), np.log(2), rtol=1e-4)
    for method in ("dopri5", "rodas5p"):
        for times in ([0.0, 0.5, 1.0], [0.0, 1.0, 2.0]):
            y, event = odeint(
                lambda t, y: 1 + 0 * y,
                np.zeros((1,), "float32"),
                times,
                method,
                event_fn=lambda t, y: t - 1.0,
            )
            expected = [t if t <= 1 else np.nan for t in times]
            np.testing.assert_allclose(ops.convert_to_numpy(y)[:, 0], expected, atol=1e-5)


def test_dense_solution_ends_at_a_terminal_event():
    fall = odeint(
        lambda t, y: ops.stack([y[1], 0 * y[1] - 9.81]),
        np.array([10.0, 0.0], "float32"),
        [0.0, 5.0],
        event_fn=lambda t, y: y[0],
        dense=True,
    )[2]
    np.testing.assert_allclose(float(fall(1.4)[0]), 10 - 9.81 / 2 * 1.4**2, rtol=1e-4)
    with pytest.raises(ValueError, match="within those of odeint"):
        fall([1.4, 1.5])


def test_dense_solution_between_and_backwards(float64):
    """In a nesting, for examples with steps of their own, compiled and not."""
    rates = np.array([[1.0], [5.0]])

    def field(t, y):
        return {"y": growing(t, y["y"]), "z": -rates * y["z"]}

    y0 = {"y": np.ones((2, 1)), "z": np.ones((2, 1))}
    ends, inside = [0.0, 2.0], np.linspace(0, 2, 23)
    _, solution, statistics = odeint(field, y0, ends, dense=True, return_stats=True, **ACCURATE)
    assert len(set(np.asarray(statistics.accepted).tolist())) == 2
    y = arrays(solution(inside))
    assert y["y"].shape == (23, 2, 1)
    np.testing.assert_allclose(y["y"][:, 1, 0], np.exp(np.sin(inside)), rtol=1e-7)
    np.testing.assert_allclose(y["z"][..., 0], np.exp(-np.outer(inside, rates)), atol=1e-7)
    np.testing.assert_allclose(
        arrays(solution(0.3))["z"][:, 0], np.exp(-0.3 * rates[:, 0]), atol=1e-7
    )

    def speed(t):
        solution = odeint(growing, np.ones((1, 1)), [2.0, 0.0], dense=True, **ACCURATE)[1]
        return autodiff.jvp(lambda t: solution(t)[:, 0, 0], t, ops.ones_like(t))

    value, slope = arrays(compiled(speed)(ops.convert_to_tensor(inside[1:-1])))
    exact = np.exp(np.sin(inside[1:-1]) - np.sin(2))
    np.testing.assert_allclose(value, exact, rtol=1e-7)
    np.testing.assert_allclose(slope, np.cos(inside[1:-1]) * exact, rtol=1e-4, atol=1e-5)


def test_dense_solution_of_an_example_that_does_not_arrive():
    def pole(t, y):
        return y * y

    def solved(y0):
        _, solution = odeint(pole, y0, [0.0, 2.0], dense=True, max_steps=60)
        return solution(ops.convert_to_tensor([0.5, 1.9]))

    y = arrays(compiled(solved)(np.array([[1.0], [0.25]], "float32")))[..., 0]
    np.testing.assert_allclose(y, [[2, 2 / 7], [np.nan, 1 / (4 - 1.9)]], rtol=1e-4)


def test_arguments_reach_the_event():
    _, event = odeint(
        lambda t, y, level: ops.ones_like(y),
        np.zeros((2, 1), "float32"),
        [0.0, 3.0],
        args=(np.array([1.0, 2.0], "float32"),),
        event_fn=lambda t, y, level: y[:, 0] - level,
    )
    np.testing.assert_allclose(event.t, [1, 2], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_fn": 3}, "event_fn=3; expected a function"),
        ({"event_fn": first, "direction": 2}, "direction=2; expected -1, 0 or 1"),
        ({"event_fn": first, "direction": True}, "direction=True; expected"),
        ({"event_fn": first, "terminal": 1}, "terminal=1; expected True or False"),
        ({"event_fn": first, "terminal": False, "max_events": 0}, "max_events=0"),
        ({"event_fn": lambda t, y: y[:1, 0]}, r"returns \(1,\); expected one number an example"),
        ({"event_fn": lambda t, y: y}, r"returns \(2, 3\); expected one number an example"),
        ({"event_fn": first, "method": "rk4", "steps": 3}, "with equal steps"),
        ({"dense": True, "method": "rk4", "steps": 3}, "with equal steps"),
        ({"dense": "yes"}, "dense='yes'; expected True or False"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        odeint(growing, np.ones((2, 3), "float32"), [0.0, 1.0], **arguments)


def test_dense_solution_refuses_other_times():
    _, solution = odeint(growing, np.ones((2, 1), "float32"), [0.0, 1.0], dense=True)
    for t, message in ((1.2, "within those of odeint"), (np.zeros((2, 2)), r"a scalar or \(T,\)")):
        with pytest.raises(ValueError, match=message):
            solution(t)


def test_a_symbolic_tensor_has_neither():
    with pytest.raises(ValueError, match="on a symbolic tensor"):
        odeint(growing, keras.Input((3,)), [0.0, 1.0], dense=True)
