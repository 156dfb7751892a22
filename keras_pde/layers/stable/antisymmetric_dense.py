from keras_pde import cost, graph
from keras_pde.layers.stable.antisymmetric import Antisymmetric
from keras_pde.registry import register


@register(
    "layer",
    "antisymmetric_dense",
    gamma=0.1,
    activation="softplus",
    use_bias=False,
    kernel_initializer="he_normal",
)
class AntisymmetricDense(Antisymmetric):
    """Dense layer with an antisymmetric matrix, the right-hand side of a stable equation.

    The output, for y' = f(y), is

        f(y) = sigma((K - K^T - gamma I) y + b),

    so that the eigenvalues of the linearised equation have real parts between -gamma and 0: y' =
    f(y) neither explodes nor, with gamma = 0, forgets. A scheme that keeps this is up to its
    integrator: forward Euler does not with gamma = 0; `AntisymmetricBlock` takes care.

    Source: Haber and Ruthotto, "Stable architectures for deep neural networks", 2017 (arXiv
    1705.03341).

    Args:
        gamma: damping, at least 0, in units of 1 / time.
        activation: sigma, not decreasing, of slope at most 1; a name of Keras, or a function.
        use_bias: whether there is a b.
        kernel_initializer: Keras initializer of K.

    Input and output shape: `(batch, ..., channels)`.

    Raises:
        ValueError: `gamma` is negative, or the slope of the activation leaves [0, 1].

    Example:

    >>> y = y + 0.1 * kp.layers.AntisymmetricDense(gamma=0.2)(y)
    """

    def __init__(
        self,
        gamma=0.0,
        activation="tanh",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(None, gamma, activation, use_bias, kernel_initializer, **kwargs)


graph.rule("cost", AntisymmetricDense)(cost.kernels)
