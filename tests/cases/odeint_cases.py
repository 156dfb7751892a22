"""What the tests of the solver share."""

import keras
from keras import ops

from keras_pde.odeint import odeint

BACKEND = keras.backend.backend()


def compiled(fn, jit_compile=False):
    """A function of tensors, compiled where the backend can."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(fn, jit_compile=jit_compile)
    if BACKEND == "jax":
        import jax

        return jax.jit(fn)
    return fn


def solve(func, y0, t, *args, **kwargs):
    """The solution and its statistics, as arrays, from compiled code: it is faster."""
    result = compiled(lambda y0: odeint(func, y0, t, *args, return_stats=True, **kwargs))(y0)
    return keras.tree.map_structure(ops.convert_to_numpy, result)


def growing(t, y):
    """Its solution is exp(sin t)."""
    return y * ops.cos(t)


def oscillator(t, y):
    return ops.stack([y[:, 1], -y[:, 0]], axis=-1)
