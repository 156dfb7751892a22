from collections.abc import Sequence

import keras
from keras import layers

from keras_pde.models._common import dense_logits, initializers, normalized_input
from keras_pde.registry import register


@register("model", "lenet", input_shape=(12, 12, 1), tanh_logits=True)
def lenet(
    input_shape: Sequence[int] = (28, 28, 1),
    num_classes: int = 10,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    tanh_logits: bool = False,
    seed: int = 0,
) -> keras.Model:
    """LeNet-5 with ReLU and max pooling: 61,706 parameters, 416,520 multiply-adds at 28x28x1.

    Convolutions 5x5 to 6 and to 16 channels, each followed by 2x2 pooling, then dense layers of
    120, 84 and `num_classes` units.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", Proc. IEEE 1998. Deviations: ReLU for the scaled tanh, max pooling without
    weights, full connections, a linear head.

    Args:
        input_shape: (height, width, channels), at least 12 x 12.
        num_classes: number of logits.
        mean, std: one number a channel, in the units of the input; None for no normalisation.
        tanh_logits: whether to bound the logits, see `keras_pde.layers.TanhLogits`.
        seed: integer, fixes every initial weight.

    Returns:
        A `keras.Model` from images in [0, 1] to float32 logits.

    Example:

    >>> model = keras_pde.models.lenet()
    """
    initializer = initializers(seed)
    inputs, x = normalized_input(input_shape, mean, std)
    if min(input_shape[:2]) < 12:
        raise ValueError(
            f"Received input_shape={input_shape!r}; expected at least 12 x 12 pixels, which two "
            "poolings and a 5x5 kernel need. Use 'small_cnn' for smaller images."
        )
    for filters, padding in ((6, "same"), (16, "valid")):
        x = layers.Conv2D(
            filters, 5, padding=padding, activation="relu", kernel_initializer=next(initializer)
        )(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    for units in (120, 84):
        x = layers.Dense(units, activation="relu", kernel_initializer=next(initializer))(x)
    outputs = dense_logits(x, num_classes, tanh_logits, next(initializer))
    return keras.Model(inputs, outputs, name="lenet")
