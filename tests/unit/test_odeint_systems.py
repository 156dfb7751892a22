"""One system with one clock, and examples that have nothing to do with each other."""

import numpy as np
import pytest
from keras import ops
from odeint_cases import BACKEND, compiled
from scipy.integrate import solve_ivp

from keras_pde.odeint import odeint

TIMES = [0.0, 4.0, 10.0]


def oscillator(t, y):
    return ops.stack([y[1], -10 * y[0]])


def heat(t, y):
    """u' = u'' on a grid with closed ends: the sum stays."""
    jumps, end = y[1:] - y[:-1], ops.zeros((1, *y.shape[1:]), y.dtype)
    return 100.0 * (ops.concatenate([jumps, end]) - ops.concatenate([end, jumps]))


def bump(count=10):
    return np.exp(-10 * np.linspace(-1, 1, count) ** 2).astype("float32")


def reference(func, y0, t):
    def field(t, y):
        return np.asarray(ops.convert_to_numpy(func(t, ops.convert_to_tensor(y))))

    return solve_ivp(field, (t[0], t[-1]), y0, t_eval=t, rtol=1e-8, atol=1e-9).y.T


@pytest.mark.parametrize("y0", [[1.0, 0.0], (1, 0.0), np.array([1.0, 0.0], "float32")])
def test_a_vector_is_one_system(y0):
    y, statistics = odeint(oscillator, y0, TIMES, atol=1e-7, return_stats=True)
    exact = [[np.cos(w), -np.sqrt(10) * np.sin(w)] for w in np.sqrt(10) * np.array(TIMES)]
    np.testing.assert_allclose(ops.convert_to_numpy(y), exact, atol=2e-3)
    assert int(statistics.status) == 0 and len(statistics.accepted.shape) == 0


@pytest.mark.parametrize(
    "options", [{"rtol": 1e-6}, {"method": "rk4", "steps": 40}], ids=["adaptive", "steps"]
)
@pytest.mark.parametrize("columns", [(), (1,)])
def test_a_grid_keeps_its_heat(columns, options):
    u = bump().reshape(-1, *columns)
    y = ops.convert_to_numpy(odeint(heat, u, [0.0, 0.01, 0.03], batched=False, **options))
    assert y.shape == (3, *u.shape)
    np.testing.assert_allclose(y.sum(axis=1), np.broadcast_to(u.sum(), (3, *columns)), rtol=1e-5)
    expected = reference(heat, bump(), [0.0, 0.01, 0.03])
    np.testing.assert_allclose(y.reshape(3, -1), expected, atol=1e-4)


def test_the_time_of_one_system_is_a_scalar_and_nestings_are_systems_too():
    def field(t, y):
        assert tuple(t.shape) == ()
        return {"x": y["v"], "v": -y["x"] + ops.cos(2 * t) * y["s"]}, {}

    y0 = {"x": np.float32(1.0), "v": np.float32(0.0), "s": np.float32(0.5)}
    y = odeint(lambda t, y: {**field(t, y)[0], "s": 0 * y["s"]}, y0, [0.0, 1.0])
    x = ops.convert_to_numpy(y["x"])
    exact = 7 / 6 * np.cos(1.0) - np.cos(2.0) / 6
    assert x.shape == (2,) and x[1] == pytest.approx(exact, abs=1e-4)


@pytest.mark.skipif(BACKEND == "torch", reason="it compiles nothing")
def test_one_system_is_compiled_and_differentiated():
    from keras_pde.autodiff import value_and_grad

    def end(y0):
        return odeint(oscillator, y0, [0.0, 1.0], batched=False)[-1, 0]

    gradient = compiled(lambda y0: value_and_grad(end, y0)[1])(ops.ones((2,)))
    w = np.sqrt(10)
    expected = [np.cos(w), np.sin(w) / w]
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), expected, atol=1e-3)


@pytest.mark.parametrize("batched", [None, True])
def test_rows_that_act_on_each_other_are_refused(batched):
    """Each would have its own clock, and most of the heat would be lost."""
    with pytest.raises(ValueError, match=r"rows of y0 act on each other.*batched=False"):
        odeint(heat, bump()[:, None], [0.0, 0.01], batched=batched)
    # With equal steps all rows have the same clock.
    y = ops.convert_to_numpy(odeint(heat, bump()[:, None], [0.0, 0.01], "rk4", steps=40))
    np.testing.assert_allclose(y.sum(axis=1), bump().sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "field",
    [
        lambda t, y: ops.concatenate([y[1:] - y[:-1], -y[-1:]]),  # each row on the one before
        lambda t, y: t * ops.mean(y, axis=0, keepdims=True) - y,  # not at the first time
    ],
)
def test_rows_that_act_on_few_or_later_are_refused(field):
    with pytest.raises(ValueError, match="rows of y0 act on each other"):
        odeint(field, np.array([[1.0], [2.0], [3.0]], "float32"), [0.0, 1.0])


def test_examples_that_do_not_are_no_system():
    rng = np.random.default_rng(0)
    y0 = rng.normal(size=(4, 3)).astype("float32")
    matrix = rng.normal(size=(3, 3)).astype("float32")
    y = odeint(lambda t, y: ops.tanh(y @ matrix), y0, [0.0, 1.0])
    alone = odeint(lambda t, y: ops.tanh(y @ matrix), y0[:1], [0.0, 1.0])
    np.testing.assert_allclose(
        ops.convert_to_numpy(y)[:, :1], ops.convert_to_numpy(alone), rtol=1e-5
    )
    # Of what is random, nothing can be said.
    odeint(
        lambda t, y: -y + 1e-9 * rng.normal(size=(4, 3)).astype("float32"),
        y0,
        [0.0, 0.1],
        atol=1e-3,
        rtol=1e-3,
    )


@pytest.mark.parametrize("batched", ["yes", 1])
def test_what_batched_is_not(batched):
    with pytest.raises(ValueError, match="expected True, False or None"):
        odeint(oscillator, np.ones((2, 2)), TIMES, batched=batched)


def test_lists_of_lists_are_matrices():
    found, expected = (
        ops.convert_to_numpy(odeint(lambda t, y: -y, y0, [0.0, 1.0]))
        for y0 in ([[1.0, 2.0], [3, 4.0]], ops.convert_to_tensor([[1.0, 2.0], [3.0, 4.0]]))
    )
    np.testing.assert_array_equal(found, expected)
