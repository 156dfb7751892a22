"""Programs of a `Target`: compiled for any batch size, and run in batches."""

import functools

import keras
import numpy as np
from keras import ops

_BACKEND = keras.backend.backend()


def in_batches(function, batch_size, *arrays):
    """`function` of so many rows of the arrays at a time; its tensors, joined to arrays."""
    parts = []
    for start in range(0, len(arrays[0]), batch_size):
        rows = [a[start : start + batch_size] for a in arrays]
        count = len(rows[0])
        outputs = function(*(pad(a, batch_size) for a in rows))
        parts.append(
            keras.tree.map_structure(
                lambda v, count=count: ops.convert_to_numpy(v)[:count], outputs
            )
        )
    return keras.tree.map_structure(lambda *values: np.concatenate(values), *parts)


def pad(array, size):
    """The array with its last example repeated up to `size`, where each shape is compiled anew."""
    missing = size - len(array) if _BACKEND == "jax" else 0
    return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, 0)])


def host():
    """This process's CPU for `keras.device`, whose own "cpu" is on JAX that of the first one."""
    return jax.local_devices(backend="cpu")[0] if _BACKEND == "jax" else "cpu"


if _BACKEND == "tensorflow":
    import tensorflow as tf

    def compiled(target, fn, fold):
        @functools.cache
        def traced(shapes_and_types):
            specs = [tf.TensorSpec(shape, dtype) for shape, dtype in shapes_and_types]

            def call(*tensors):
                tensors, context = target.divided(tensors)
                # Prepared in here, but outside of the loop that `fn` may contain.
                plain = functools.partial(target.logits, context=context)
                return fn(target.prepared(context) if fold else plain, *tensors)

            function = tf.function(call, autograph=False)
            # The concrete one: TensorFlow warns of many functions that are traced once each.
            return function.get_concrete_function(*specs)

        def run(*arrays):
            tensors = [tf.convert_to_tensor(a) for a in arrays]
            # Any batch size, one trace.
            key = tuple(((None, *t.shape[1:]) if t.shape.rank else (), t.dtype) for t in tensors)
            return traced(key)(*tensors)

        return run

elif _BACKEND == "jax":
    import jax

    def compiled(target, fn, fold):
        model = target.model

        @jax.jit
        def traced(variables, *arrays):
            arrays, context = target.divided(arrays)
            return fn(lambda x: target.logits(x, context, variables), *arrays)

        def run(*arrays):
            return traced([_on_one_device(v.value) for v in model.variables], *arrays)

        return run

    def _on_one_device(value):
        """One of the copies that `keras.distribution.DataParallel` makes of a variable's value.

        Other processes' devices take no part in an attack, so that its results can be read here.
        """
        copied = value.sharding.is_fully_replicated and value.sharding.num_devices > 1
        return value.addressable_data(0) if copied else value

else:
    import torch

    def compiled(target, fn, fold):
        def run(*arrays):
            tensors, context = target.divided([ops.convert_to_tensor(a) for a in arrays])
            with torch.no_grad():
                return fn(functools.partial(target.logits, context=context), *tensors)

        return run
