"""Models whose outputs depend on the batches that they are called with."""

from keras_pde import _keras


def check_stateless(model):
    """Refuses recurrent layers that remember the batch before, of which an attack makes many."""
    stateful = [
        layer.name for layer in _keras.layers_of(model) if getattr(layer, "stateful", False)
    ]
    if stateful:
        raise ValueError(
            f"Received a model with the stateful layers {stateful}, whose outputs depend on what "
            "it was called with before; expected one without: build it with stateful=False, and "
            "load its weights."
        )


def check_any_batch(model):
    """Refuses a model that is built for batches of one size, of which an attack makes others."""
    sizes = {tensor.shape[0] for tensor in getattr(model, "inputs", None) or []} - {None}
    if sizes:
        raise ValueError(
            f"Received a model for batches of {sizes.pop()} only; expected one for any size: build "
            "it with keras.Input(shape) in place of batch_shape and load its weights."
        )
