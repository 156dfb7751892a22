from collections.abc import Sequence

import keras

from keras_pde.layers import HamiltonianBlock
from keras_pde.models._stable_net import stable_net
from keras_pde.registry import register


@register("model", "hamiltonian_net", input_shape=(8, 8, 3), widths=(4, 6), steps=2)
def hamiltonian_net(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    widths: Sequence[int] = (32, 64, 112),
    steps: int = 3,
    memory: str = "store",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    tanh_logits: bool = False,
    seed: int = 0,
) -> keras.Model:
    """A network whose stages conserve and can be run backwards, from Hamiltonian equations.

    A 3x3 convolution to the first width; then stages, each of them a `HamiltonianBlock` of
    steps of length 1 with convolutions of 3x3 pixels and total variation normalisation inside,
    followed by a 1x1 convolution to the next width and, but for the last stage, the mean over 2x2
    pixels; then the mean over the image. Convolutions are followed by BatchNorm and ReLU.

    With the default arguments 264,106 trainable parameters; its stages can be undone, with
    `memory="reversible"`.

    The initial weights are small enough for the steps to be stable whatever the image; training
    does not keep them so, see `keras_pde.analysis.stability_report`.

    Source: Ruthotto and Haber, "Deep neural networks motivated by partial differential equations",
    2018 (arXiv 1804.04272), who report 89.3 % on CIFAR-10 with 264 k weights. Deviation:
    they clip the weights to [-1, 1] and penalise their variation in depth, which is up to training.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        widths: channels of each stage, even numbers.
        steps: number of steps of each stage; each has weights of its own.
        memory: what the blocks keep for the gradient, see `keras_pde.layers.ContinuousBlock`.
        mean, std: one number a channel, in the units of the input; None for no normalisation.
        tanh_logits: whether to bound the logits, see `keras_pde.layers.TanhLogits`.
        seed: integer, fixes every initial weight.

    Returns:
        A `keras.Model` from images in [0, 1] to float32 logits.

    Raises:
        ValueError: `widths` or `steps` are not positive, or a width is odd.

    Example:

    >>> model = keras_pde.models.hamiltonian_net(widths=(16, 32, 64))
    """
    return stable_net(
        HamiltonianBlock,
        "hamiltonian_net",
        input_shape,
        num_classes,
        widths,
        steps,
        memory,
        mean,
        std,
        tanh_logits,
        seed,
    )
