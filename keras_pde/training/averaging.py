"""A second network whose weights are the exponential moving average of the trained one's."""

import keras
from keras import ops

from keras_pde import _keras


def twin(model):
    """A copy of a built model that holds averages; it is never trained itself.

    Raises:
        ValueError: the model has no weights yet, or cannot be copied.
    """
    if not model.built:
        raise ValueError(
            "Received average=... for a model that is not built; call it on a batch first, or "
            "declare its input with keras.Input."
        )
    try:
        copy = keras.models.clone_model(model)
        _keras.set_weights(copy, model.get_weights())
    except (ValueError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"Received average=... for {type(model).__name__}, which Keras cannot copy ({error}); "
            "write its `get_config` and build its weights in `build`, or pass average=None."
        ) from error
    copy.trainable = False
    return copy


def pairs(averaged, model):
    """(average, value) variables: all that a forward pass reads, BatchNormalization's too."""
    if averaged is None:
        return []
    return [
        (average, value)
        for average, value in zip(averaged.weights, model.weights, strict=True)
        if keras.backend.is_float_dtype(value.dtype)
    ]


def updated(average, value, decay, iteration):
    """The average after one more value; `iteration` counts from 1.

    The decay grows to its final value as (1 + t) / (10 + t), so that the random initial weights are
    forgotten.
    """
    step = ops.cast(iteration, average.dtype)
    decay = ops.minimum(ops.cast(decay, average.dtype), (1 + step) / (10 + step))
    return average + (1 - decay) * (ops.cast(value, average.dtype) - average)
