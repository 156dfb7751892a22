"""Whether a model can be differentiated by its inputs, and where the derivative ends if not."""

import functools

import keras
import numpy as np
from keras import ops

from keras_pde import _keras, graph
from keras_pde.attacks.perturbed import is_float_tensor
from keras_pde.autodiff import value_and_grad
from keras_pde.checks import limits

_FEW = 8  # examples on which a new model is tried
_TINY = float(np.finfo("float32").tiny)


def few(x, bounds):
    """A few examples of what `fit` takes, as arrays, without reading a dataset.

    Of a `tf.data.Dataset` it is noise of the shape and type that it states; `None` where nothing
    can be known.
    """
    if isinstance(x, keras.utils.PyDataset):
        x = keras.utils.unpack_x_y_sample_weight(x[0])[0]
    if hasattr(x, "element_spec"):
        specs = keras.utils.unpack_x_y_sample_weight(x.element_spec)[0]
        x = keras.tree.map_structure(lambda spec: _of_spec(spec, bounds), specs)
    found = keras.tree.map_structure(
        lambda array: ops.convert_to_numpy(array[:_FEW]) if hasattr(array, "shape") else None, x
    )
    leaves = keras.tree.flatten(found)
    return found if leaves and all(leaf is not None for leaf in leaves) else None


def _of_spec(spec, bounds):
    """Noise of a `tf.TensorSpec`, of which shapes may not be known."""
    rank = spec.shape.rank
    if not rank or None in spec.shape[1:]:
        return None
    shape = (_FEW, *spec.shape[1:])
    rng = np.random.default_rng(2018)
    if not spec.dtype.is_floating:  # numbers of tokens, say
        return rng.integers(0, 2, shape)
    low, high = limits(bounds or (0.0, 1.0))
    return rng.uniform(low.min(), high.max(), shape).astype(spec.dtype.as_numpy_dtype)


def slope_of(perturbed, training=False):
    """A function of images: the outputs, and the gradient of a mix of them.

    After the images it takes all inputs, where these are not the one input of the model.

    Args:
        perturbed: a `Perturbed`.
        training: whether in training mode, in which random layers are no identities.
    """

    def slope(images, *inputs):
        def total(z):
            with keras.StatelessScope():  # what a layer assigns is dropped
                outputs = perturbed.call(z, *(inputs or [None]), training=training)
            return mixed(outputs), outputs

        (_, outputs), gradient = value_and_grad(total, images, has_aux=True)
        return outputs, gradient

    if keras.backend.backend() == "jax":
        import jax

        slope = jax.jit(slope)
    return lambda *arrays: slope(*keras.tree.map_structure(ops.convert_to_tensor, arrays))


_SHARES = (0, 0.01, 1)


def probes(images):
    """The images, images near them, and noise far from them: if one is flat, not all are."""
    low, high = min(images.min(), 0.0), max(images.max(), 1.0)
    noise = np.random.default_rng(2018).uniform(low, high, images.shape)
    copies = [(1 - share) * images + share * noise for share in _SHARES]
    return np.concatenate(copies).astype(images.dtype)


def check(perturbed, slope, images, context=(), may_saturate=False):
    """Refuses a model whose gradient is zero at all images, near them and far from them.

    A constant model is let through, since for it that is the truth.

    Args:
        perturbed: the `Perturbed` of the model, in which the culprit is looked for.
        slope: function of images and context that returns the outputs and a gradient, as arrays.
        images: a few, as an array.
        context: further arguments of `slope`: nestings of arrays, with as many rows.
        may_saturate: whether outputs may be probabilities; if all are 0 or 1, that says nothing.

    Raises:
        ValueError: names the layer at which the derivative ends, if it can be told.
    """
    images = probes(images)
    context = keras.tree.map_structure(
        lambda array: np.concatenate([array] * len(_SHARES)), list(context)
    )
    outputs, gradient = map(ops.convert_to_numpy, slope(images, *context))
    saturated = may_saturate and are_saturated(outputs)
    if np.any(gradient) or saturated or not np.any(outputs != outputs[:1]):
        return
    found = culprit(perturbed.model, images) if perturbed.is_plain else None
    where = (
        f"it ends at the layer {found.name!r} ({type(found).__name__})"
        if found
        else (
            "something in it is not differentiable (round, argmax, a comparison, a cast to "
            "integers, stop_gradient)"
        )
    )
    raise ValueError(
        f"Received a model whose outputs depend on the inputs, but with an input gradient of "
        f"exactly zero at all {len(images)} tried: {where}. A gradient attack would call it robust "
        "whatever it is, and training with one would be plain; replace that operation by a "
        "differentiable one, leave it out, or perturb the output of a layer behind it, as of the "
        "embedding of a text, by at=..., its name."
    )


def are_saturated(outputs) -> bool:
    """Whether all are 0 or 1: the gradient is zero then, though the model be differentiable."""
    return bool(np.all((np.abs(outputs) < _TINY) | (np.abs(outputs - 1) < 1e-6)))


def culprit(model, images):
    """The first operation that the outputs can be differentiated by, though nothing before it.

    `None` for a model that is no graph of layers.
    """
    if _keras.graph_of(model) is None:
        return None
    operations, outputs = [], []

    def called(operation, *args, **kwargs):
        if isinstance(operation, keras.layers.Layer):
            kwargs["training"] = False
        return operation(*args, **kwargs)

    def noted(operation, *args, **kwargs):
        output = called(operation, *args, **kwargs)
        if is_float_tensor(output):
            operations.append(operation)
            outputs.append(output)
        return output

    def replaced_by(function):
        def replaced(operation):
            nested = _keras.graph_of(operation) is not None
            return None if nested else functools.partial(function, operation)

        return replaced

    inputs = ops.convert_to_tensor(images)
    graph.run(model, inputs, replaced_by(noted))

    def total(shifts):
        waiting = iter(shifts)

        def shifted(operation, *args, **kwargs):
            output = called(operation, *args, **kwargs)
            return output + next(waiting) if is_float_tensor(output) else output

        return mixed(graph.run(model, inputs, replaced_by(shifted)))

    gradients = value_and_grad(total, [ops.zeros_like(output) for output in outputs])[1]
    reached = (np.any(ops.convert_to_numpy(gradient)) for gradient in gradients)
    return next((o for o, yes in zip(operations, reached, strict=True) if yes), None)


def mixed(outputs):
    """A sum with weights that no model has: that of logits, or of squares, may be constant."""
    weights = np.random.default_rng(2018).normal(size=tuple(outputs.shape[1:]))
    return ops.sum(ops.cast(outputs, "float32") * ops.convert_to_tensor(weights, "float32"))
