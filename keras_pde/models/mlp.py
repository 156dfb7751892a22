from collections.abc import Sequence

import keras
from keras import layers

from keras_pde.checks import check_counts
from keras_pde.models._common import dense_logits, initializers, normalized_input
from keras_pde.registry import register


@register("model", "mlp", input_shape=(4, 4, 1), hidden=(6, 5), activation="elu", tanh_logits=True)
def mlp(
    input_shape: Sequence[int] = (28, 28, 1),
    num_classes: int = 10,
    hidden: Sequence[int] = (256, 256),
    activation: str = "relu",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    tanh_logits: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Dense layers on the flattened image: 269,322 parameters, 268,800 multiply-adds by default.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        hidden: width of each hidden layer; `()` gives a linear classifier.
        activation: name of a Keras activation.
        mean, std: one number a channel, in the units of the input; None for no normalisation.
        tanh_logits: whether to bound the logits, see `keras_pde.layers.TanhLogits`.
        seed: integer, fixes every initial weight.

    Returns:
        A `keras.Model` from images in [0, 1] to float32 logits.

    Example:

    >>> model = keras_pde.models.mlp(hidden=(64, 64))
    """
    hidden = check_counts(hidden, "hidden", example="(256, 256)") if hidden != () else ()
    initializer = initializers(seed)
    inputs, x = normalized_input(input_shape, mean, std)
    x = layers.Flatten()(x)
    for units in hidden:
        x = layers.Dense(units, activation=activation, kernel_initializer=next(initializer))(x)
    outputs = dense_logits(x, num_classes, tanh_logits, next(initializer))
    return keras.Model(inputs, outputs, name="mlp")
