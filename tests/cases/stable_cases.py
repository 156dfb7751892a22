"""What the tests of the stable layers and of their blocks share."""

import keras
import numpy as np
from keras import ops

from keras_pde import autodiff


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def run(layer, x, **kwargs):
    return ops.convert_to_numpy(layer(ops.convert_to_tensor(x, dtype=layer.dtype), **kwargs))


def small(scale):
    return keras.initializers.RandomNormal(stddev=scale, seed=5)


def jacobian(function, x):
    """The matrix of d f_i / d x_j at a vector x."""
    x = ops.convert_to_tensor(x[None])
    units = np.eye(x.shape[-1])
    rows = [autodiff.vjp(function, x, u[None].astype("float64"))[1][0] for u in units]
    return np.array([ops.convert_to_numpy(row) for row in rows])
