"""ContinuousBlock: against residual networks and exact solutions, in every memory mode and loop."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops
from selection import some

from keras_pde import autodiff, integrators
from keras_pde.layers import ContinuousBlock, batch_norm
from keras_pde.layers.continuous import bases

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype("float32")


def convolutional(channels=3, dropout=0.0):
    """The rate of a pre-activation residual network."""
    parts = []
    for _ in range(2):
        parts += [batch_norm(), layers.ReLU()]
        parts += [layers.Conv2D(channels, 3, padding="same", use_bias=False)]
    return keras.Sequential(parts + [layers.Dropout(dropout, seed=3)] * (dropout > 0))


def dense(units=3, activation="tanh", **kwargs):
    return layers.Dense(units, activation=activation, bias_initializer="random_normal", **kwargs)


def built(rate, x=X, **kwargs):
    block = ContinuousBlock(rate, **kwargs)
    block.build(x.shape)
    return block


def numpy(values):
    return [ops.convert_to_numpy(v) for v in values]


def outcome(block, x, training=True, weights=None):
    """Loss, gradients of input and weights, and what is left in the state, of one pass."""
    point = [v.value for v in block.trainable_variables] if weights is None else weights
    fixed = [v.value for v in block.non_trainable_variables]
    shape = np.random.default_rng(1).normal(size=x.shape).astype(x.dtype)

    def loss(point):
        y, kept = block.stateless_call(point[:-1], fixed, point[-1], training=training)
        return ops.sum(y * shape), kept

    point = [*point, ops.convert_to_tensor(x)]
    (value, kept), gradients = autodiff.value_and_grad(loss, point, has_aux=True)
    return numpy([value, *gradients]), numpy(kept)


def same(first, second, rtol):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (np.abs(b).max() + 1e-12))


@pytest.mark.parametrize("unroll", [True, False])
def test_euler_steps_are_a_residual_network(unroll):
    block = built(convolutional(), steps=5, scheme="euler", horizon=5, unroll=unroll)
    config = block.rates[0].template.layer.get_config()
    copies = [keras.Sequential.from_config({**config, "name": f"unit_{k}"}) for k in range(5)]
    inputs = keras.Input(X.shape[1:])
    y = inputs
    for copy in copies:
        y = layers.Add()([y, copy(y)])
    stack = keras.Model(inputs, y)
    for k, copy in enumerate(copies):
        for variable, values in zip(copy.trainable_variables, block.rates[0].stacks, strict=True):
            variable.assign(values[k])
    ours, ours_kept = outcome(block, X)
    theirs, theirs_kept = outcome(stack, X)
    count = len(block.rates[0].stacks)
    grouped = [np.stack(theirs[1 + i : -1 : count]) for i in range(count)]
    same(ours, [theirs[0], *grouped, theirs[-1]], 1e-5)
    count = len(block.rates[0].cells)
    same(ours_kept, [np.stack(theirs_kept[i::count]) for i in range(count)], 1e-5)


BASES = {"constant": 4, "hat": 5, "discontinuous_linear": 8, "polynomial": 3}
ORDERS = some(
    itertools.product(BASES, ["euler", "heun", "rk4"]),
    fast=[("constant", "euler"), ("hat", "heun"), ("discontinuous_linear", "rk4")],
)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="float64")
@pytest.mark.parametrize(("basis", "scheme"), ORDERS)
def test_order_in_depth(basis, scheme):
    x = np.random.default_rng(0).normal(size=(8, 3))
    weights = None

    def final(scheme, steps):
        nonlocal weights
        block = built(
            dense(dtype="float64"),
            x,
            steps=steps,
            scheme=scheme,
            basis=basis,
            num_basis=BASES[basis],
            dtype="float64",
            unroll=False,
        )
        weights = weights or block.get_weights()
        block.set_weights(weights)
        return keras.Sequential([keras.Input((3,), dtype="float64"), block]).predict(x, verbose=0)

    exact, counts = final("dopri5", 128), np.array([32, 64, 128])
    errors = [np.linalg.norm(final(scheme, steps) - exact) for steps in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(integrators.get(scheme).order, abs=0.1)


MEMORY = ["store", "remat", "checkpoint"]


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("rate", ["convolutional", "dense"])
def test_memory_modes_agree(rate, unroll):
    results = []
    for memory in MEMORY:
        keras.utils.set_random_seed(0)
        body = convolutional(dropout=0.3) if rate == "convolutional" else dense()
        block = built(body, steps=7, scheme="heun", memory=memory, unroll=unroll, seed=2)
        results.append(outcome(block, X))
    for gradients, kept in results[1:]:
        same(gradients, results[0][0], 2e-5)
        same(kept, results[0][1], 2e-5)
    if rate == "convolutional":  # the moving statistics moved, and the noise advances
        before = numpy(block.non_trainable_variables)
        moved = [np.abs(a - b).max() > 0 for a, b in zip(before, results[0][1], strict=True)]
        assert all(moved)


def test_reversible_steps_give_the_gradients_of_stored_ones():
    results = []
    for memory in ("store", "reversible"):
        keras.utils.set_random_seed(0)
        block = built(dense(), steps=100, scheme="two_step_midpoint", num_basis=4, memory=memory)
        results.append(outcome(block, X)[0])
    same(results[1], results[0], 1e-4)


def test_dropout_differs_between_steps_and_calls():
    ones = layers.Dropout(0.5, seed=0)
    block = built(ones, np.ones((1, 4000)), steps=2, scheme="euler", horizon=2.0, seed=0)
    x = ops.ones((1, 4000))
    first, second = (ops.convert_to_numpy(block(x, training=True)) for _ in range(2))
    # y -> y + 2 y m_1, then + 2 y m_2: 1, 3 or 9; both steps with one mask would never give 3.
    assert set(np.unique(first)) == {1.0, 3.0, 9.0}
    assert np.mean(first == 3.0) == pytest.approx(0.5, abs=0.05)
    assert np.mean(first == second) < 0.6


def test_statistics_that_no_stage_visits_are_kept():
    block = built(batch_norm(), steps=2, scheme="euler", num_basis=4)
    before = numpy(block.rates[0].cells)
    block(ops.convert_to_tensor(X), training=True)
    after = numpy(block.rates[0].cells)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old[[1, 3]], new[[1, 3]])
        assert np.abs(old[[0, 2]] - new[[0, 2]]).min() > 0


def test_pieces_are_drawn_apart_at_the_scale_of_one_layer():
    rate = layers.Conv2D(16, 3, padding="same", kernel_initializer=keras.initializers.HeNormal(1))
    block = built(rate, np.zeros((1, 8, 8, 16)), steps=8)
    kernel = ops.convert_to_numpy(block.rates[0].stacks[0])
    assert np.std(kernel, axis=(1, 2, 3, 4)) == pytest.approx(np.sqrt(2 / 144), rel=0.1)
    flat = kernel.reshape(8, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(8)).max() < 0.1


def test_state_is_accumulated_in_float32():
    # In bfloat16 no step of 1/1000 would move 1.
    rate = layers.Dense(3, kernel_initializer="zeros", bias_initializer="ones")
    block = ContinuousBlock(
        rate, steps=1000, scheme="euler", num_basis=1, unroll=False, dtype="mixed_bfloat16"
    )
    y = block(ops.ones((1, 3)))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    np.testing.assert_array_equal(ops.convert_to_numpy(ops.cast(y, "float32")), 2.0)


def test_regularisers_count_once_and_on_the_coefficients():
    rate = dense(kernel_regularizer=keras.regularizers.L2(0.5))
    block = built(rate, steps=3)
    block(ops.convert_to_tensor(X))
    kernel = ops.convert_to_numpy(block.rates[0].stacks[0])
    # The integral over depth, so that a refinement does not change it.
    assert float(sum(block.losses)) == pytest.approx(0.5 * np.sum(kernel**2) / 3, rel=1e-5)


def test_constraints_hold_for_each_coefficient():
    rate = dense(kernel_constraint=keras.constraints.MaxNorm(0.5))
    block = built(rate, steps=2, basis="hat", num_basis=3)
    stack = block.rates[0].stacks[0]
    kernel = ops.convert_to_numpy(stack.constraint(stack.value))
    assert np.linalg.norm(kernel, axis=1).max() == pytest.approx(0.5, rel=1e-5)
    with pytest.raises(ValueError, match="whose coefficients are no weights"):
        built(rate, steps=3, basis="fourier")


# Without jit JAX would run operation by operation.
COMPILED = itertools.product([True] if BACKEND == "jax" else [False, True], [False, True])


@pytest.mark.parametrize(
    ("jit_compile", "unroll"), some(COMPILED, fast=[(True, False), (BACKEND == "jax", True)])
)
def test_fit_and_batches_of_any_size(jit_compile, unroll, tmp_path):
    rate = keras.Sequential([dense(4), layers.BatchNormalization()])
    inputs = keras.Input((4,))
    block = ContinuousBlock(rate, steps=4, scheme="heun", unroll=unroll)
    model = keras.Model(inputs, layers.Dense(1)(block(inputs)))
    model.compile(keras.optimizers.Adam(0.03), "mse", jit_compile=jit_compile)
    model.optimizer.build(model.trainable_variables)
    x = np.random.default_rng(0).normal(size=(70, 4)).astype("float32")
    y = np.sin(x.sum(1, keepdims=True))
    history = model.fit(x, y, batch_size=32, epochs=6, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x[:5], verbose=0), model.predict(x[:5], verbose=0))


def test_subclassed_rates():
    block = built(_Scaled(), steps=3, scheme="euler")
    assert [v.shape for v in block.trainable_variables] == [(3, 3)]


@keras.saving.register_keras_serializable("test_continuous_block")
class _Scaled(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return -self.scale * x


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = ContinuousBlock(keras.Sequential([dense(), layers.BatchNormalization()]), 2)

    def call(self, x):
        return self.block(x)


def test_subclassed_models_are_built_by_fit():
    model = Subclassed()
    model.compile("sgd", "mse")
    x = X[:, 0, 0]
    assert np.isfinite(model.fit(x, x, verbose=0).history["loss"]).all()
    first, second = ops.convert_to_numpy(model.block.rates[0].stacks[0])
    assert np.abs(first - second).max() > 0.01


def test_warns_where_a_grid_cuts_elements():
    with pytest.warns(UserWarning, match="6 steps cut the 4 elements"):
        built(dense(), steps=6, num_basis=4)
    built(dense(), steps=6, num_basis=4, scheme="euler")  # of order 1 anyway
    assert bases.cuts_elements(bases.get("hat"), 4, 6) is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps=0; expected an integer, at least 1"),
        ({"steps": -2}, "at least 1"),
        ({"steps": 2.5}, "an integer"),
        ({"steps": "four"}, "an integer"),
        ({"steps": 4, "horizon": -1.0}, "above 0"),
        ({"steps": 4, "horizon": float("nan")}, "a finite number above 0"),
        ({"steps": 4, "scheme": "rk5"}, "Did you mean"),
        ({"steps": 4, "basis": "hats"}, "Did you mean 'hat'"),
        ({"steps": 4, "basis": "fourier", "num_basis": 5}, "at least as many steps"),
        ({"steps": 4, "num_basis": 0}, "num_basis=0"),
        ({"steps": 4, "memory": "reversible"}, "cannot be undone"),
        ({"steps": 4, "memory": "all"}, "unknown memory mode"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContinuousBlock(dense(), **arguments)


def test_bad_rates_are_refused():
    with pytest.raises(ValueError, match="keeps the shape"):
        built(dense(5), steps=2)
    with pytest.raises(ValueError, match="which is for 2 fields"):
        built(dense(), steps=2, scheme="verlet")
    with pytest.raises(ValueError, match="expected a Keras layer"):
        ContinuousBlock(lambda x: -x, steps=2)
    with pytest.raises(ValueError, match="not consistent"):
        ContinuousBlock(dense(), steps=2, scheme={"name": "mine", "order": 1, "a": [[]], "b": [2]})
