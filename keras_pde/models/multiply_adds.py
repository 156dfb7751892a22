import math

import keras
from keras import layers

from keras_pde._keras import graph_of, run_graph
from keras_pde.layers import (
    AntisymmetricConv2D,
    AntisymmetricDense,
    ContinuousBlock,
    SymmetricConv2D,
    SymmetricDense,
    TanhLogits,
    TVNormalization,
)

# Exact types are looked up: a subclass may have a `call` of its own.
_PRODUCTS = (
    layers.Dense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    AntisymmetricConv2D,
    AntisymmetricDense,
)
_TWICE = (SymmetricConv2D, SymmetricDense)  # the kernel and its adjoint
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
# Their weights scale and shift, number by number, and are not counted, just as biases are not.
_ELEMENTWISE = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.RMSNormalization,
    TanhLogits,
    TVNormalization,
)
# What multiplies without weights of its own: layers, and operations of `keras.ops`.
_UNKNOWN = (
    "AdditiveAttention",
    "Attention",
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


def multiply_adds(model) -> int:
    """Multiply-add operations of the forward pass of one example, the usual measure of its cost.

    Convolutions of all kinds and dense layers are counted, in nested models too, and a layer that
    is called twice is counted twice; the rate of a continuous block at each stage of each step. A
    kernel costs its number of weights at each position of the output; of the input, if transposed.
    Multiplications by zeros of the padding are included; biases, normalisation, activations,
    pooling and other elementwise work are not.

    Args:
        model: a Functional or Sequential model of inputs with known sizes.

    Returns:
        The number of multiply-adds.

    Raises:
        ValueError: the model is no graph of layers, an input has an unknown size, or the cost of a
            layer is not known: one with weights of another type, or a product of two activations.

    Example:

    >>> keras_pde.models.multiply_adds(keras_pde.models.small_cnn())
    5111680
    """
    graph = graph_of(model)
    if graph is None:
        raise ValueError(
            f"Received a model of type {type(model).__name__}; expected a Functional model, or a "
            "Sequential one that has an Input. Of a RobustModel, pass its `model`."
        )
    shapes = [tuple(tensor.shape[1:]) for tensor in graph.inputs]
    if any(None in shape for shape in shapes):
        raise ValueError(
            f"Received a model with inputs of shape {shapes}; expected known sizes. Build it with "
            "an `input_shape` without None."
        )
    inputs = [
        keras.KerasTensor((1, *shape), dtype=tensor.dtype)
        for shape, tensor in zip(shapes, graph.inputs, strict=True)
    ]
    counts = []
    _run(graph, inputs, counts)
    return sum(counts)


def _run(graph, inputs, counts):
    """The graph's outputs for symbolic inputs; appends the cost of each call to `counts`."""
    return run_graph(graph, inputs, lambda operation: _counted(operation, counts))


def _counted(operation, counts):
    def call(*args, **kwargs):
        nested = graph_of(operation)
        if nested is not None:
            # At the sizes of this call, which may differ from those it was built with.
            return _run(nested, args[0], counts)
        # Calling the operation would change its layer's place in other models.
        output = operation.compute_output_spec(*args, **kwargs)
        counts.append(_cost(operation, args, output))
        return output

    return call


def _cost(operation, args, output):
    kind = type(operation)
    if isinstance(operation, ContinuousBlock):
        return _cost_of_block(operation)
    if kind in _PRODUCTS or kind in _TRANSPOSED or kind in _TWICE:
        kernels = [getattr(operation, name) for name in _KERNELS if hasattr(operation, name)]
        positions = _positions(operation, args[0] if kind in _TRANSPOSED else output)
        return (1 + (kind in _TWICE)) * positions * sum(math.prod(k.shape) for k in kernels)
    weights = getattr(operation, "weights", ())
    if kind.__name__ in _UNKNOWN or (weights and kind not in _ELEMENTWISE):
        raise ValueError(
            f"Received a model with {operation.name!r} of type {kind.__name__}, whose cost is not "
            "known; expected convolutions, dense layers, normalisation, and layers without weights."
        )
    return 0


def _cost_of_block(block):
    total = 0
    for part, stacked in enumerate(block.rates):
        image = keras.KerasTensor((1, *stacked.shape[1:]), dtype=block.compute_dtype)
        counts = []
        _counted(stacked.template.layer, counts)(image)
        total += block.steps * block.scheme.parts.count(part) * sum(counts)
    return total


def _positions(layer, tensor):
    """Number of entries of a tensor without its channels; its batch is one example."""
    axis = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
    return math.prod(tensor.shape) // tensor.shape[axis]
