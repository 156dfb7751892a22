"""Networks of one's own, as the tests of saving them and of recipes know them."""

import keras
import numpy as np
from keras import layers, ops
from recipe_cases import CLASSES, SHAPE

import keras_pde as kp


@keras.saving.register_keras_serializable("tests")
class Scale(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.factor * x


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten, self.dense = layers.Flatten(), layers.Dense(CLASSES)

    def call(self, x):
        return self.dense(self.flatten(x))

    def build(self, shape):
        self.flatten.build(shape)
        self.dense.build((None, int(np.prod(shape[1:]))))


@keras.saving.register_keras_serializable("tests")
def twice(x):
    return 2 * x


class Unregistered(layers.Layer):
    def call(self, x):
        return x


def sequential(*middle, head="linear"):
    inputs = keras.Input(SHAPE)
    return keras.Sequential([inputs, *middle, layers.Flatten(), layers.Dense(CLASSES, head)])


def functional():
    """Operations, numbers as arguments, a shared layer, functions, seeds, a nested model."""
    inputs = keras.Input(SHAPE)
    he = keras.initializers.HeNormal(seed=2**31 - 1)
    normalize = layers.Normalization()
    normalize.adapt(np.random.default_rng(0).normal(3, 2, (50, *SHAPE)))
    x = layers.Conv2D(3, 3, padding="same", kernel_initializer=he, kernel_regularizer="l2")(inputs)
    shared = layers.Conv2D(3, 3, padding="same", activation=twice)
    x = layers.BatchNormalization()(ops.relu(shared(shared(x)) - 0.5))
    nested = keras.Sequential([keras.Input((*SHAPE[:2], 3)), layers.Conv2D(1, 1), Scale()])
    x = layers.Dropout(0.5, seed=5)(normalize(nested(x)))
    return keras.Model(inputs, layers.Dense(CLASSES)(ops.mean(x, axis=(1, 3))))


def recurrent():
    inputs = keras.Input(SHAPE)
    x = layers.Bidirectional(layers.GRU(4))(layers.Reshape((SHAPE[0], -1))(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, *SHAPE), "float32"))
    return model


def continuous():
    rate = layers.Conv2D(3, 3, padding="same", activation="tanh")
    return sequential(layers.Conv2D(3, 3), kp.layers.ContinuousBlock(rate, steps=2))


def made_twice():
    """Layers that make their variables again when they come from a configuration."""
    inputs = keras.Input(SHAPE)
    x = layers.Bidirectional(layers.LSTM(24))(layers.Reshape((SHAPE[0], -1))(inputs))
    x = layers.Reshape((6, 8, 1))(layers.Dense(48)(x))
    x = layers.Conv2D(16, 3, padding="same")(x)
    x = kp.layers.ContinuousBlock(layers.Conv2D(16, 3, padding="same"), steps=2)(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))


def half():
    dense = [layers.Dense(60, dtype=dtype) for dtype in ("float16", "bfloat16")]
    return sequential(layers.Flatten(), *dense, layers.Activation("linear", dtype="float32"))


def lora():
    model = sequential(layers.Flatten(), layers.Dense(60), layers.Dense(60))
    model.layers[1].enable_lora(4)
    return model


def compiled_within():
    inner = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(5)])
    inner.compile("adam", "mse")
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, layers.Dense(CLASSES)(inner(inputs)))


NETWORKS = [
    sequential,
    functional,
    recurrent,
    subclassed,
    continuous,
    made_twice,
    half,
    lora,
    compiled_within,
]
FIELDS = {
    "title": "Own",
    "dataset": "none",
    "input_shape": SHAPE,
    "classes": [str(i) for i in range(CLASSES)],
    "licence": "MIT",
}


def logits(model):
    x = np.random.default_rng(1).random((5, *SHAPE), "float32")
    return ops.convert_to_numpy(model(x, training=False))
