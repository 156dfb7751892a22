from collections.abc import Sequence

import keras
from keras import layers

from keras_pde.checks import check_count, check_number
from keras_pde.integrators import RungeKutta
from keras_pde.layers import ContinuousBlock, batch_norm
from keras_pde.models._common import dense_logits, normalized_input, seeds
from keras_pde.registry import register, unknown_name

ACTIVATIONS = ("relu", "silu", "softplus", "gelu", "tanh")


@register("model", "continuous_net", input_shape=(8, 8, 3), width=4, steps=2, activation="softplus")
def continuous_net(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    width: int = 16,
    steps: int = 8,
    scheme: str | RungeKutta = "euler",
    basis: str = "constant",
    num_basis: int | None = None,
    horizon: float | None = None,
    stitch: float | None = None,
    activation: str = "relu",
    memory: str = "store",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    tanh_logits: bool = False,
    seed: int = 0,
) -> keras.Model:
    """ContinuousNet: a residual network whose stages are ordinary differential equations in depth.

    A 3x3 convolution to w channels, BatchNorm and the activation; then three stages of w, 2w and 4w
    channels, each a residual unit (the stitch), which from the second stage on halves the image,
    and a `ContinuousBlock`; then BatchNorm, the mean over the image and a dense head. The rate of
    the blocks, and the branch of the stitches, is

        conv(act(bn(conv(act(bn(y)))))),

    with 3x3 convolutions without bias. The stitch is P(y) + stitch * branch(y), with P the identity
    or a strided 1x1 convolution and BatchNorm.

    At 32x32x3 with the default width 1,633,530 trainable parameters for K = 16 coefficients and
    855,802 for K = 8. With `scheme="euler"` and the default horizon it starts as a pre-activation
    residual network; `keras_pde.models.with_solver`, `refine`, `project` and
    `callbacks.RefineDepth` turn its depth up and down.

    Sources: Queiruga et al., "Continuous-in-depth neural networks", 2020 (arXiv 2008.02389), and
    "Stateful ODE-Nets using basis function expansions", 2021 (arXiv 2106.10820). Deviation: Keras
    pads a strided convolution below and to the right only.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        width: w, channels of the first stage.
        steps: of each block.
        scheme, basis, num_basis, memory: as in `keras_pde.layers.ContinuousBlock`.
        horizon: T of each block; default `steps`, which makes steps of length 1.
        stitch: weight of the stitches' branch; default `horizon / steps`, that of one step. Before
            refinements, `horizon` divided by the final number of steps.
        activation: `"relu"`, as in the papers, or, for accurate integration, a smooth one:
            `"silu"`, `"softplus"`, `"gelu"` or `"tanh"`.
        mean, std: one number a channel, in the units of the input; None for no normalisation.
        tanh_logits: whether to bound the logits, see `keras_pde.layers.TanhLogits`.
        seed: integer, fixes every initial weight.

    Returns:
        A `keras.Model` from images in [0, 1] to float32 logits.

    Raises:
        ValueError: the activation is unknown, or an argument of the blocks is out of range.

    Example:

    >>> model = keras_pde.models.continuous_net(steps=1, horizon=8, stitch=1.0)
    >>> model.fit(x, y, epochs=40, callbacks=[kp.callbacks.RefineDepth([10, 20, 30])])
    """
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    width, steps = check_count(width, "width"), check_count(steps, "steps")
    horizon = steps if horizon is None else check_number(horizon, "horizon", above=0)
    stitch = horizon / steps if stitch is None else check_number(stitch, "stitch")
    drawn = seeds(seed)

    def conv(filters, kernel_size=3, strides=1):
        # By the number of outputs, as the source has it.
        initializer = keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal", seed=next(drawn)
        )
        return layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=initializer,
        )

    def branch(filters, strides=1):
        return [
            *(batch_norm(), layers.Activation(activation), conv(filters, strides=strides)),
            *(batch_norm(), layers.Activation(activation), conv(filters)),
        ]

    inputs, x = normalized_input(input_shape, mean, std)
    x = layers.Activation(activation)(batch_norm()(conv(width)(x)))
    for stage in range(3):
        filters, strides = width * 2**stage, 2 if stage else 1
        y = x
        for layer in branch(filters, strides):
            y = layer(y)
        if stage:
            x = batch_norm()(conv(filters, 1, strides)(x))
        x = layers.Add()([x, layers.Rescaling(stitch)(y)])
        x = ContinuousBlock(
            keras.Sequential(branch(filters), name=f"rate_{stage + 1}"),
            steps,
            scheme,
            basis,
            num_basis,
            horizon,
            memory,
            seed=next(drawn),
            name=f"block_{stage + 1}",
        )(x)
    x = layers.GlobalAveragePooling2D()(batch_norm()(x))
    head = keras.initializers.HeNormal(seed=next(drawn))
    outputs = dense_logits(x, num_classes, tanh_logits, head)
    return keras.Model(inputs, outputs, name="continuous_net")
