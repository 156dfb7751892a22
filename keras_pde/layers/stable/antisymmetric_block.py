import numpy as np

from keras_pde.layers.stable.antisymmetric_conv2d import AntisymmetricConv2D
from keras_pde.layers.stable.antisymmetric_dense import AntisymmetricDense
from keras_pde.layers.stable.stable_block import StableBlock
from keras_pde.layers.stable.stable_rate import operator_norm
from keras_pde.registry import register


@register(
    "layer",
    "antisymmetric_block",
    steps=2,
    scheme="ssp_rk3",
    gamma=0.1,
    kernel_size=5,
    activation="softplus",
    use_bias=False,
    kernel_initializer="he_normal",
    basis="hat",
    num_basis=2,
    horizon=0.5,
    memory="remat",
    unroll=False,
    seed=1,
)
class AntisymmetricBlock(StableBlock):
    """A stage of a network that neither explodes nor forgets, from an antisymmetric equation.

    The output is y(T) of

        y' = sigma((K - K^T - gamma I) y + b),    y(0) = input,

    with weights that depend on depth as in `ContinuousBlock`; K is a convolution for images, a
    matrix otherwise. The eigenvalues of the linearised equation lie between 0 and -gamma +- i w, w
    <= ||K - K^T||. With gamma = 0 they are imaginary, where steps of length h = T / N do not grow
    if h ||K - K^T|| is at most 2.828 for `"rk4"`, 1.732 for `"ssp_rk3"` and 1 for
    `"two_step_midpoint"`, the reversible midpoint network; with `"euler"` and `"heun"` they always
    grow. This holds for weights frozen at one depth; it bounds no gradient of the whole.

    Sources: Haber and Ruthotto, "Stable architectures for deep neural networks", 2017 (arXiv
    1705.03341); Chang et al., "Reversible architectures for arbitrarily deep residual neural
    networks", 2018 (arXiv 1709.03698).

    Args:
        steps: number N of steps.
        scheme: name of `keras_pde.integrators`, for one field.
        gamma: damping, at least 0, in units of 1 / time; 0 for `"two_step_midpoint"`.
        kernel_size: odd number of pixels; for images only.
        activation: sigma, not decreasing, of slope at most 1; a name of Keras, or a function.
        use_bias: whether there is a b.
        kernel_initializer: Keras initializer of K.
        basis, num_basis, horizon, memory, unroll: as in `ContinuousBlock`.
        seed: integer that fixes the initial weights; None for others at each start.

    Input and output shape: `(batch, ..., channels)`.

    Raises:
        ValueError: an argument is out of range, or the scheme is for pairs.

    Example:

    >>> x = kp.layers.AntisymmetricBlock(steps=8, horizon=2.0)(x)
    """

    dense_rate = AntisymmetricDense
    convolutional_rate = AntisymmetricConv2D

    def __init__(
        self,
        steps,
        scheme="rk4",
        gamma=0.0,
        kernel_size=3,
        activation="tanh",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        basis="constant",
        num_basis=None,
        horizon=1.0,
        memory="store",
        unroll=None,
        seed=None,
        **kwargs,
    ):
        settings = {
            "gamma": gamma,
            "kernel_size": kernel_size,
            "activation": activation,
            "use_bias": use_bias,
            "kernel_initializer": kernel_initializer,
        }
        super().__init__(
            settings,
            seed,
            steps=steps,
            scheme=scheme,
            basis=basis,
            num_basis=num_basis,
            horizon=horizon,
            memory=memory,
            unroll=unroll,
            **kwargs,
        )

    @property
    def gamma(self):
        return self._settings["gamma"]

    def spectrum(self, norm=operator_norm):
        _, w = self._eigenvalue_range(norm)
        # J = D (A - gamma I) has the eigenvalues of D^1/2 (A - gamma I) D^1/2, whose field of
        # values is in the triangle of 0 and -gamma +- i w. Its edges suffice, by the maximum
        # principle, and by symmetry those of the upper half.
        corner, t = -self.gamma + 1j * w, np.linspace(0, 1, 65)
        return np.concatenate([corner * t, corner - 1j * w * t[1:]])
