"""What the tests of RobustModel share: data, small models, and fits in a fixed order."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_pde as kp

BACKEND = keras.backend.backend()
tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow")

SHAPE, CLASSES, COUNT = (4, 4, 1), 3, 24
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(COUNT, *SHAPE)).astype("float32")
Y = np.arange(COUNT) % CLASSES
ONE_HOT = np.eye(CLASSES, dtype="float32")[Y]
WEIGHT = RNG.uniform(0.5, 2.0, size=COUNT).astype("float32")

# Where compilation is not the point, TensorFlow is faster without; JAX is not.
EAGER = {"run_eagerly": BACKEND == "tensorflow"}


def cross_entropy(**kwargs):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **kwargs)


def functional(head=None, dropout=0.3):
    """Everything at once: convolution, batch normalization, dropout, a regulariser."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(2, 3, activation="relu")(inputs)
    x = kp.layers.batch_norm()(x)
    x = layers.Dropout(dropout)(layers.Flatten()(x))
    kernel = {"kernel_regularizer": keras.regularizers.L2(0.01)}
    return keras.Model(inputs, layers.Dense(CLASSES, activation=head, **kernel)(x))


def sequential(head=None, built=True, units=CLASSES):
    keras.utils.set_random_seed(1)
    start = [keras.Input(SHAPE)] if built else []
    return keras.Sequential([*start, layers.Flatten(), layers.Dense(units, activation=head)])


class Subclassed(keras.Model):
    """The last attribute is not the head."""

    def __init__(self):
        super().__init__()
        self.flatten, self.drop = layers.Flatten(), layers.Dropout(0.3)
        self.head, self.body = layers.Dense(CLASSES), layers.Dense(5, activation="softmax")

    def call(self, x, training=None):
        return self.head(self.drop(self.body(self.flatten(x)), training=training))


class WithoutTraining(Subclassed):
    def call(self, x):
        return self.head(self.drop(self.body(self.flatten(x))))


def seeded(make):
    keras.utils.set_random_seed(1)
    return make()


def built(make):
    model = seeded(make)
    model(X[:1])
    return model


def momentum():
    return keras.optimizers.SGD(0.1, momentum=0.9)


def fit(model, x=X, y=Y, loss=None, epochs=2, compile_options=None, **options):
    """History of a fit with fixed order and metrics."""
    compile_options = {"metrics": ["accuracy"], **(compile_options or {})}
    model.compile(momentum(), loss or cross_entropy(), **compile_options)
    return resume(model, x, y, epochs, **options)


def resume(model, x=X, y=Y, epochs=1, **options):
    keras.utils.set_random_seed(2)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    if y is None:
        del options["batch_size"]
    return model.fit(x, y, epochs=epochs, **options).history


def robust(objective, model=None, **options):
    return kp.RobustModel(model or functional(), objective, **options)


def arrays(model):
    return [ops.convert_to_numpy(w) for w in model.weights]


def assert_same_weights(a, b, rtol=0.0):
    for v, w in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_allclose(v, w, rtol=rtol, atol=rtol)


class Batches(keras.utils.PyDataset):
    """A dataset for backends beside which there is no TensorFlow."""

    def __init__(self, x, y, batch_size):
        super().__init__()
        self.arrays, self.batch_size = (x, y), batch_size

    def __len__(self):
        return -(-len(self.arrays[0]) // self.batch_size)

    def __getitem__(self, index):
        return tuple(a[index * self.batch_size :][: self.batch_size] for a in self.arrays)


def dataset(x=X, y=Y, batch_size=8):
    if BACKEND != "tensorflow":
        return Batches(x, y, batch_size)
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
