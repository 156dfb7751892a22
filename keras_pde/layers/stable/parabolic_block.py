import numpy as np

from keras_pde.layers.stable.stable_rate import operator_norm
from keras_pde.layers.stable.symmetric_block import SymmetricBlock
from keras_pde.registry import register


@register(
    "layer",
    "parabolic_block",
    steps=2,
    scheme="heun",
    kernel_size=5,
    filters=5,
    normalization="batch",
    activation="tanh",
    use_bias=False,
    kernel_initializer="he_normal",
    basis="hat",
    num_basis=2,
    horizon=0.25,
    memory="remat",
    unroll=False,
    seed=1,
)
class ParabolicBlock(SymmetricBlock):
    """A stage of a network that smoothes, as heat flows do.

    The output is y(T) of the nonlinear heat equation

        y' = F(y) = -K^T sigma(N(K y) + b),    y(0) = input,

    with weights that depend on depth as in `ContinuousBlock`; K is a convolution for images, a
    matrix otherwise. Two solutions do not move apart: without N the eigenvalues of the linearised
    equation lie in [-||K||^2, 0], and steps of length h = T / N do not grow if h ||K||^2 is at most
    2 for `"euler"`, 2.785 for `"rk4"`. N multiplies ||K||^2 by its greatest slope, which is large
    for `"tv"`: 31.6 at the start, for pixels near zero. This holds for weights frozen at one depth.

    Source: Ruthotto and Haber, "Deep neural networks motivated by partial differential equations",
    2018 (arXiv 1804.04272).

    Args:
        steps: number N of steps.
        scheme: name of `keras_pde.integrators`, for one field; default `"euler"`.
        kernel_size: odd number of pixels; for images only.
        filters: number of channels of K y; default that of y.
        normalization: N: None, `"tv"` (`TVNormalization`), or `"batch"`, both without a shift.
        activation: sigma, not decreasing, of slope at most 1; a name of Keras, or a function.
        use_bias: whether there is a b.
        kernel_initializer: Keras initializer of K.
        basis, num_basis, horizon, memory, unroll: as in `ContinuousBlock`.
        seed: integer that fixes the initial weights; None for others at each start.

    Input and output shape: `(batch, ..., channels)`.

    Raises:
        ValueError: an argument is out of range, or the scheme is for pairs.

    Example:

    >>> x = kp.layers.ParabolicBlock(steps=4, filters=32)(x)
    """

    default_scheme = "euler"

    def spectrum(self, norm=operator_norm):
        least, greatest = self._eigenvalue_range(norm)
        return -np.linspace(least, greatest, 129) + 0j
