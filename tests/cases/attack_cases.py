"""What the tests of attacks share: small models, images, and the geometry of linear models."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_pde import geometry
from keras_pde.attacks import losses

JAX = keras.backend.backend() == "jax"
NORMS = geometry.names()
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}
DUAL = {"l1": np.inf, "l2": 2, "linf": 1}

not_on_jax = pytest.mark.skipif(JAX, reason="the same code on JAX, where it compiles for long")


def length(delta, norm):
    """Length of each example in float64."""
    flat = np.asarray(delta, "float64").reshape(len(delta), -1)
    return np.linalg.norm(flat, ORDER[norm], axis=1)


def linear(kernel, bias=None):
    """z = W^T x + b."""
    kernel = np.asarray(kernel, keras.config.floatx())
    bias = np.zeros(kernel.shape[1]) if bias is None else np.asarray(bias)
    model = keras.Sequential([keras.Input(kernel.shape[:1]), layers.Dense(kernel.shape[1])])
    model.layers[0].set_weights([kernel, bias])
    return model


def functional(head, shape=(6,), classes=3):
    """A model whose output is `head(z, x)`, z being the logits of a dense layer."""
    inputs = keras.Input(shape)
    dense = layers.Dense(classes)
    model = keras.Model(inputs, head(dense(inputs), inputs))
    fill(dense)
    return model


def fill(layer, seed=0):
    """Weights that are the same on every backend."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.get_weights()])


def vectors(count=8, size=6, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, size)).astype("float32")


def classes(model, images):
    """Predicted classes by a plain call, a road that attacks do not use."""
    return ops.convert_to_numpy(model(images, training=False)).argmax(axis=1)


def equidistant(kernel, norm, distance, count=12):
    """Images of a linear model without bias, and labels, all at that distance of the boundary."""
    x = np.random.default_rng(0).normal(size=(count, len(kernel)))
    z = x @ kernel
    y = z.argmax(axis=1)
    x *= (distance / boundary(kernel, norm, x, y))[:, None]
    return x.astype("float32"), y


def boundary(kernel, norm, x, y):
    """Analytic distance: min over k of (z_y - z_k) / |w_k - w_y|_dual."""
    z = x @ kernel
    distances = np.full(z.shape, np.inf)
    for i, label in enumerate(y):
        for k in range(z.shape[1]):
            if k != label:
                w = kernel[:, k] - kernel[:, label]
                distances[i, k] = (z[i, label] - z[i, k]) / np.linalg.norm(w, DUAL[norm])
    return distances.min(axis=1)


def kernel_of(classes, size=7):
    return np.random.default_rng(1).normal(size=(size, classes))


def other_value(name, value):
    """A value of the same kind as the given one, and not the same."""
    if name == "norm":
        return next(norm for norm in NORMS if norm != value)
    if name == "loss":
        return next(loss for loss in losses.names() if loss != value)
    if name == "bounds":
        return (-1.0, 2.5)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 3
    return 0.125 if value is None else value / 2 + 0.125
