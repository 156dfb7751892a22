"""Rates of the user's own in a ContinuousBlock: classes that Keras does not know, time, masks."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_pde import integrators, models
from keras_pde.layers import ContinuousBlock
from keras_pde.layers.continuous.loops import MEMORY

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5, 3)).astype("float32")


def values(variables):
    return [ops.convert_to_numpy(v) for v in variables]


class Inner(layers.Layer):
    """Not registered, with a layer inside that is built when it is called."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units, "tanh")

    def call(self, y):
        return self.dense(y)


class Strict(layers.Layer):
    """Takes less than its configuration gives."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.dense = scale, layers.Dense(3)

    def call(self, y):
        return self.scale * self.dense(y)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


def test_a_class_that_takes_less_than_its_configuration_says_so():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, ContinuousBlock(Strict(0.5), 2, "euler")(inputs))
    with pytest.raises(ValueError, match=r"by \*\*kwargs those of Keras"):
        models.refine(model)


def without_config(scale):
    """Around a function, of which there is no configuration."""

    class Closure(layers.Layer):
        def __init__(self, function):
            super().__init__()
            self.function, self.dense = function, layers.Dense(3)

        def call(self, y):
            return self.function(self.dense(y))

    return Closure(lambda z: ops.tanh(scale * z))


@pytest.mark.parametrize("make", [Inner, lambda: without_config(2.0)])
def test_classes_that_keras_does_not_know(make):
    block = ContinuousBlock(make(), 2, "euler", num_basis=2)
    first, second = values((block(X), block(X)))
    np.testing.assert_array_equal(first, second)
    kernel, bias = values(block.trainable_variables)
    assert kernel.shape == (2, 3, 3)
    drawn_apart = np.abs(kernel[0] - kernel[1]).max() > 0.01
    assert drawn_apart == (make is Inner)  # the other is used itself
    y, scale = X.astype("float64"), 1.0 if make is Inner else 2.0
    for n in range(2):
        y = y + 0.5 * np.tanh(scale * (y @ kernel[n] + bias[n]))
    np.testing.assert_allclose(first, y, atol=1e-5)


def test_a_model_with_one_becomes_deeper_and_is_loaded(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, ContinuousBlock(Inner(), 2, "euler", num_basis=2)(inputs))
    finer = models.refine(model)
    assert finer.layers[1].steps == 4
    np.testing.assert_allclose(
        *values((models.with_solver(finer, steps=2)(X[:, 0]), model(X[:, 0]))), atol=1e-5
    )
    model.layers[1].change_depth(steps=4)
    model.save(tmp_path / "own.keras")
    again = keras.models.load_model(tmp_path / "own.keras", custom_objects={"Inner": Inner})
    np.testing.assert_allclose(*values((again(X[:, 0]), model(X[:, 0]))), atol=1e-6)


# Weights of the rate


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("basis", ["constant", "polynomial"])
def test_coefficients_from_the_weights_of_the_rate(built, basis):
    rate = Inner()
    if built:
        rate(X)
        rate.set_weights([RNG.normal(size=w.shape) for w in rate.get_weights()])
    block = ContinuousBlock(rate, 2, "euler", basis, num_basis=2, initial="rate")
    found = values([block(X)])[0]
    kernel, bias = rate.get_weights()
    y = X
    for _ in range(2):
        y = y + 0.5 * np.tanh(y @ kernel + bias)
    np.testing.assert_allclose(found, y, atol=1e-5)
    kept = [w.copy() for w in rate.get_weights()]
    block.set_weights([0 * w for w in block.get_weights()])
    for a, b in zip(rate.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(a, b)  # the rate itself is left alone


# Time


class Turning(layers.Layer):
    """y' = cos(t) (w y + b)."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, t, y):
        return ops.cos(t) * self.dense(y)


@pytest.mark.parametrize("memory", ["store", "remat"])
@pytest.mark.parametrize("unroll", [True, False])
def test_a_rate_of_time_and_state(unroll, memory):
    """y = y0 exp(w sin t), by a scheme of order four."""
    if BACKEND == "torch" and not unroll:
        pytest.skip("loops are written out there")
    block = ContinuousBlock(
        Turning(), 16, "rk4", num_basis=1, horizon=2.0, unroll=unroll, memory=memory
    )
    block(X)
    w = -0.7
    block.set_weights([w * np.eye(3)[None], np.zeros((1, 3))])
    np.testing.assert_allclose(values([block(X)])[0], X * np.exp(w * np.sin(2.0)), rtol=1e-5)


def test_time_is_that_of_each_stage():
    """y' = cos(t): the scheme's quadrature at its own nodes."""

    class Clock(layers.Layer):
        def call(self, time, y):
            return ops.cos(time) + 0 * y

    for name in ("euler", "heun", "rk4", "midpoint"):
        scheme = integrators.get(name)
        block = ContinuousBlock(Clock(), 3, name, num_basis=1, horizon=1.5)
        expected, h = 0.0, 0.5
        for n in range(3):
            nodes = np.array([float(c) for c in scheme.nodes])
            weights = np.array([float(b) for b in scheme.b])
            expected += h * np.sum(weights * np.cos(h * (n + nodes)))
        np.testing.assert_allclose(values([block(X)])[0], X + expected, rtol=1e-5, atol=1e-6)


# Masks


class Centred(layers.Layer):
    """Minus the mean over the words that count."""

    def call(self, y, mask=None):
        if mask is None:
            return y - ops.mean(y, axis=1, keepdims=True)
        weight = ops.cast(mask, y.dtype)[..., None]
        return y - ops.sum(weight * y, 1, keepdims=True) / ops.sum(weight, 1, keepdims=True)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("unroll", [True, False])
def test_masks_reach_rates_that_take_them(unroll, memory):
    if BACKEND == "torch" and not unroll:
        pytest.skip("loops are written out there")
    reversible = [n for n in integrators.names(1) if integrators.get(n).reversible]
    scheme = reversible[0] if memory == "reversible" else "euler"
    block = ContinuousBlock(Centred(), 2, scheme, num_basis=1, memory=memory, unroll=unroll)
    x = X.copy()
    x[:2, 3:] = 0
    found = values([block(layers.Masking()(ops.convert_to_tensor(x)))])[0]
    short = values([block(ops.convert_to_tensor(x[:2, :3]))])[0]
    np.testing.assert_allclose(found[:2, :3], short, atol=1e-5)
    np.testing.assert_allclose(found[2:], values([block(x[2:])])[0], atol=1e-5)

    model = keras.Sequential([keras.Input((5, 3)), layers.Masking(), block, layers.Dense(1)])
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit(x, x[..., :1], verbose=0).history["loss"]).all()


# Keras 3.16 says so of its own recurrent layers, which use masks.
@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_masks_reach_the_layers_of_a_sequential_rate():
    rate = keras.Sequential([layers.Dense(3), layers.SimpleRNN(3, return_sequences=True)])
    block = ContinuousBlock(rate, 2, "euler", num_basis=1, unroll=True)
    x = X.copy()
    x[:, 3:] = 0
    found = values([block(layers.Masking()(ops.convert_to_tensor(x)))])[0]
    short = values([block(ops.convert_to_tensor(x[:, :3]))])[0]
    np.testing.assert_allclose(found[:, :3], short, atol=1e-5)


# Freezing


def test_a_block_is_frozen_and_later_not():
    inputs = keras.Input((3,))
    block = ContinuousBlock(layers.Dense(3), 2, num_basis=2, trainable=False)
    model = keras.Model(inputs, layers.Dense(1)(block(inputs)))
    counts = []
    for trainable in (False, True, False):
        block.trainable = trainable
        model.compile("sgd", "mse")
        before = values(block.weights)
        model.fit(X[:, 0], X[:, 0, :1], verbose=0)
        moved = any(np.any(a != b) for a, b in zip(before, values(block.weights), strict=True))
        counts.append(len(model.trainable_variables))
        assert moved == trainable
    assert counts == [2, 4, 2]


# What is refused, and what once failed


class Built(layers.Layer):
    """Of time and state, with a `build` of one shape, that of the state."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones")

    def call(self, t, y):
        return -self.scale * y


class Counter(layers.Layer):
    def build(self, input_shape):
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False, initializer="zeros")

    def call(self, y):
        return -y


def test_a_rate_of_time_is_built_by_the_shape_of_the_state():
    block = ContinuousBlock(Built(), 8, "rk4", num_basis=1)
    np.testing.assert_allclose(values([block(X)])[0], X * np.exp(-1), rtol=1e-5)
    assert models.multiply_adds(keras.Sequential([keras.Input((5, 3)), layers.Dense(3)])) > 0


def test_integers_in_the_state_of_a_rate_are_refused():
    with pytest.raises(ValueError, match="a state of integers"):
        ContinuousBlock(Counter(), 2, num_basis=1)(X)


def test_a_block_from_trained_weights_within_a_model_that_fit_builds():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.block = ContinuousBlock(layers.Dense(3), 2, num_basis=2, initial="rate")

        def call(self, x):
            return self.block(x)

    model = Net()
    model.compile("sgd", "mse")
    model.fit(X[:, 0], X[:, 0], verbose=0)
    kernel = values(model.block.trainable_variables)[0]
    assert kernel.shape == (2, 3, 3)


def test_what_cannot_be_copied_is_refused():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, ContinuousBlock(without_config(1.0), 2, num_basis=1)(inputs))
    with pytest.raises(ValueError, match="cannot be copied"):
        models.refine(model)
