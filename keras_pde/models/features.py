import keras

from keras_pde import graph


def features(model: keras.Model) -> keras.Model:
    """A classifier without its head: from its images to the input of its last dense layer.

    For fine-tuning: the weights are shared with `model`, and a new head goes on top.

    Args:
        model: functional model with a dense layer, such as those of `kp.models` and
            `kp.load_model`.

    Raises:
        ValueError: it has no graph of layers (a subclassed model), or no dense layer.

    Example:

    >>> trunk = kp.models.features(kp.models.create("small_cnn"))
    >>> model = keras.Model(trunk.input, keras.layers.Dense(3)(trunk.output))
    """
    calls = graph.calls(model)
    heads = [call for call in calls if isinstance(call.operation, keras.layers.Dense)]
    if not heads:
        raise ValueError(
            f"Received {model.name!r} without dense layers of its own; expected a functional model "
            "that ends in one."
        )
    return keras.Model(model.input, heads[-1].inputs[0], name="features")
