"""BatchNormalization folded into the convolution before it, for inference.

A convolution K * x + b followed by gamma (z - mean) / sqrt(variance + e) + beta is one convolution
with the kernel s K and the bias beta + s (b - mean), s = gamma / sqrt(variance + e). Logits change
by rounding only; the large elementwise products, forward and backward, disappear, and TensorFlow
fuses bias and ReLU into the convolution.
"""

import collections

import keras
from keras import ops

from keras_pde import _keras, graph

_FLOAT = ("float32", "float64")


def prepare(model):
    """The model's inference-mode call, images -> outputs, with what can be folded folded.

    The folded weights are tensors of this moment: call it once for each use, outside of any loop.
    Models that are no graph of layers are called as they are, and so are those nested in others.
    """
    replaced = _replaced(model)
    if not replaced:
        return lambda images: model(images, training=False)

    def operation_of(operation):
        if operation in replaced:
            return replaced[operation]
        if isinstance(operation, keras.layers.Layer):
            return lambda *args, **kwargs: operation(*args, **{**kwargs, "training": False})
        return operation

    return lambda images: graph.run(model, images, operation_of)


def _replaced(model):
    """Layer -> what is called in its place: of each pair that can be folded, both layers.

    Rules: "scale" is a function of a normalization that returns the scale and the shift of its
    channels (the last axis) in inference; "absorb" one of a linear layer, a scale and a shift that
    returns the call of all together. Either returns `None` if that is not what its layer does.
    """
    if _keras.graph_of(model) is None:
        return {}
    found = {}
    for norm, linear in _pairs(model):
        scaled = graph.rule_of("scale", norm)(norm)
        call = scaled and graph.rule_of("absorb", linear)(linear, *scaled)
        if call:
            found |= {norm: _of_inputs(lambda z: z), linear: _of_inputs(call)}
    return found


def _of_inputs(function):
    return lambda *args, **kwargs: function(graph.given(args, kwargs))


def _pairs(model):
    """Pairs of a normalization and the linear layer whose only purpose is to feed it."""
    calls = graph.calls(model)
    outputs = {id(tensor) for tensor in model.outputs}
    makers = {id(tensor): call.operation for call in calls for tensor in call.outputs}
    times = collections.Counter(id(call.operation) for call in calls)
    uses = collections.Counter(id(tensor) for call in calls for tensor in call.inputs)
    for call in calls:
        norm, tensor = call.operation, call.inputs[0]
        linear = makers.get(id(tensor))
        if not (graph.rule_of("scale", norm) and graph.rule_of("absorb", linear)):
            continue
        alone = times[id(norm)] == times[id(linear)] == uses[id(tensor)] == 1
        exact = norm.compute_dtype == linear.compute_dtype == linear.variable_dtype
        if alone and id(tensor) not in outputs and exact and linear.compute_dtype in _FLOAT:
            yield norm, linear


@graph.rule("scale", keras.layers.BatchNormalization)
def _of_batch_normalization(norm):
    if norm.axis not in (-1, 3):
        return None
    scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
    if norm.scale:
        scale = scale * norm.gamma
    shift = -norm.moving_mean * scale
    return scale, shift + norm.beta if norm.center else shift


@graph.rule("absorb", keras.layers.Conv2D)
def _into_convolution(conv, scale, shift):
    changed = getattr(conv, "lora_enabled", False) or getattr(conv, "quantization_mode", None)
    plain = conv.activation is keras.activations.linear and conv.data_format == "channels_last"
    if changed or not plain:
        return None
    bias = shift + conv.bias * scale if conv.use_bias else shift
    kernel = conv.kernel * scale
    # Cast as the layer's own call would be.
    return lambda z: ops.add(conv.convolution_op(ops.cast(z, conv.compute_dtype), kernel), bias)
