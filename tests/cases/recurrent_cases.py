"""What the tests of the recurrent layers share: layers with random weights, and the formulas."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from keras_pde.layers.recurrent import (
    AntisymmetricRNN,
    AntisymmetricRNNCell,
    CoRNN,
    LipschitzRNN,
    LipschitzRNNCell,
)

BACKEND = keras.backend.backend()
N, M = 6, 3  # units, features

HEUN = {"step_size": 0.1, "scheme": "heun"}
LAYERS = {
    "antisymmetric": (AntisymmetricRNN, {**HEUN, "gamma": 0.3}),
    "gated": (AntisymmetricRNN, {**HEUN, "gamma": 0.3, "gated": True}),
    "lipschitz": (LipschitzRNN, {**HEUN, "beta": 0.8, "gamma": 0.2}),
    "oscillators": (CoRNN, {"step_size": 0.1, "frequency": 1.5, "damping": 0.4}),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def make(name, batch=None, **kwargs):
    """The built layer with random weights, biases too: always the same."""
    kind, arguments = LAYERS[name]
    layer = kind(N, **{**arguments, **kwargs})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of steps that are too large for some draws
        layer.build((batch, None, M))
    rng = np.random.default_rng(0)
    for weight in layer.trainable_weights:
        weight.assign(0.5 * rng.normal(size=weight.shape))
    return layer


def sequences(batch=4, steps=7, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, steps, M)).astype("float32")


def run(layer, x, **kwargs):
    x = ops.convert_to_tensor(x)
    return keras.tree.map_structure(ops.convert_to_numpy, layer(x, **kwargs))


def close(received, expected):
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


def compiled(function):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slope(layer, h, x):
    """F(h, x) by the formulas, with columns; h is (y, z) for oscillators."""
    cell = layer.cell
    V, b = ops.convert_to_numpy(cell.kernel).T, ops.convert_to_numpy(cell.bias)[:, None]
    identity = np.eye(N)
    if isinstance(cell, AntisymmetricRNNCell):
        W = np.zeros((N, N))
        W[np.triu_indices(N, 1)] = ops.convert_to_numpy(cell.recurrent_kernel)
        u = V @ x + b
        turned = (W - W.T - cell.gamma * identity) @ h
        if cell.gated:
            return np.tanh(turned + u[:N]) * sigmoid(turned + u[N:])
        return np.tanh(turned + u)
    if isinstance(cell, LipschitzRNNCell):
        B, C = map(ops.convert_to_numpy, (cell.linear_kernel, cell.recurrent_kernel))
        A, W = (
            cell.beta * (K - K.T) + (1 - cell.beta) * (K + K.T) - cell.gamma * identity
            for K in (B, C)
        )
        return A @ h + np.tanh(W @ h + V @ x + b)
    y, z = h[:N], h[N:]
    W, Wz = np.split(ops.convert_to_numpy(cell.recurrent_kernel).T, 2, axis=1)
    force = np.tanh(W @ y + Wz @ z + V @ x + b) - cell.frequency * y - cell.damping * z
    return np.concatenate([z, force])


def states(layer, batch=4):
    size = sum(layer.state_size)
    return np.random.default_rng(2).normal(size=(batch, size)).astype("float32")


def split(layer, h):
    """The state tensors."""
    return [ops.convert_to_tensor(part) for part in np.split(h, len(layer.state_size), axis=1)]


def one_step(layer, h, x, training=False):
    """All states after one step of the cell."""
    _, new = layer.cell(ops.convert_to_tensor(x), split(layer, h), training=training)
    return np.concatenate([ops.convert_to_numpy(part) for part in new], axis=1)
