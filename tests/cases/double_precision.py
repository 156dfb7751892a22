"""Keras, and JAX with it, in float64."""

import contextlib

import keras
import pytest


@contextlib.contextmanager
def double_precision():
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        if keras.backend.backend() != "jax":
            yield
            return
        import jax
        from keras.src.backend.common import dtypes

        # On JAX, Keras promotes float64 to float32 (in tanh, mean, ...) even if JAX has it.
        with (
            jax.enable_x64(True),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
            yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
