"""Loops that the backend compiles, and whether a value is known while it does."""

import contextlib
import math

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()


def repeat(body, carry, count):
    """`carry = body(n, *carry)` for n = 0, ..., count - 1: n is an integer tensor."""
    if BACKEND == "jax":
        return ops.fori_loop(0, count, lambda n, carry: body(n, *carry), carry)
    if BACKEND == "torch":
        for n in range(count):
            carry = body(n, *carry)
        return carry
    # `fori_loop` passes no bound on the iterations, without which XLA has no gradient.
    start = (ops.convert_to_tensor(0, "int32"), *carry)
    return ops.while_loop(
        lambda n, *_: n < count,
        lambda n, *carry: (n + 1, *body(n, *carry)),
        start,
        maximum_iterations=count,
    )[1:]


def repeat_while(active, body, carry, most):
    """`carry = body(*carry)` while `active(*carry)`, at most `most` times."""
    if BACKEND == "jax":
        return _skipping(active, body, carry, most)
    if BACKEND == "torch":
        for _ in range(most):
            if not active(*carry):
                break
            carry = body(*carry)
        return carry
    return ops.while_loop(active, body, carry, maximum_iterations=most)


def _skipping(active, body, carry, most):
    """A loop with all of its iterations, which reverse mode needs; those left over are skipped.

    A skipped one still fills its part of what is kept for the gradient. So they are skipped by
    sqrt(most) at a time, of which only the beginning is kept, and which are computed again.
    """

    def many(count):
        def run(*carry):
            return repeat(lambda _, *carry: unless_done(body, carry), carry, count)

        return keras.remat(run)

    def unless_done(run, carry):
        return ops.cond(active(*carry), lambda: tuple(run(*carry)), lambda: carry)

    length = math.isqrt(most)
    carry = repeat(lambda _, *carry: unless_done(many(length), carry), carry, most // length)
    return unless_done(many(most % length), carry) if most % length else carry


def remembered(memory):
    """Decorator: with `"remat"` only the arguments are kept for the gradient."""
    return keras.remat if memory == "remat" else lambda fn: fn


def step_by_step():
    """Within it JAX compiles no branches and loops, which it would do anew at each call."""
    if BACKEND != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.disable_jit()


def known(value):
    """A NumPy array of the value, or None where a compiler traces the code without values."""
    if all(isinstance(x, (int, float, np.number, np.ndarray)) for x in keras.tree.flatten(value)):
        return np.asarray(value)
    value = ops.convert_to_tensor(value)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.get_static_value(value)
    if BACKEND == "jax":
        import jax

        return None if isinstance(value, jax.core.Tracer) else np.asarray(value)
    return ops.convert_to_numpy(value)
