"""What a model's last layer says about its outputs, and whether a loss fits it."""

import keras


def activation(model) -> str | None:
    """Name of the activation the model ends with (`"softmax"`, `"linear"`, ...), if it can be told."""
    try:
        layers = model.layers
    except AttributeError:
        return None
    if not layers:
        return None
    last = layers[-1]
    if isinstance(last, keras.Model):
        return activation(last)
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    if isinstance(last, keras.layers.Dense | keras.layers.Activation):
        return getattr(last.activation, "__name__", None)
    return None


def check_loss(model, loss):
    """Refuses a cross-entropy whose `from_logits` contradicts the model's last activation.

    Only what can be told from the last layer is refused; a model whose head is unknown passes.
    """
    found = activation(model)
    if isinstance(loss, str) or callable(loss) and not isinstance(loss, keras.losses.Loss):
        name = loss if isinstance(loss, str) else getattr(loss, "__name__", "")
        from_logits = False
    elif isinstance(loss, keras.losses.Loss):
        name = type(loss).__name__
        from_logits = loss.get_config().get("from_logits", False)
    else:
        return
    if "crossentropy" not in name.lower().replace("_", ""):
        return
    if from_logits and found in ("softmax", "sigmoid"):
        raise ValueError(
            f"Received {name} with from_logits=True for a model that ends with {found!r}; the loss "
            "would squash probabilities again. Remove the activation (recommended: attacks need "
            "logits), or use from_logits=False."
        )
    if not from_logits and found == "linear":
        raise ValueError(
            f"Received {name} with from_logits=False for a model that ends with a linear layer; "
            "its outputs are logits, not probabilities. Use a loss with from_logits=True, such as "
            "keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
        )
