"""Multiply-adds of calls: the rules for Keras' own layers, and what other layers' rules use.

A rule of the kind "cost" is a function of the operation, the arguments of its call and its output,
as symbolic tensors of one example, that returns a number.
"""

import math

from keras import layers

from keras_pde import _keras, graph

_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
# Operations of `keras.ops` that multiply without weights of their own.
_PRODUCTS = (
    "Conv",
    "ConvTranspose",
    "DepthwiseConv",
    "Dot",
    "DotProductAttention",
    "Einsum",
    "Inner",
    "Matmul",
    "Outer",
    "SeparableConv",
    "Tensordot",
    "Vdot",
)
_PRODUCT_LAYERS = (layers.AdditiveAttention, layers.Attention, layers.Dot, layers.Lambda)


def of(operation, *args, measure=None) -> int:
    """Cost of a call of a layer, model or operation, without entering the graph that it is in.

    Args:
        operation: what is called.
        *args: symbolic tensors.
        measure: what to count of each call in place of multiply-adds, as a "cost" rule does.

    Raises:
        ValueError: the cost of something in it is not known.
    """
    counts = []
    _counted(operation, counts, measure or _cost)(*args)
    return sum(counts)


def _counted(operation, counts, measure):
    """A function that makes the operation's symbolic output and notes what it costs."""

    def call(*args, **kwargs):
        given = args or tuple(kwargs.values())
        if _keras.graph_of(operation) is not None:
            # At the sizes of this call, which may differ from those it was built with.
            return graph.run(operation, given[0], lambda inner: _counted(inner, counts, measure))
        # Calling the operation would change its layer's place in other models.
        output = operation.compute_output_spec(*args, **kwargs)
        counts.append(measure(operation, given, output))
        return output

    return call


def _cost(operation, args, output):
    rule = graph.rule_of("cost", operation)
    if rule is not None:
        return rule(operation, args, output)
    name = type(operation).__name__
    multiplies = isinstance(operation, _PRODUCT_LAYERS) or name in _PRODUCTS
    multiplies |= not type(operation).__module__.startswith("keras.")  # for all that is known
    if multiplies or getattr(operation, "weights", ()):
        raise ValueError(
            f"Received a model with {operation.name!r} of type {name}, whose cost is not known; "
            "expected convolutions, dense layers, normalisation, and Keras' own without weights. "
            'Register a rule for it: `keras_pde.graph.rule("cost", ...)`.'
        )
    return 0


def free(operation, args, output) -> int:
    """Scales and shifts, number by number, are not counted, just as biases are not."""
    return 0


def kernels(operation, args, output) -> int:
    """Cost of a layer whose kernels act once at each position of the output."""
    return _positions(operation, output) * _size_of_kernels(operation)


def transposed_kernels(operation, args, output) -> int:
    """Cost of a layer whose kernels act once at each position of the input."""
    return _positions(operation, args[0]) * _size_of_kernels(operation)


def _size_of_kernels(layer):
    found = [getattr(layer, name) for name in _KERNELS if hasattr(layer, name)]
    return sum(math.prod(kernel.shape) for kernel in found)


def _positions(layer, tensor):
    """Number of entries of a tensor without its channels; its batch is one example."""
    axis = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
    return math.prod(tensor.shape) // tensor.shape[axis]


graph.rule(
    "cost",
    layers.Dense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)(kernels)
graph.rule("cost", layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)(
    transposed_kernels
)
graph.rule(
    "cost",
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.RMSNormalization,
)(free)
