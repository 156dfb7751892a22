from collections.abc import Sequence

import keras
from keras import layers

from keras_pde.checks import check_count, check_counts, check_flag
from keras_pde.layers import batch_norm
from keras_pde.models._common import dense_logits, initializers, normalized_input
from keras_pde.registry import register, unknown_name


@register(
    "model",
    "resnext34_2x32",
    input_shape=(8, 8, 3),
    variant="2019",
    width=4,
    blocks=(1, 1),
)
def resnext34_2x32(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    variant: str = "2018",
    width: int = 32,
    blocks: Sequence[int] = (5, 5, 5),
    branches: int = 2,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    tanh_logits: bool = False,
    seed: int = 0,
) -> keras.Model:
    """The residual network of the Lipschitz regularization papers, as either of them ran it.

    Stages of `blocks` residual blocks at widths w, 2w, 4w, each block the mean over the branches of

        3x3 convolution - BatchNorm - ReLU - 3x3 convolution - BatchNorm,

    plus the identity, then ReLU. Between stages a 1x1 convolution doubles the width and 2x2 average
    pooling halves the image:

    - `"2018"`: within the first block of the new stage, the pooling after its residual sum, so
      that block runs at the old resolution. 3,892,490 trainable parameters (one more with
      `tanh_logits`), 797,803,776 multiply-adds at 32x32x3.
    - `"2019"`: before the stage. The head is also batch-normalized, biased and passed through ReLU,
      so logits are not negative. 3,892,298 trainable parameters, 571,311,360 multiply-adds.

    The authors write the branches as one grouped convolution. Parallel convolutions are the same
    mathematics and the same number of weights; on a CPU TensorFlow differentiates them 15 to 30
    times faster.

    Sources: Finlay, Oberman and Abbasi, 2018 (arXiv 1810.00953); Finlay and Oberman, "Scaleable
    input gradient regularization", 2019 (arXiv 1905.11468), and the code published with them.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        variant: `"2018"` or `"2019"`.
        width: channels of the first stage.
        blocks: number of residual blocks of each stage.
        branches: number of branches of each block.
        mean, std: one number a channel, in the units of the input; None, as in the papers, for no
            normalisation.
        tanh_logits: whether to bound the logits, see `keras_pde.layers.TanhLogits`; `"2018"` only.
        seed: integer, fixes every initial weight.

    Returns:
        A `keras.Model` from images in [0, 1] to float32 logits.

    Raises:
        ValueError: the variant is unknown, `tanh_logits` is asked of `"2019"`, or a stage or a
            block is empty.

    Example:

    >>> model = keras_pde.models.resnext34_2x32(width=8, blocks=(2, 2, 2))
    """
    if variant not in ("2018", "2019"):
        raise unknown_name("variant", variant, ("2018", "2019"))
    if variant == "2019" and check_flag(tanh_logits, "tanh_logits"):
        raise ValueError(
            "Received tanh_logits=True with variant='2019', whose head already normalizes its "
            "logits; expected tanh_logits=False, or variant='2018'."
        )
    blocks = check_counts(blocks, "blocks", example="(5, 5, 5)")
    width, branches = check_count(width, "width"), check_count(branches, "branches")
    num_classes = check_count(num_classes, "num_classes")
    initializer = initializers(seed)

    def conv(x, filters, kernel_size, **kwargs):
        return layers.Conv2D(
            filters, kernel_size, padding="same", kernel_initializer=next(initializer), **kwargs
        )(x)

    def norm_relu(x, **kwargs):
        return layers.ReLU()(batch_norm(**kwargs)(x))

    def branch(x, filters):
        x = norm_relu(conv(x, filters, 3, use_bias=False))
        return batch_norm()(conv(x, filters, 3, use_bias=False))

    def block(x, filters):
        parts = [branch(x, filters) for _ in range(branches)]
        mean_branch = layers.Average()(parts) if branches > 1 else parts[0]
        return layers.ReLU()(layers.Add()([x, mean_branch]))

    inputs, x = normalized_input(input_shape, mean, std)
    if variant == "2018":
        # Training cannot move this bias, which the normalization cancels; the source counts it.
        x = norm_relu(conv(x, width, 3), scale=False, center=False)
    else:
        x = norm_relu(conv(x, width, 3, use_bias=False), scale=False)
    for stage, count in enumerate(blocks):
        filters = width * 2**stage
        if stage and variant == "2018":
            x = norm_relu(conv(x, filters, 1, use_bias=False))
            x = layers.AveragePooling2D(2)(block(x, filters))
            count -= 1
        elif stage:
            x = norm_relu(conv(x, filters, 1, use_bias=False), scale=False)
            x = layers.AveragePooling2D(2)(x)
        for _ in range(count):
            x = block(x, filters)
    x = layers.GlobalAveragePooling2D()(x)
    if variant == "2018":
        outputs = dense_logits(x, num_classes, tanh_logits, next(initializer))
    else:
        x = layers.Dense(
            num_classes, use_bias=False, kernel_initializer=next(initializer), dtype="float32"
        )(x)
        outputs = layers.ReLU(dtype="float32")(batch_norm(scale=False, dtype="float32")(x))
    return keras.Model(inputs, outputs, name="resnext34_2x32")
