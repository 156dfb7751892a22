from collections.abc import Sequence

import keras
from keras import layers

from keras_pde.checks import check_count, check_counts
from keras_pde.layers import batch_norm
from keras_pde.models._common import dense_logits, initializers, normalized_input
from keras_pde.registry import register, unknown_name

ACTIVATIONS = ("relu", "silu", "softplus")


@register(
    "model",
    "preact_resnet",
    input_shape=(8, 8, 3),
    width=4,
    blocks=(1, 1),
    activation="silu",
    tanh_logits=True,
)
def preact_resnet(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    width: int = 64,
    blocks: Sequence[int] = (2, 2, 2, 2),
    activation: str = "relu",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    tanh_logits: bool = False,
    seed: int = 0,
) -> keras.Model:
    """The pre-activation residual network; by default PreActResNet-18.

    The usual network of papers on robust training, with room for smooth activations. A 3x3
    convolution to w channels, then stages of `blocks` residual blocks at widths w, 2w, 4w,
    8w, which halve the image between stages by stride 2, then BatchNorm, activation and the mean
    over the image. Each block maps x to

        x + conv(act(bn(conv(a)))),    a = act(bn(x)),

    with 3x3 convolutions without bias; where the shape changes, a 1x1 convolution of a takes the
    place of the first x.

    With the default arguments 11,172,170 trainable parameters and 555,422,720 multiply-adds; at
    width 48 they are 6,287,098 and 312,758,016. Code without the BatchNorm after the last stage,
    which is also in use, has 11,171,146 parameters.

    Sources: He, Zhang, Ren and Sun, "Identity mappings in deep residual networks", 2016 (arXiv
    1603.05027), with the stages of ResNet-18 and the stem for small images of Rice, Wong and
    Kolter, 2020 (arXiv 2002.11569). Smooth activations in adversarial training: Xie et al., 2020
    (arXiv 2006.14536). Deviation: Keras pads a strided convolution below and to the right only.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        width: w, channels of the first stage.
        blocks: number of residual blocks of each stage.
        activation: `"relu"`, `"silu"` or `"softplus"`.
        mean, std: one number a channel, in the units of the input; None for no normalisation.
        tanh_logits: whether to bound the logits, see `keras_pde.layers.TanhLogits`.
        seed: integer, fixes every initial weight.

    Returns:
        A `keras.Model` from images in [0, 1] to float32 logits.

    Raises:
        ValueError: the activation is unknown, or the width or a stage is empty.

    Example:

    >>> model = keras_pde.models.preact_resnet(width=16, activation="silu")
    """
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    width = check_count(width, "width")
    blocks = check_counts(blocks, "blocks", example="(2, 2, 2, 2)")
    initializer = initializers(seed)

    def conv(x, filters, kernel_size, strides=1):
        return layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=next(initializer),
        )(x)

    def activated(x):
        return layers.Activation(activation)(batch_norm()(x))

    def block(x, filters, strides):
        a = activated(x)
        if strides > 1:
            x = conv(a, filters, 1, strides)
        return layers.Add()([x, conv(activated(conv(a, filters, 3, strides)), filters, 3)])

    inputs, x = normalized_input(input_shape, mean, std)
    x = conv(x, width, 3)
    for stage, count in enumerate(blocks):
        for index in range(count):
            x = block(x, width * 2**stage, strides=2 if stage and not index else 1)
    x = layers.GlobalAveragePooling2D()(activated(x))
    outputs = dense_logits(x, num_classes, tanh_logits, next(initializer))
    return keras.Model(inputs, outputs, name="preact_resnet")
