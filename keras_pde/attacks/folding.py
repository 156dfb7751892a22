"""BatchNormalization folded into the convolution before it, for inference.

A convolution K * x + b followed by gamma (z - mean) / sqrt(variance + e) + beta is one convolution
with the kernel s K and the bias beta + s (b - mean), s = gamma / sqrt(variance + e). Logits change
by rounding only; the large elementwise products, forward and backward, disappear, and TensorFlow
fuses bias and ReLU into the convolution.
"""

import keras
from keras import ops

from keras_pde import _keras

_FLOAT = ("float32", "float64")


def prepare(model):
    """The model's inference-mode call, images -> outputs, with what can be folded folded.

    The folded weights are tensors of this moment: call it once for each use, outside of any loop.
    Models that are no graph of layers are called as they are.
    """
    graph = _keras.graph_of(model)
    pairs = _pairs(graph) if graph else {}
    if not pairs:
        return lambda images: model(images, training=False)
    replaced = {}
    for norm, conv in pairs.items():
        replaced[id(norm)] = lambda z, **_: z
        replaced[id(conv)] = _convolution(conv, *_folded(conv, norm))

    def operation(op):
        if id(op) in replaced:
            return replaced[id(op)]
        if isinstance(op, keras.layers.Layer):
            return lambda *args, **kwargs: op(*args, **{**kwargs, "training": False})
        return op

    def call(images):
        outputs = _keras.run_graph(graph, images, operation)
        flat = keras.tree.flatten(outputs)
        return flat[0] if len(flat) == 1 else outputs

    return call


def _folded(conv, norm):
    scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
    if norm.scale:
        scale = scale * norm.gamma
    bias = -norm.moving_mean * scale
    if conv.use_bias:
        bias = bias + conv.bias * scale
    if norm.center:
        bias = bias + norm.beta
    return conv.kernel * scale, bias


def _convolution(conv, kernel, bias):
    return lambda z, **_: ops.add(conv.convolution_op(z, kernel), bias)


def _pairs(graph):
    """BatchNormalization -> the convolution whose only purpose is to feed it."""
    outputs = {id(tensor) for tensor in graph.outputs}
    pairs = {}
    for norm in graph.layers:
        calls = _keras.calls_of(norm)
        if type(norm) is not keras.layers.BatchNormalization or len(calls) != 1:
            continue
        (tensor, *_) = calls[0]
        conv = _keras.producer(tensor)
        if (
            type(conv) is keras.layers.Conv2D
            and conv.activation is keras.activations.linear
            and conv.data_format == "channels_last"
            and norm.axis in (-1, 3)
            and len(_keras.calls_of(conv)) == _keras.uses_of(conv) == 1
            and id(tensor) not in outputs
            and conv.compute_dtype == norm.compute_dtype == conv.variable_dtype
            and conv.compute_dtype in _FLOAT
            and not getattr(conv, "lora_enabled", False)
            and getattr(conv, "quantization_mode", None) is None
        ):
            pairs[norm] = conv
    return pairs
