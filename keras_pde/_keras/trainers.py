"""Of `compile` and `fit`."""

import contextlib

import keras


def replace_optimizer(model, optimizer):
    """Gives a compiled model another optimizer, which `save` writes too."""
    model.optimizer = optimizer
    model._compile_config.config["optimizer"] = optimizer


@contextlib.contextmanager
def regularisers(model, losses):
    """Within it `compute_loss` adds these losses in place of those that the layers hold."""
    model._losses_override = list(losses)
    try:
        yield
    finally:
        model._losses_override = []


def as_added(model, loss):
    """What `compute_loss` adds for one of them."""
    return model._aggregate_additional_loss(loss)


def track_loss(model, loss, count):
    """Updates the metric "loss" of a `train_step` on TensorFlow, for so many examples."""
    model._loss_tracker.update_state(loss, sample_weight=count)


def put_back(model, state):
    """On JAX, within `train_function`: what `fit` puts back into the variables if it is left."""
    kinds = ("trainable", "non_trainable", "optimizer", "metrics")
    pairs = zip(kinds, state, strict=True)
    model._jax_state = {f"{kind}_variables": values for kind, values in pairs}


def create_state(model, x, y):
    """Creates optimizer's and metrics' variables, which the first step would create otherwise.

    Of arrays alone; what cannot be called with symbols is left to that step.
    """
    if not all(hasattr(a, "dtype") and hasattr(a, "shape") and len(a.shape) for a in (x, y)):
        return
    # The step casts images that are integers, too.
    kind = keras.backend.standardize_dtype(x.dtype)
    kind = kind if "float" in kind else model.compute_dtype
    images = keras.KerasTensor((None, *x.shape[1:]), kind)
    labels = keras.KerasTensor((None, *y.shape[1:]), keras.backend.standardize_dtype(y.dtype))
    with contextlib.suppress(Exception):
        model._symbolic_build(data_batch=(images, labels, None))
