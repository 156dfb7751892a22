import numpy as np
from keras import ops

from keras_pde.layers.stable.stable_rate import operator_norm
from keras_pde.layers.stable.symmetric_block import SymmetricBlock
from keras_pde.registry import register


@register(
    "layer",
    "hamiltonian_block",
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
    horizon=0.25,
    memory="reversible",
    unroll=False,
    seed=1,
)
class HamiltonianBlock(SymmetricBlock):
    """A stage of a network that conserves, and can be run backwards: two halves drive each other.

    The output is (y, z)(T), where the channels of the input are split in halves y and z, of

        y' = -K1^T sigma(N(K1 z) + b1),    z' = K2^T sigma(N(K2 y) + b2),

    with weights that depend on depth as in `ContinuousBlock`; K1 and K2 are convolutions for
    images, matrices otherwise. With `"symplectic_euler"`, z sees the new y. With
    `memory="reversible"` the memory for the gradient does not grow with the number of steps.

    Without N the eigenvalues of the linearised equation are i w, |w| <= ||K1|| ||K2||, and steps of
    length h = T / N do not grow if h ||K1|| ||K2|| <= 2. N multiplies each norm by the root of its
    greatest slope, see `ParabolicBlock`. This holds for weights frozen at one depth. Without N the
    steps are symplectic for any weights, so that gradients cannot vanish; they can grow.

    Sources: Ruthotto and Haber, "Deep neural networks motivated by partial differential equations",
    2018 (arXiv 1804.04272), with the signs of its discrete scheme; Chang et al., 2018 (arXiv
    1709.03698); on gradients, Galimberti et al., 2021 (arXiv 2105.13205).

    Args:
        steps: number N of steps.
        scheme: `"symplectic_euler"`, the default, or `"verlet"`; both can be undone.
        kernel_size: odd number of pixels; for images only.
        filters: number of channels of K1 z and K2 y; default half of those of the input.
        normalization: N: None, `"tv"` (`TVNormalization`), or `"batch"`, both without a shift.
        activation: sigma, not decreasing, of slope at most 1; a name of Keras, or a function.
        use_bias: whether there are b1 and b2.
        kernel_initializer: Keras initializer of K1 and K2.
        basis, num_basis, horizon, memory, unroll: as in `ContinuousBlock`.
        seed: integer that fixes the initial weights; None for others at each start.

    Input and output shape: `(batch, ..., channels)`, with an even number of channels.

    Raises:
        ValueError: an argument is out of range, the scheme is for one field, or the number of
            channels is odd.

    Example:

    >>> x = kp.layers.HamiltonianBlock(steps=100, horizon=10.0, memory="reversible")(x)
    """

    default_scheme = "symplectic_euler"

    def _rates(self, rank):
        return [self._rate(rank), self._rate(rank, 1, sign=1)]

    def _rate_shape(self, input_shape):
        if input_shape[-1] % 2:
            raise ValueError(
                f"Received an input of shape {tuple(input_shape)}; expected an even number of "
                "channels, to be split in halves."
            )
        return (*input_shape[:-1], input_shape[-1] // 2)

    def _enter(self, y):
        return tuple(ops.split(y, 2, axis=-1))

    def _leave(self, state):
        return ops.concatenate(state, axis=-1)

    def spectrum(self, norm=operator_norm):
        (least1, greatest1), (least2, greatest2) = (self._eigenvalue_range(norm, i) for i in (0, 1))
        # lambda^2 = -m, m an eigenvalue of a product of symmetric matrices, which are semidefinite
        # unless a scale of N is negative. Then m can be anywhere in a disc, and of all points of it
        # the steps grow most at the real negative one.
        greatest, least = greatest1 * greatest2, 0.0
        if min(least1, least2) < 0:
            greatest = max(-least1, greatest1) * max(-least2, greatest2)
            least = -greatest
        return np.emath.sqrt(-np.linspace(least, greatest, 129) + 0j)
