"""A Keras model as attacks see it: logits as a pure function, checked once, compiled once."""

import keras
import numpy as np
from keras import ops

from keras_pde import _keras
from keras_pde.attacks import differentiable, folding, losses
from keras_pde.attacks import success as rules
from keras_pde.attacks.batches import check_any_batch, check_stateless
from keras_pde.attacks.perturbed import Perturbed
from keras_pde.attacks.programs import compiled, in_batches
from keras_pde.autodiff import value_and_grad
from keras_pde.data.examples import arrays

_PROBE = 8  # images on which a new model is tried out
_VERY_FAR = 1000.0  # times the images: logits leave [0, 1] there, probabilities do not
_TINY = float(np.finfo("float32").tiny)  # in place of a probability of zero
_BELOW_ONE = 1 - float(np.finfo("float32").epsneg)


class Target:
    """Wraps a model for attacks. Give the same one to several attacks and nothing compiles twice.

    Probabilities are turned into logits, and `probabilities` says whose they seem to be:
    `"softmax"`, whose rows add up to 1, by log p; `"sigmoid"`, of outputs that all lie in [0, 1],
    by log(p / (1 - p)); `None` for logits. The last layer says it, or else the outputs at images,
    at noise, and at images a thousand times as large. Weights may change between calls.

    What is perturbed is the model's one input, or what `at` or `perturb` name: "images" in all that
    follows. Programs then take the arrays of all inputs, the context, as their last ones.

    Args:
        model: Keras model, images to `(batch, classes)` logits or probabilities.
        inputs: a few examples as the model takes them, used to look at the outputs.
        at, perturb, output: a layer whose output is perturbed, or one of several inputs, and one of
            several outputs; see `evaluate`.
        success: when an attack has succeeded, likewise. A single logit z of a binary classifier is
            taken for the two (0, z).

    Raises:
        ValueError: the model refuses the images, its output does not fit `success` (by default one
            of rank 2), gives NaN, or cannot be differentiated by its images.
    """

    def __init__(self, model, inputs, at=None, perturb=None, output=None, success=None):
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"Received model of type {type(model).__name__}; expected a `keras.Model`."
            )
        self.model = model
        self.perturbed = Perturbed(model, at, perturb, output)
        self.success = rules.get(success)
        self.probabilities = None
        self._programs = {}
        self._template = None
        few = keras.tree.map_structure(lambda a: a[:_PROBE], arrays(inputs))
        self._template = keras.tree.map_structure(lambda a: None, few)
        images, context = self.parts(few)
        outputs = self._try(images, context)
        self.image_shape = images.shape[1:]
        self.output_shape = outputs.shape[1:]
        self.probabilities = self._head(images, context)
        if not (self.probabilities and differentiable.are_saturated(outputs)):
            self._check_differentiable(images, context)

    @property
    def num_classes(self) -> int:
        """Of a classifier; two of one that has a single logit."""
        return max(2, self.output_shape[-1])

    @classmethod
    def of(cls, model, inputs, **which) -> "Target":
        """`model` itself if it is a target already; `which` are `at`, `perturb` and `output`."""
        if not isinstance(model, Target):
            return cls(model, inputs, **which)
        named = {name: value for name, value in which.items() if value is not None}
        if named:
            raise ValueError(f"Received a Target and {named}; expected those in the Target.")
        if model.perturbed.is_plain and model.image_shape != np.shape(inputs)[1:]:
            raise ValueError(
                f"Received images of shape {np.shape(inputs)}; this Target was made for "
                f"{(None, *model.image_shape)}."
            )
        return model

    def parts(self, inputs, batch_size=128):
        """What is perturbed, as an array of floats, and the list of the arrays of the context."""
        inputs = arrays(inputs)
        if self.perturbed.is_plain:
            images, context = self.perturbed.chosen(inputs), []
        else:
            context = keras.tree.flatten(inputs)
            if self.perturbed.at is None:
                images = self.perturbed.chosen(inputs)
            else:

                def start(*arrays):
                    tensors = map(ops.convert_to_tensor, arrays)
                    return self.perturbed.start(self._packed(list(tensors)), training=False)

                images = in_batches(start, batch_size, *context)
        return np.asarray(images).astype(keras.config.floatx()), context

    def _packed(self, context):
        return keras.tree.pack_sequence_as(self._template, context) if context else None

    def _call(self, images, context):
        return self.perturbed.call(images, self._packed(context), training=False)

    def _try(self, images, context):
        check_stateless(self.model)
        check_any_batch(self.model)
        expected = getattr(self.model, "input_shape", None)
        if isinstance(expected, tuple) and self.perturbed.is_plain:
            fits = len(expected) == images.ndim and all(
                e in (None, r) for e, r in zip(expected[1:], images.shape[1:], strict=True)
            )
            if not fits:
                one_less = images.ndim == len(expected) - 1
                no_channels = (
                    one_less and expected[-1] == 1 and expected[1] in (None, images.shape[1])
                )
                fix = "The channel axis is missing: x[..., None]." if no_channels else ""
                fix = fix or ("A single image needs a batch axis: x[None]." if one_less else "")
                raise ValueError(
                    f"Received images of shape {images.shape}; the model expects {expected}. {fix}"
                )
        outputs = self._call(images, context)
        if isinstance(outputs, dict | list | tuple):
            raise ValueError(
                f"Received a model whose outputs are a {type(outputs).__name__}; expected one "
                "tensor: name one of several by output=..."
            )
        alone = self.success is not rules.MISCLASSIFIED and len(outputs.shape) == 2
        if alone and self.success.logits and self.perturbed.activation() == "softmax":
            raise ValueError(
                f"Received a model that ends with a softmax for success={self.success.name!r}, "
                "which takes one sigmoid a label; expected success=None, or a head of logits."
            )
        if self.success.classes and len(outputs.shape) != 2:
            raise ValueError(
                f"Received a model whose output has the shape {(None, *outputs.shape[1:])}, not "
                "(batch, classes); for others say when an attack has succeeded, by success=..., "
                f"such as {', '.join(map(repr, rules.NAMES[1:]))}."
            )
        outputs = ops.convert_to_numpy(ops.cast(outputs, "float32"))
        if not np.all(np.isfinite(outputs)):
            raise ValueError(
                "Received a model that returns NaN or infinite values; expected finite ones. One "
                "whose training has diverged needs a lower learning rate, and a new start."
            )
        return outputs

    def _head(self, images, context):
        """Whose probabilities the outputs are, or `None` for logits."""
        if not self.success.logits:
            return None
        head = self.perturbed.activation()
        if head is None:  # it is to be seen: near the images, far from them, and very far
            far = np.concatenate([differentiable.probes(images), _VERY_FAR * images])
            times = len(far) // len(images)
            context = [np.concatenate([array] * times) for array in context]
            found = ops.convert_to_numpy(ops.cast(self._call(far, context), "float32"))
            head = _probabilities(found[np.isfinite(found).reshape(len(found), -1).all(axis=1)])
        return head if head in ("softmax", "sigmoid") else None

    def _check_differentiable(self, images, context):
        """Refuses a model whose margin has slope zero wherever it is tried."""

        def slope(logits, x):
            def total(z):
                outputs = logits(z)
                if not self.success.classes:
                    return differentiable.mixed(outputs), outputs
                return ops.sum(losses.margin(outputs, ops.argmax(outputs, axis=-1))), outputs

            (_, outputs), gradient = value_and_grad(total, x, has_aux=True)
            return outputs, gradient

        differentiable.check(self.perturbed, self.program("slope", slope), images, context)

    def logits(self, images, context=(), variables=None):
        """Logits in inference mode, float32 or wider."""
        if variables is None:
            return self.as_logits(self._call(images, context))
        # Not `stateless_call`, which passes `training` to a `call` that may not take it.
        with keras.StatelessScope(list(zip(self.model.variables, variables, strict=True))):
            return self.as_logits(self._call(images, context))

    def prepared(self, context=()):
        """`logits` for one use of a compiled program, with BatchNormalization folded."""
        if context or self.perturbed.output is not None:
            return lambda images: self.logits(images, context)
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
            outputs = ops.log(p) - ops.log(1 - p) + (outputs - p)
        if self.success.classes and outputs.shape[-1] == 1:
            return ops.concatenate([ops.zeros_like(outputs), outputs], axis=-1)
        return outputs

    def program(self, key, fn, fold=False):
        """`fn(logits, *tensors)` compiled for any batch size, once for each `key`.

        It takes those tensors, and after them the arrays of the context.

        Args:
            key: hashable; says everything that `fn` closes over.
            fn: function of a logits function and tensors whose first axis, if any, is the batch.
            fold: whether the logits may differ from the model's by rounding, for speed.
        """
        key = (key, self._structure())
        if key not in self._programs:
            self._programs = {k: p for k, p in self._programs.items() if k[1] == key[1]}
            self._programs[key] = compiled(self, fn, fold)
        return self._programs[key]

    def divided(self, tensors):
        """Those of a program, and those of the context after them."""
        own = len(tensors)
        if not self.perturbed.is_plain:
            own -= len(keras.tree.flatten(self._template))
        return list(tensors[:own]), list(tensors[own:])

    def _structure(self):
        """What compiled programs hold of the model: its variables, and the depth of its blocks."""
        depths = [getattr(layer, "changes", 0) for layer in _keras.layers_of(self.model)]
        return tuple(map(id, self.model.variables)), tuple(depths)

    def labels(self, y, count):
        """The labels as an array that fits so many outputs; a `ValueError` if they do not."""
        return self.success.check(y, (count, *self.output_shape))

    def predict(self, images, context=(), batch_size=128):
        """Predicted classes of a numpy array, int32 `(batch,)`; one forward pass each."""
        return rules.predicted(self.outputs(images, context, batch_size))

    def outputs(self, images, context=(), batch_size=128):
        """Logits, or what `success` is about, of a numpy array."""
        program = self.program("logits", lambda logits, x: logits(x))
        return in_batches(program, batch_size, images, *context)

    def gradients(self, images, labels, loss, context=(), batch_size=128):
        """Input gradients of a per-example loss, as an array."""

        def gradient(logits, x, y):
            return value_and_grad(lambda z: ops.sum(loss(logits(z), y)), x)[1]

        program = self.program(("gradient", loss), gradient)
        return in_batches(program, batch_size, images, labels, *context)


def _probabilities(outputs):
    """Whose they seem to be, of a model that does not say how it ends."""
    if not outputs.size or not np.all((outputs >= 0) & (outputs <= 1)):
        return None
    if np.all(outputs == outputs.flat[0]):
        return None  # constant
    # bfloat16 has three digits.
    rows = outputs.shape[-1] > 1 and np.all(np.abs(outputs.sum(axis=-1) - 1) < 1e-2)
    return "softmax" if rows else "sigmoid"
