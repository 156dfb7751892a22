"""A Keras model as attacks see it: logits as a pure function, checked once, compiled once."""

import functools

import keras
import numpy as np
from keras import ops

from keras_pde.autodiff import value_and_grad

_BACKEND = keras.backend.backend()
_PROBE = 8  # images on which a new model is tried out


class Target:
    """Wraps a model for attacks. Give the same one to several attacks and nothing compiles twice.

    Probabilities (a softmax head) are turned into logits by a logarithm; `probabilities` says so.
    Weights may change between calls.

    Args:
        model: Keras model, images to `(batch, classes)` logits or probabilities.
        images: a few examples, used to look at the outputs.

    Raises:
        ValueError: the model refuses the images, has not one output of rank 2 with at least two
            classes, or gives NaN.
    """

    def __init__(self, model, images):
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"Received model of type {type(model).__name__}; expected a `keras.Model`."
            )
        self.model = model
        self.probabilities = False
        self._programs = {}
        outputs = self._try(np.asarray(images[:_PROBE], dtype="float32"))
        self.num_classes = outputs.shape[1]
        self.probabilities = _are_probabilities(outputs)

    @classmethod
    def of(cls, model, images) -> "Target":
        """`model` itself if it is a target already."""
        return model if isinstance(model, Target) else cls(model, images)

    def _try(self, images):
        expected = getattr(self.model, "input_shape", None)
        if isinstance(expected, tuple):
            fits = len(expected) == images.ndim and all(
                e in (None, r) for e, r in zip(expected[1:], images.shape[1:], strict=True)
            )
            if not fits:
                raise ValueError(
                    f"Received images of shape {images.shape}; the model expects {expected}. "
                    "A single image needs a batch axis: x[None]."
                )
        outputs = self.model(images, training=False)
        if isinstance(outputs, dict | list | tuple) or len(outputs.shape) != 2:
            raise ValueError(
                "Received a model whose output is not one tensor of shape (batch, classes)."
            )
        outputs = ops.convert_to_numpy(ops.cast(outputs, "float32"))
        if outputs.shape[1] < 2:
            raise ValueError(
                "Received a model with a single output; expected a logit for each class. For a "
                "binary sigmoid model return the two logits (0, z), z being the value before the "
                "sigmoid: keras.layers.ZeroPadding1D does not fit rank 2, so concatenate zeros."
            )
        if not np.all(np.isfinite(outputs)):
            raise ValueError("Received a model that returns NaN or infinite values.")
        return outputs

    def logits(self, images, variables=None):
        """Logits in inference mode, float32 or wider."""
        if variables is None:
            outputs = self.model(images, training=False)
        else:
            outputs = self.model.stateless_call(*variables, images, training=False)[0]
        if keras.backend.standardize_dtype(outputs.dtype) in ("float16", "bfloat16"):
            outputs = ops.cast(outputs, "float32")
        if self.probabilities:
            tiny = float(np.finfo("float32").tiny)
            outputs = ops.log(ops.maximum(outputs, tiny))
        return outputs

    def program(self, key, fn):
        """`fn(logits, *tensors)` compiled for any batch size, once for each `key`.

        Args:
            key: hashable; says everything that `fn` closes over.
            fn: function of a logits function and tensors whose first axis, if any, is the batch.
        """
        if key not in self._programs:
            self._programs[key] = _compile(self, fn)
        return self._programs[key]

    def predict(self, images, batch_size=128):
        """Predicted classes of a numpy array, int32 `(batch,)`; one forward pass each."""
        program = self.program("predict", lambda logits, x: ops.argmax(logits(x), axis=-1))
        return self._in_chunks(program, images, batch_size).astype("int32")

    def outputs(self, images, batch_size=128):
        """Logits of a numpy array."""
        program = self.program("logits", lambda logits, x: logits(x))
        return self._in_chunks(program, images, batch_size)

    def gradients(self, images, labels, loss, batch_size=128):
        """Input gradients of a per-example loss, as an array."""

        def gradient(logits, x, y):
            return value_and_grad(lambda z: ops.sum(loss(logits(z), y)), x)[1]

        program = self.program(("gradient", loss), gradient)
        return self._in_chunks(program, images, batch_size, labels)

    def _in_chunks(self, program, images, batch_size, *more):
        parts = []
        for start in range(0, len(images), batch_size):
            arrays = [a[start : start + batch_size] for a in (images, *more)]
            size = len(arrays[0])
            arrays = [pad(a, min(batch_size, len(images))) for a in arrays]
            parts.append(ops.convert_to_numpy(program(*arrays))[:size])
        return np.concatenate(parts)


def pad(array, size):
    """The array with its last example repeated up to `size`: a fixed shape compiles once."""
    missing = size - len(array)
    return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, 0)])


def _are_probabilities(outputs) -> bool:
    in_range = np.all((outputs >= 0) & (outputs <= 1))
    return bool(in_range and np.all(np.abs(outputs.sum(axis=1) - 1) < 1e-3))


if _BACKEND == "tensorflow":
    import tensorflow as tf

    def _compile(target, fn):
        @functools.cache
        def traced(shapes_and_types):
            specs = [tf.TensorSpec(shape, dtype) for shape, dtype in shapes_and_types]
            return tf.function(
                lambda *tensors: fn(target.logits, *tensors), input_signature=specs, autograph=False
            )

        def run(*arrays):
            tensors = [tf.convert_to_tensor(a) for a in arrays]
            # Any batch size, one trace.
            key = tuple(((None, *t.shape[1:]) if t.shape.rank else (), t.dtype) for t in tensors)
            return traced(key)(*tensors)

        return run

elif _BACKEND == "jax":
    import jax

    def _compile(target, fn):
        model = target.model

        @jax.jit
        def traced(variables, *arrays):
            return fn(lambda x: target.logits(x, variables), *arrays)

        def run(*arrays):
            variables = (
                [v.value for v in model.trainable_variables],
                [v.value for v in model.non_trainable_variables],
            )
            return traced(variables, *arrays)

        return run

else:
    import torch

    def _compile(target, fn):
        def run(*arrays):
            with torch.no_grad():
                return fn(target.logits, *(ops.convert_to_tensor(a) for a in arrays))

        return run
