import keras

from keras_pde import _keras, graph


def features(model: keras.Model) -> keras.Model:
    """A classifier without its head: from its images to the input of its last dense layer.

    For fine-tuning: the weights are shared with `model`, and a new head goes on top.

    Args:
        model: functional model with a dense layer, such as those of `kp.models` and
            `kp.load_model`.

    Raises:
        ValueError: it has no graph of layers (a subclassed model), or ends in no dense layer.

    Example:

    >>> trunk = kp.models.features(kp.models.create("small_cnn"))
    >>> model = keras.Model(trunk.input, keras.layers.Dense(3)(trunk.output))
    """
    tensor = _input_of_head(model)
    if tensor is None:
        raise ValueError(
            f"Received {model.name!r}, which does not end in a dense layer; expected a functional "
            "model that does, but for activations."
        )
    return keras.Model(model.input, tensor, name="features")


def _input_of_head(model):
    """The tensor that the last dense layer takes, or `None` if the model does not end in one."""
    makers = {id(tensor): call for call in graph.calls(model) for tensor in call.outputs}
    call = makers.get(id(model.outputs[0])) if len(model.outputs) == 1 else None
    while call and len(call.inputs) == 1 and not isinstance(call.operation, keras.layers.Dense):
        inner = call.operation
        if _keras.graph_of(inner) is not None:  # whose head is the model's if it is all there is
            tensor = _input_of_head(inner)
            alone = tensor is not None and tensor is inner.inputs[0]
            return call.inputs[0] if alone else None
        if any(len(variable.shape) > 1 for variable in getattr(inner, "weights", ())):
            return None
        call = makers.get(id(call.inputs[0]))
    return call.inputs[0] if call and len(call.inputs) == 1 else None
