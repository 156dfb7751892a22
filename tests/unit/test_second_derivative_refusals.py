"""Layers of the user's own: penalised where second derivatives are right, refused where not."""

import keras
import numpy as np
import pytest
from derivative_cases import IMAGES, ON_TENSORFLOW
from keras import layers, ops

import keras_pde as kp
from keras_pde.autodiff import value_and_grad

RNG = np.random.default_rng(0)


class Stopped(layers.Layer):
    """A normalization with the gradient stopped that TensorFlow's moments stop."""

    def call(self, x):
        mean = ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(x - ops.stop_gradient(mean)), axis=-1, keepdims=True)
        return (x - mean) / ops.sqrt(variance + 1e-3)


class Enlarged(layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.raw_ops.ResizeBilinear(images=x, size=[12, 12])


class Responses(layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.nn.local_response_normalization(x)


class Harmless(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(3, "relu")

    def call(self, x):
        return self.inner(x)


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.parts = [layers.Conv2D(3, 3, activation="relu"), layer, layers.Flatten()]
        self.head = layers.Dense(3)

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return self.head(x)


def functional(layer):
    parts = [layers.Conv2D(3, 3, activation="relu"), layer, layers.Flatten(), layers.Dense(3)]
    return keras.Sequential([keras.Input(IMAGES), *parts])


def fit(model, objective):
    robust = kp.RobustModel(model, objective)
    robust.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = RNG.uniform(size=(8, *IMAGES)).astype("float32")
    robust.fit(x, np.arange(8) % 3, verbose=0)


class Derived(keras.Model):
    """A subclass around a graph."""


def derived(layer):
    inner = functional(layer)
    return Derived(inner.inputs, inner.outputs[0])


class Holding(keras.Model):
    """Holds a graph."""

    def __init__(self, layer):
        super().__init__()
        self.inner, self.head = functional(layer), layers.Dense(3)

    def call(self, x):
        return self.head(self.inner(x))


@ON_TENSORFLOW
@pytest.mark.parametrize("build", [functional, Subclassed, derived, Holding])
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Stopped, "wrong by .* it is not known: .*Stopped"),
        (Enlarged, "derivative of ResizeBilinearGrad for zero"),
        (Responses, "no second derivative .*LRNGrad"),
    ],
)
def test_layers_that_would_be_penalised_wrongly_are_refused(build, layer, message):
    model = build(layer())
    with pytest.raises(ValueError, match=message):
        fit(model, kp.objectives.GradientPenalty("l2", 0.1))
    assert keras.config.floatx() == "float32"
    assert {part.compute_dtype for part in model.layers} == {"float32"}


@ON_TENSORFLOW
@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (Harmless(), {}),
        (layers.UpSampling2D(interpolation="bilinear"), {}),
        (Stopped(), {"method": "finite_difference"}),
        (layers.Dense(32, "relu"), {}),
    ],
)
def test_what_can_be_penalised_is_trained(layer, options):
    for build in (Subclassed, Holding):
        fit(build(layer), kp.objectives.GradientPenalty("l2", 0.1, **options))


@ON_TENSORFLOW
def test_an_operation_that_stops_a_gradient_is_seen():
    inputs = keras.Input(IMAGES)
    z = layers.Conv2D(3, 3, activation="tanh")(inputs)
    z = layers.Flatten()(z * ops.stop_gradient(ops.sigmoid(z)))
    with pytest.raises(ValueError, match="wrong by"):
        fit(keras.Model(inputs, layers.Dense(3)(z)), kp.objectives.GradientPenalty("l2", 0.1))


@ON_TENSORFLOW
def test_steps_that_are_computed_again_are_refused():
    block = kp.layers.ContinuousBlock(layers.Conv2D(3, 3, padding="same"), 2, memory="remat")
    with pytest.raises(ValueError, match="memory='remat' for a penalty"):
        fit(functional(block), kp.objectives.GradientPenalty("l2", 0.1))


@ON_TENSORFLOW
def test_elsewhere_the_functions_are_tensorflows_own():
    import tensorflow as tf

    x = tf.constant(RNG.normal(size=(5, 4)))
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            variance = tf.nn.moments(x, [0])[1]
        slope = tf.reduce_sum(inner.gradient(variance, x)[0])
    second = outer.gradient(slope, x)
    # Of the sum of squares alone: 2 / n, without the -2 / n^2 by the mean.
    np.testing.assert_allclose(second[0], 2 / 5, rtol=1e-12)

    def slope_of(z):
        return ops.sum(value_and_grad(lambda u: ops.sum(ops.moments(u, 0)[1]), z)[1][0])

    exact = value_and_grad(slope_of, x)[1]
    np.testing.assert_allclose(exact[0], 2 / 5 - 2 / 25, rtol=1e-12)
