"""What a model's last layer says about its outputs, and whether a loss fits it."""

import keras

from keras_pde import graph


def loss_name(loss) -> str:
    """Name of a loss given as a string, a function or an object."""
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)


def name_of(metric) -> str:
    """Name under which a metric is logged."""
    return getattr(metric, "name", None) or getattr(metric, "__name__", "")


def check_loss(model, loss):
    """Refuses a cross-entropy whose `from_logits` contradicts the model's last activation.

    Only what can be told from the last layer is refused; a model whose head is unknown passes.
    """
    found = graph.activation(model)
    name = loss_name(loss)
    if "crossentropy" not in name.lower().replace("_", ""):
        return
    if isinstance(loss, keras.losses.Loss):
        from_logits = loss.get_config().get("from_logits")
    else:  # a name, or one of Keras' functions, whose default it is
        keras_own = isinstance(loss, str) or getattr(loss, "__module__", "").startswith("keras.")
        from_logits = False if keras_own else None
    if from_logits is None:  # one of the user's own, which may do as it likes
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
