"""A Keras model as attacks see it: logits as a pure function, checked once, compiled once."""

import functools

import keras
import numpy as np
from keras import ops

from keras_pde import _keras
from keras_pde.attacks import differentiable, folding, losses
from keras_pde.autodiff import value_and_grad

_BACKEND = keras.backend.backend()
_PROBE = 8  # images on which a new model is tried out
_TINY = float(np.finfo("float32").tiny)  # in place of a probability of zero
_BELOW_ONE = 1 - float(np.finfo("float32").epsneg)


class Target:
    """Wraps a model for attacks. Give the same one to several attacks and nothing compiles twice.

    Probabilities are turned into logits, and `probabilities` says whose they seem to be:
    `"softmax"`, whose rows add up to 1, by log p; `"sigmoid"`, of outputs that all lie in [0, 1],
    by log(p / (1 - p)); `None` for logits. Weights may change between calls.

    Args:
        model: Keras model, images to `(batch, classes)` logits or probabilities.
        images: a few examples, used to look at the outputs.

    Raises:
        ValueError: the model refuses the images, has not one output of rank 2 with at least two
            classes, gives NaN, or cannot be differentiated by its images.
    """

    def __init__(self, model, images):
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"Received model of type {type(model).__name__}; expected a `keras.Model`."
            )
        self.model = model
        self.probabilities = None
        self._programs = {}
        images = np.asarray(images[:_PROBE], dtype=keras.config.floatx())
        outputs = self._try(images)
        self.image_shape = images.shape[1:]
        self.num_classes = outputs.shape[1]
        self.probabilities = _probabilities(outputs)
        if not (self.probabilities == "softmax" and differentiable.are_saturated(outputs)):
            self._check_differentiable(images)

    @classmethod
    def of(cls, model, images) -> "Target":
        """`model` itself if it is a target already."""
        if not isinstance(model, Target):
            return cls(model, images)
        if model.image_shape != images.shape[1:]:
            raise ValueError(
                f"Received images of shape {images.shape}; this Target was made for "
                f"{(None, *model.image_shape)}."
            )
        return model

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
                "Received a model with a single output; expected a logit for each class. A sigmoid "
                "of z is a softmax of (0, z): attack `keras.Model(model.input, "
                "keras.layers.Concatenate()([keras.ops.zeros_like(z), z]))`, z being the tensor "
                "before the sigmoid, or train a head of two units."
            )
        if not np.all(np.isfinite(outputs)):
            raise ValueError("Received a model that returns NaN or infinite values.")
        return outputs

    def _check_differentiable(self, images):
        """Refuses a model whose margin has slope zero wherever it is tried."""

        def slope(logits, x):
            def total(z):
                outputs = logits(z)
                return ops.sum(losses.margin(outputs, ops.argmax(outputs, axis=-1))), outputs

            (_, outputs), gradient = value_and_grad(total, x, has_aux=True)
            return outputs, gradient

        differentiable.check(self.model, self.program("slope", slope), images)

    def logits(self, images, variables=None):
        """Logits in inference mode, float32 or wider."""
        if variables is None:
            outputs = self.model(images, training=False)
        else:
            # Not `stateless_call`, which passes `training` to a `call` that may not take it.
            with keras.StatelessScope(list(zip(self.model.variables, variables, strict=True))):
                outputs = self.model(images, training=False)
        return self.as_logits(outputs)

    def prepared(self):
        """`logits` for one use of a compiled program, with BatchNormalization folded."""
        call = folding.prepare(self.model)
        return lambda images: self.as_logits(call(images))

    def as_logits(self, outputs):
        """Logits from the model's outputs."""
        if keras.backend.standardize_dtype(outputs.dtype) in ("float16", "bfloat16"):
            outputs = ops.cast(outputs, "float32")
        if self.probabilities == "softmax":
            return ops.log(ops.maximum(outputs, _TINY))
        if self.probabilities == "sigmoid":
            p = ops.clip(outputs, _TINY, _BELOW_ONE)
            # Rising beyond [0, 1] too, so that the order of the classes is always the outputs'.
            return ops.log(p) - ops.log(1 - p) + (outputs - p)
        return outputs

    def program(self, key, fn, fold=False):
        """`fn(logits, *tensors)` compiled for any batch size, once for each `key`.

        Args:
            key: hashable; says everything that `fn` closes over.
            fn: function of a logits function and tensors whose first axis, if any, is the batch.
            fold: whether the logits may differ from the model's by rounding, for speed.
        """
        key = (key, self._structure())
        if key not in self._programs:
            self._programs = {k: p for k, p in self._programs.items() if k[1] == key[1]}
            self._programs[key] = _compile(self, fn, fold)
        return self._programs[key]

    def _structure(self):
        """What compiled programs hold of the model: its variables, and the depth of its blocks."""
        depths = [getattr(layer, "changes", 0) for layer in _keras.layers_of(self.model)]
        return tuple(map(id, self.model.variables)), tuple(depths)

    def predict(self, images, batch_size=128):
        """Predicted classes of a numpy array, int32 `(batch,)`; one forward pass each."""
        return self.outputs(images, batch_size).argmax(axis=-1).astype("int32")

    def outputs(self, images, batch_size=128):
        """Logits of a numpy array."""
        program = self.program("logits", lambda logits, x: logits(x))
        return in_batches(program, batch_size, images)

    def gradients(self, images, labels, loss, batch_size=128):
        """Input gradients of a per-example loss, as an array."""

        def gradient(logits, x, y):
            return value_and_grad(lambda z: ops.sum(loss(logits(z), y)), x)[1]

        program = self.program(("gradient", loss), gradient)
        return in_batches(program, batch_size, images, labels)


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


def _probabilities(outputs):
    if not np.all((outputs >= 0) & (outputs <= 1)) or np.all(outputs == outputs[0, 0]):
        return None
    # bfloat16 has three digits.
    return "softmax" if np.all(np.abs(outputs.sum(axis=1) - 1) < 1e-2) else "sigmoid"


def host():
    """This process's CPU for `keras.device`, whose own "cpu" is on JAX that of the first one."""
    return jax.local_devices(backend="cpu")[0] if _BACKEND == "jax" else "cpu"


if _BACKEND == "tensorflow":
    import tensorflow as tf

    def _compile(target, fn, fold):
        @functools.cache
        def traced(shapes_and_types):
            specs = [tf.TensorSpec(shape, dtype) for shape, dtype in shapes_and_types]

            def call(*tensors):
                # Prepared in here, but outside of the loop that `fn` may contain.
                return fn(target.prepared() if fold else target.logits, *tensors)

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

    def _compile(target, fn, fold):
        model = target.model

        @jax.jit
        def traced(variables, *arrays):
            return fn(lambda x: target.logits(x, variables), *arrays)

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

    def _compile(target, fn, fold):
        def run(*arrays):
            with torch.no_grad():
                return fn(target.logits, *(ops.convert_to_tensor(a) for a in arrays))

        return run
