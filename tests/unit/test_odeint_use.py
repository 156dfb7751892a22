"""The solver in use: gradients, layers and compiled code, and what is refused."""

import time

import keras
import numpy as np
import pytest
from keras import ops
from odeint_cases import BACKEND, compiled, growing, oscillator, solve

from keras_pde import autodiff
from keras_pde.odeint import odeint


def slopes_of(loss, point):
    """The gradient of a function of a list of arrays, as arrays."""
    gradient = compiled(lambda point: autodiff.value_and_grad(loss, point)[1])(point)
    return [ops.convert_to_numpy(part) for part in gradient]


GRADIENT_CASES = [
    pytest.param({"rtol": 1e-8, "atol": 1e-9}, id="dopri5"),
    pytest.param({"method": "rk4", "steps": 40}, id="rk4"),
]


@pytest.mark.parametrize("kwargs", GRADIENT_CASES)
def test_gradients_of_an_analytical_solution(kwargs, float64):
    """y' = a y + cos t, to y0, t and the tensor a that func closes over."""

    def solution(xp, y0, t, a):
        def forced(t):
            return (xp.sin(t) - a * xp.cos(t)) / (1 + a * a)

        t = xp.reshape(t, (-1, 1))
        return (y0[:, 0] - forced(t[0])) * xp.exp(a * (t - t[0])) + forced(t)

    weights = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(3, 2)))

    def ours(point):
        y0, t, a = point
        y = odeint(lambda t, y: a * y + ops.cos(t), y0, t, **kwargs)
        return ops.sum(weights * y[:, :, 0])

    def exact(point):
        return ops.sum(weights * solution(ops, *point))

    point = [np.array([[1.0], [-0.5]]), np.array([0.2, 0.9, 1.7]), np.array(-0.6)]
    point = [ops.convert_to_tensor(p) for p in point]
    for mine, theirs in zip(slopes_of(ours, point), slopes_of(exact, point), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=2e-6)


def test_gradients_are_finite_differences(float64):
    rng = np.random.default_rng(0)
    point = [rng.normal(size=shape) for shape in ((3, 4), (4, 4))]

    def loss(point):
        y = odeint(
            lambda t, y: ops.tanh(y @ point[1]), point[0], [0.0, 0.4, 1.0], "kutta3", steps=3
        )
        return ops.sum(ops.sin(y))

    value = compiled(loss)
    for i, gradient in enumerate(slopes_of(loss, [ops.convert_to_tensor(p) for p in point])):
        way = rng.normal(size=point[i].shape)
        ends = [
            float(value([p + s * 1e-5 * way if i == j else p for j, p in enumerate(point)]))
            for s in (1, -1)
        ]
        assert (gradient * way).sum() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-7)


def test_rejected_steps_leave_no_trace_in_the_gradient(float64):
    """Long first stages fall below 0, where the logarithm is not a number."""
    adaptive = {"method": "bosh3", "rtol": 1e-3, "atol": 1e-3}
    lowest = []

    def loss(point, watch=False, **kwargs):
        y0, a = point

        def valley(t, y):
            if watch:
                lowest.append(float(ops.min(y)))
            return 2 * a * (t - 1) + 1e-3 * ops.log(y)

        return ops.sum(odeint(valley, y0, [0.0, 3.0], **kwargs)[-1])

    a = np.linspace(0.5, 1.5, 16)[:, None]
    point = [ops.convert_to_tensor(a + 0.1), ops.convert_to_tensor(a)]
    if BACKEND != "jax":  # which has no values in its loops
        loss(point, watch=True, **adaptive)
        assert min(lowest) < 0
    mine = slopes_of(lambda point: loss(point, **adaptive), point)
    exact = slopes_of(lambda point: loss(point, method="rk4", steps=300), point)
    for gradient, expected in zip(mine, exact, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=2e-3)


class Flow(keras.layers.Layer):
    """Features carried along a field for a time of 1, as users would write it."""

    def __init__(self, **kwargs):
        super().__init__()
        self.kwargs = kwargs
        self.dense = keras.layers.Dense(6, activation="tanh")

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x):
        def field(t, y):
            return ops.multiply(self.dense(y), ops.cos(t))

        return odeint(field, x, [0.0, 1.0], **self.kwargs)[-1]


@pytest.mark.parametrize(
    ("jit_compile", "policy", "kwargs"),
    [
        (False, "float32", {"method": "bosh3", "rtol": 1e-3, "max_steps": 16}),
        (True, "mixed_bfloat16", {"method": "heun", "steps": 4}),
    ],
)
def test_a_layer_of_ones_own_trains(jit_compile, policy, kwargs):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        layer = Flow(**kwargs)
        model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(1, dtype="float32")])
    finally:
        keras.config.set_dtype_policy(before)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6)).astype("float32")
    y = np.sin(x[:, :1] + x[:, 1:2])
    first = [ops.convert_to_numpy(w) for w in layer.trainable_variables]
    model.compile(
        keras.optimizers.Adam(0.03),
        "mse",
        jit_compile=BACKEND == "jax" or (jit_compile and BACKEND != "torch"),
    )
    losses = model.fit(x, y, epochs=8, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    for old, new in zip(first, layer.trainable_variables, strict=True):
        assert abs(ops.convert_to_numpy(new) - old).max() > 1e-3


def test_half_precision_is_summed_in_single():
    y0 = ops.ones((2, 3), "bfloat16")
    types = set()

    def rising(t, y):
        types.add(keras.backend.standardize_dtype(y.dtype))
        return ops.ones_like(y)

    y = compiled(lambda y0: odeint(rising, y0, [0.0, 1.0], "euler", steps=1000))(y0)
    assert types == {"bfloat16"} and keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    # A thousandth is less than half of what bfloat16 resolves at 1.
    np.testing.assert_array_equal(ops.convert_to_numpy(ops.cast(y[-1], "float32")), 2.0)


def test_nestings_are_solved_as_one(float64):
    """The error of an example is that of all its tensors."""
    rng = np.random.default_rng(0)
    y0 = {"a": rng.normal(size=(3, 2, 2)), "b": (rng.normal(size=(3,)), rng.normal(size=(3, 4)))}

    def func(t, y):
        assert t.shape == (3, 1, 1)
        return keras.tree.map_structure(lambda part: ops.sin(3 * part), y)

    rows = np.concatenate([y0["a"].reshape(3, 4), y0["b"][0][:, None], y0["b"][1]], axis=1)
    t = [0.0, 0.3, 1.0]
    for kwargs in ({"method": "bosh3"}, {"method": "heun", "steps": 3}):
        nested, cost = solve(func, y0, t, **kwargs)
        flat, cost_flat = solve(lambda t, y: ops.sin(3 * y), rows, t, **kwargs)
        assert nested["a"].shape == (3, 3, 2, 2) and nested["b"][0].shape == (3, 3)
        np.testing.assert_allclose(nested["a"].reshape(3, 3, 4), flat[..., :4], rtol=1e-12)
        np.testing.assert_allclose(nested["b"][0], flat[..., 4], rtol=1e-12)
        np.testing.assert_allclose(nested["b"][1], flat[..., 5:], rtol=1e-12)
        np.testing.assert_array_equal(cost.evaluations, cost_flat.evaluations)


def test_program_does_not_grow_with_the_steps():
    def size(steps):
        def gradient(y0):
            def loss(y0):
                return ops.sum(odeint(growing, y0, [0.0, 1.0, 2.0], "rk4", steps=steps))

            return autodiff.value_and_grad(loss, y0)[1]

        if BACKEND == "jax":
            import jax

            return str(jax.make_jaxpr(gradient)(np.ones((2, 3), "float32"))).count(" = ")
        import tensorflow as tf

        graph = tf.function(gradient).get_concrete_function(tf.TensorSpec((None, 3))).graph
        graph = graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    if BACKEND == "torch":
        pytest.skip("it compiles nothing")
    begin = time.process_time()
    assert size(4) == size(64)
    assert time.process_time() - begin < 2 * 5


@pytest.mark.skipif(BACKEND == "torch", reason="it compiles nothing")
def test_compiled_code_takes_times_and_any_batch_as_arguments():
    """With XLA too, and its gradient."""

    def rotated(y0, t):
        angles = ops.reshape(t - t[0], (-1, 1))
        c, s = ops.cos(angles), ops.sin(angles)
        return ops.stack([c * y0[:, 0] + s * y0[:, 1], c * y0[:, 1] - s * y0[:, 0]], axis=-1)

    def gradient(y0, t, solution=None):
        def loss(point):
            y = (solution or (lambda *p: odeint(oscillator, *p, "bosh3", 1e-5, max_steps=64)))(
                *point
            )
            return ops.sum(ops.square(y[1]) * y[2])

        return autodiff.value_and_grad(loss, [y0, t])

    if BACKEND == "tensorflow":
        import tensorflow as tf

        specs = [tf.TensorSpec((None, 2)), tf.TensorSpec((3,))]
        program = tf.function(gradient, input_signature=specs, jit_compile=True)
    else:
        program = compiled(gradient)
    t = np.array([0.5, 1.0, 1.8], "float32")
    y0 = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
    exact = gradient(ops.convert_to_tensor(y0), ops.convert_to_tensor(t), rotated)
    for mine, theirs in zip(*map(keras.tree.flatten, (program(y0, t), exact)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)
    assert np.isnan(program(y0, np.array([0.5, 1.8, 1.0], "float32"))[0])


@pytest.mark.skipif(BACKEND == "tensorflow", reason="refused there, see below")
@pytest.mark.parametrize("kwargs", [{"method": "bosh3", "max_steps": 64}, {"steps": 4}])
def test_memory_modes_have_the_same_gradient(kwargs):
    weights = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(4, 4)), "float32")

    def loss(weights, memory):
        y0 = ops.ones((3, 4))
        y = odeint(lambda t, y: ops.tanh(y @ weights), y0, [0.0, 1.0], memory=memory, **kwargs)
        return ops.sum(ops.sin(y))

    store, remat = (
        slopes_of(lambda w, mode=mode: loss(w[0], mode), [weights])[0]
        for mode in ("store", "remat")
    )
    np.testing.assert_allclose(store, remat, rtol=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="the others leave their loops early")
def test_steps_that_are_not_made_take_little_memory():
    def memory(max_steps):
        def loss(y0):
            return ops.sum(odeint(oscillator, y0, [0.0, 1.0], "bosh3", max_steps=max_steps))

        program = compiled(lambda y0: autodiff.value_and_grad(loss, y0)[1])
        lowered = program.lower(np.ones((1000, 2), "float32"))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert memory(1024) < 6 * memory(16)


def explosion(t, y):
    """y' = y^2, which is infinite at 1 / y(0)."""
    return y * y


def test_examples_that_do_not_arrive_are_refused():
    y0 = np.array([[0.2], [1.0], [0.1], [1.0]], "float32")
    with pytest.raises(ValueError, match=r"2 of 4 examples do not arrive at t = 2: 1 \(at t = 1.0"):
        odeint(explosion, y0, [0.0, 2.0], "bosh3", rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match=r"0 \(at t = .*max_steps=7.*raise max_steps"):
        odeint(
            lambda t, y: 30 * oscillator(t, y), np.ones((1, 2)), [0.0, 5.0], "bosh3", max_steps=7
        )
    with pytest.raises(ValueError, match=r"at t = -3.*time cannot resolve.*look for NaN"):
        odeint(lambda t, y: y * np.nan, y0, [-3.0, 2.0], "bosh3")


@pytest.mark.skipif(BACKEND == "torch", reason="it compiles nothing")
def test_compiled_code_marks_what_does_not_arrive():
    y0 = np.array([[0.2], [1.0]], "float32")
    y, statistics = solve(explosion, y0, [0.0, 0.5, 0.9, 2.0], max_steps=100)
    np.testing.assert_allclose(y[:, 0, 0], 0.2 / (1 - 0.2 * np.array([0, 0.5, 0.9, 2])), rtol=1e-4)
    np.testing.assert_allclose(y[:3, 1, 0], 1 / (1 - np.array([0, 0.5, 0.9])), rtol=1e-3)
    assert np.isnan(y[3, 1, 0]) and statistics.status.tolist() == [0, 2]
    y, statistics = solve(explosion, y0, [0.0, 0.9, 2.0], max_steps=6)
    assert statistics.status.tolist() == [0, 1]
    assert (statistics.accepted + statistics.rejected)[1] == 6


Y0, T = np.ones((2, 3), "float32"), [0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": [0.0, 1.0, 0.5]}, "all increasing or all decreasing"),
        ({"t": [0.0, 1.0, 1.0]}, "drop those that are equal"),
        ({"t": [0.0, np.inf]}, "finite times"),
        ({"t": [0.0]}, "at least two"),
        ({"t": 1.0}, r"Received t of shape \(\)"),
        ({"y0": np.ones((2, 3), "int32")}, "type int32; expected floats"),
        ({"y0": np.ones((2, 3), "complex64")}, "type complex64; expected floats"),
        ({"y0": np.float32(1.0), "batched": True}, r"expected \(batch, ...\)"),
        ({"y0": {}}, "at least one tensor"),
        ({"y0": [Y0, Y0[:1]]}, "the same first axis"),
        ({"method": "dopri"}, "Did you mean 'dopri5'"),
        ({"method": "rk4"}, "cannot estimate its error"),
        ({"method": "verlet", "steps": 2}, "unknown method"),
        ({"rtol": 0.0}, "expected rtol of at least 1.2e-07"),
        ({"rtol": 1e-8}, "in higher precision"),
        ({"y0": ops.ones((2, 3), "bfloat16")}, "type bfloat16; expected rtol of at least 0.0078"),
        ({"atol": -1e-3}, "atol above 0"),
        ({"atol": np.nan}, "atol above 0"),
        ({"max_steps": 0}, "max_steps=0; expected an integer"),
        ({"steps": 2, "step_size": 0.1}, "expected one of them"),
        ({"steps": 1.5}, "steps=1.5; expected an integer"),
        ({"steps": True}, "steps=True; expected an integer"),
        ({"step_size": 0.0}, "a finite number above 0"),
        ({"memory": "adjoint"}, "unknown memory mode 'adjoint'"),
        ({"func": lambda t, y: y[:, :2]}, r"slope from func of shape \(2, 2\)"),
        ({"func": lambda t, y: y[:1]}, r"The times that func gets are of shape \(batch, 1\)"),
        ({"func": lambda t, y: ops.cast(y, "int32")}, "type int32"),
        ({"func": lambda t, y: (y,)}, "nested differently"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        odeint(**{"func": lambda t, y: -y, "y0": Y0, "t": T, **arguments})


@pytest.mark.skipif(BACKEND == "torch", reason="it compiles nothing")
def test_step_size_needs_times():
    with pytest.raises(ValueError, match="expected steps=, or t as a NumPy array"):
        compiled(lambda t: odeint(explosion, Y0, t, step_size=0.1))(ops.convert_to_tensor(T))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others can")
def test_memory_cannot_be_saved_on_tensorflow():
    with pytest.raises(ValueError, match="cannot compute again what func closes over"):
        odeint(explosion, Y0, T, memory="remat")
