import keras
import numpy as np
from keras import ops

from keras_pde.layers.stable.stable_rate import operator_norm
from keras_pde.layers.stable.symmetric_block import SymmetricBlock
from keras_pde.registry import register


@register(
    "layer",
    "second_order_block",
    steps=2,
    scheme="verlet",
    kernel_size=5,
    filters=5,
    normalization="batch",
    activation="tanh",
    use_bias=False,
    kernel_initializer="he_normal",
    basis="hat",
    num_basis=2,
    horizon=0.5,
    memory="reversible",
    unroll=False,
    seed=1,
)
class SecondOrderBlock(SymmetricBlock):
    """A stage of a network in which features travel, as waves do.

    The output is y(T) of the nonlinear telegraph equation

        y'' = F(y) = -K^T sigma(N(K y) + b),    y(0) = input,    y'(0) = 0,

    with weights that depend on depth as in `ContinuousBlock`; K is a convolution for images, a
    matrix otherwise. It is integrated as the pair of y' and y; with `"symplectic_euler"` that is

        y_{n+1} = 2 y_n - y_{n-1} + h^2 F(y_n),    y_{-1} = y_0.

    Without N the eigenvalues of the linearised equation are i w, |w| <= ||K||, and steps of length
    h = T / N do not grow if h ||K|| <= 2. N multiplies ||K|| by the root of its greatest slope, see
    `ParabolicBlock`. This holds for weights frozen at one depth.

    Source: Ruthotto and Haber, "Deep neural networks motivated by partial differential equations",
    2018 (arXiv 1804.04272).

    Args:
        steps: number N of steps.
        scheme: `"symplectic_euler"`, the default, or `"verlet"`; both can be undone.
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
        ValueError: an argument is out of range, or the scheme is for one field.

    Example:

    >>> x = kp.layers.SecondOrderBlock(steps=4, memory="reversible")(x)
    """

    default_scheme = "symplectic_euler"

    # The pair is (y', y): the rate of y is y' itself.
    def _rates(self, rank):
        return [self._rate(rank), keras.layers.Activation("linear", dtype=self.dtype_policy)]

    def _enter(self, y):
        return ops.zeros_like(y), y

    def _leave(self, state):
        return state[1]

    def spectrum(self, norm=operator_norm):
        least, greatest = self._eigenvalue_range(norm)
        return np.emath.sqrt(-np.linspace(least, greatest, 129) + 0j)
