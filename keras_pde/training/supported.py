"""What Keras cannot do, or does wrongly, on several replicas."""

import itertools

import keras

from keras_pde import _keras
from keras_pde.optimizers.base_optimizer import BaseOptimizer
from keras_pde.optimizers.state import nested

_SCHEDULE_FREE = getattr(keras.optimizers, "ScheduleFreeAdamW", ())  # older Keras has none
_CRASHES = "it crashes in Keras (merge_call inside a condition)"
_CLIPS = "each replica's gradient is clipped before they are summed"
_UNSUPPORTED = {
    "gradient_accumulation_steps": _CRASHES,
    "ema_overwrite_frequency": _CRASHES,
    "clipnorm": _CLIPS,
    "global_clipnorm": _CLIPS,
    "clipvalue": _CLIPS,
}


def check_supported(optimizer, model):
    """Refuses what Keras cannot do, or does wrongly, under a strategy of several replicas."""
    check_optimizer(optimizer)
    for layer in _keras.layers_of(model):
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized:
            raise ValueError(
                f"Received the layer {layer.name!r} with synchronized=False under a strategy of "
                "several replicas, whose moving statistics would drift apart, so that the saved "
                "model is not the trained one. Build it with synchronized=True."
            )


def check_optimizer(optimizer):
    """The part of it that needs no model."""
    if isinstance(optimizer, _SCHEDULE_FREE):
        raise ValueError(
            "Received ScheduleFreeAdamW under a strategy of several replicas, where Keras reads "
            "its momenta after their update and trains something else. Use another, such as AdamW."
        )
    for part, (name, reason) in itertools.product(nested(optimizer), _UNSUPPORTED.items()):
        value = getattr(part, name)
        if reason is _CLIPS and isinstance(part, BaseOptimizer):
            continue  # which sums them first
        if value and (name != "ema_overwrite_frequency" or part.use_ema):
            raise ValueError(
                f"Received an optimizer with {name}={value} under a strategy of several replicas, "
                f"where {reason}. Create the optimizer without it."
            )
