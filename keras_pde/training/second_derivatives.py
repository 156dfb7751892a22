"""Whether TensorFlow differentiates a user's own layers twice, and rightly.

What it lacks or gets wrong in Keras' own layers is mended (`tensorflow_twice`), as a test of them
all shows, and JAX is right. With layers that nobody knows, a penalty is tried before training.
"""

import contextlib
import functools

import keras
import numpy as np

from keras_pde import _keras, graph
from keras_pde.autodiff import value_and_grad
from keras_pde.calls import in_place_of
from keras_pde.layers import ContinuousBlock

_DIRECTIONS = 5
_LENGTHS = (1e-7, 4e-7)  # so short that hardly a unit of a ReLU network changes sides
_CONVERGED = 1e-4  # how far two finite differences may be apart to be believed
_WRONG = 1e-3
_ZERO = {  # whose derivative TensorFlow takes for zero
    "ResizeBilinearGrad",
    "FakeQuantWithMinMaxArgsGradient",
    "FakeQuantWithMinMaxVarsGradient",
    "FakeQuantWithMinMaxVarsPerChannelGradient",
}


def check(perturbed, images, inputs=None):
    """Refuses a model with layers of the user's own by which a penalty would be trained wrongly.

    Args:
        perturbed: the `Perturbed` of a built Keras model.
        images: a few examples of what is perturbed, as an array.
        inputs: of the model, if they are not that.

    Raises:
        ValueError: TensorFlow knows no second derivative, or one that is not the gradient's.
    """
    if keras.backend.backend() != "tensorflow":
        return
    layers = _keras.layers_of(perturbed.model)
    _check_memory(layers)
    strange = [layer for layer in layers if not _is_known(layer)] + _strange_operations(perturbed)
    if not strange:
        return
    arguments = (perturbed, images, inputs)
    wrong = _missing(*arguments) or _not_as_by_differences(*arguments)
    if wrong:
        names = ", ".join(f"{layer.name!r} ({type(layer).__name__})" for layer in strange)
        raise ValueError(
            f"Received a model of which TensorFlow {wrong}, so that this penalty would be trained "
            "in a wrong direction. Expected layers that can be differentiated twice; of these it "
            f"is not known: {names}. Write them without stop_gradient, custom gradients, a "
            "tf.function of their own and the operation named, or use "
            'keras_pde.objectives.GradientPenalty(..., method="finite_difference"), which needs '
            "first derivatives only."
        )


def _check_memory(layers):
    """Refuses blocks that compute steps again for the gradient, which TensorFlow does only once."""
    for block in layers:
        if isinstance(block, ContinuousBlock) and block.memory in ("remat", "checkpoint"):
            raise ValueError(
                f"Received {block.name!r} with memory={block.memory!r} for a penalty on input "
                "gradients, which TensorFlow cannot differentiate; expected memory='store' or "
                "'reversible', or GradientPenalty(..., method='finite_difference')."
            )


def _strange_operations(perturbed):
    """Operations of a graph that are no layers, and not differentiated twice as they stand."""
    if _keras.graph_of(perturbed.model) is None:
        return []
    operations = [call.operation for call in graph.calls(perturbed.model)]
    return [o for o in operations if type(o).__name__ == "StopGradient"]


def _is_known(layer):
    """Whether it is a layer of Keras or of this library, with functions of theirs only."""
    parts = [
        type(layer),
        *(getattr(layer, n, None) for n in ("activation", "recurrent_activation")),
    ]
    homes = {part.__module__.split(".")[0] for part in parts if hasattr(part, "__module__")}
    return homes <= {"keras", "keras_pde"} and not isinstance(layer, keras.layers.Lambda)


def _missing(perturbed, images, inputs):
    """What TensorFlow has no second derivative of, if there is such a thing."""
    import tensorflow as tf

    from keras_pde.tensorflow_twice import SCOPE

    slope = _slope(perturbed, images, inputs, "float32")
    variables = [tf.convert_to_tensor(v) for v in perturbed.model.trainable_variables]

    @tf.function(autograph=False)
    def twice(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            value = slope(values)
        return tape.gradient(value, values, unconnected_gradients="zero")

    try:
        traced = twice.get_concrete_function(variables).graph.as_graph_def()
    except LookupError as unknown:  # in the registry of gradients
        return f"knows no second derivative ({unknown})"
    except Exception:  # what runs eagerly only is seen by differences, below
        return None
    functions = [traced.node, *(function.node_def for function in traced.library.function)]
    nodes = (node for nodes in functions for node in nodes if SCOPE not in node.name)
    zero = _ZERO & {node.op for node in nodes}
    return f"takes the derivative of {', '.join(sorted(zero))} for zero" if zero else None


def _not_as_by_differences(perturbed, images, inputs):
    """How far finite differences say without doubt that it is off, if it is."""
    rng = np.random.default_rng(2018)
    model = perturbed.model
    values = [keras.ops.convert_to_numpy(v).astype("float64") for v in model.trainable_variables]
    found = []
    try:
        with _in_double(model):
            slope = _slope(perturbed, images.astype("float64"), inputs, "float64")
            gradient = value_and_grad(slope, values)[1]
            for _ in range(_DIRECTIONS):
                v = [rng.normal(size=value.shape) for value in values]

                def at(h, v=v):
                    return float(slope([w + h * d for w, d in zip(values, v, strict=True)]))

                differences = [(at(h) - at(-h)) / (2 * h) for h in _LENGTHS]
                parts = (float(np.sum(g * d)) for g, d in zip(gradient, v, strict=True))
                found.append((sum(parts), *differences))
    except Exception:  # a layer of the user's own that cannot compute in float64
        return None
    found = np.asarray(found)
    scale = np.abs(found).max()
    sure = np.abs(found[:, 1] - found[:, 2]) <= _CONVERGED * scale
    error = np.max(np.abs(found[:, 0] - found[:, 1]), where=sure, initial=0.0)
    return (
        f"gets second derivatives wrong by {error / scale:.1%}" if error > _WRONG * scale else None
    )


@contextlib.contextmanager
def _in_double(model):
    """Within it the layers compute in float64, if they are given that."""
    layers, floatx = _keras.layers_of(model), keras.config.floatx()
    policies = [layer.dtype_policy for layer in layers]
    keras.config.set_floatx("float64")
    with contextlib.ExitStack() as stack:
        stack.callback(keras.config.set_floatx, floatx)
        for layer, policy in zip(layers, policies, strict=True):
            stack.callback(setattr, layer, "dtype_policy", policy)
            layer.dtype_policy = "float64"
            inner = _keras.graph_that_runs(layer)
            if inner is not None:
                stack.callback(setattr, layer, "autocast", layer.autocast)
                layer.autocast = False
                stack.enter_context(in_place_of(layer, functools.partial(_by_layers, inner)))
        yield


def _by_layers(inner, call, inputs, *args, **kwargs):
    """A graph's layers one by one: as a whole it would cast its inputs to float32."""

    def operation_of(operation):
        is_layer = isinstance(operation, keras.layers.Layer)
        return functools.partial(operation, training=False) if is_layer else operation

    return _keras.run_graph(inner, inputs, operation_of)


def _slope(perturbed, images, inputs, dtype):
    """A function of the trainable variables' values: an input gradient along a direction."""
    rng = np.random.default_rng(2018)
    direction = rng.normal(size=images.shape).astype(dtype)
    model = perturbed.model

    def slope(values):
        state = [v for v in model.non_trainable_variables if v.dtype.startswith("float")]
        pairs = [*zip(model.trainable_variables, values, strict=True)]
        pairs += [(v, keras.ops.cast(v, dtype)) for v in state]

        def total(x):
            with keras.StatelessScope() as scope:
                for pair in pairs:
                    scope.add_update(pair)  # as it is; what the constructor gets it casts
                outputs = perturbed.call(x, inputs, training=False)
            mix = np.random.default_rng(1999).normal(size=outputs.shape)
            return keras.ops.sum(keras.ops.sin(outputs) * keras.ops.cast(mix, outputs.dtype))

        gradient = value_and_grad(total, keras.ops.convert_to_tensor(images))[1]
        return keras.ops.sum(gradient * direction)

    return slope
