from keras_pde import cost, graph
from keras_pde.checks import check_count
from keras_pde.layers.stable.antisymmetric import Antisymmetric
from keras_pde.registry import register


@register(
    "layer",
    "antisymmetric_conv2d",
    kernel_size=5,
    gamma=0.1,
    activation="softplus",
    use_bias=False,
    kernel_initializer="he_normal",
)
class AntisymmetricConv2D(Antisymmetric):
    """Convolution that is an antisymmetric linear map, the right-hand side of a stable equation.

    As `AntisymmetricDense`, with a convolution K of stride 1 and zero padding:

        f(y) = sigma((K - K^T - gamma I) y + b).

    K^T is the true adjoint, so K - K^T is the convolution with the kernel k_j - (k_-j)^T.

    Source: Chang et al., "Reversible architectures for arbitrarily deep residual neural networks",
    2018 (arXiv 1709.03698).

    Args:
        kernel_size: odd number of pixels in either direction.
        gamma: damping, at least 0, in units of 1 / time.
        activation: sigma, not decreasing, of slope at most 1; a name of Keras, or a function.
        use_bias: whether there is a b.
        kernel_initializer: Keras initializer of K.

    Input and output shape: `(batch, height, width, channels)`.

    Raises:
        ValueError: `gamma` is negative, the kernel size even, or the slope of the activation leaves
            [0, 1].

    Example:

    >>> y = y + 0.1 * kp.layers.AntisymmetricConv2D(gamma=0.2)(y)
    """

    def __init__(
        self,
        kernel_size=3,
        gamma=0.0,
        activation="tanh",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(
            check_count(kernel_size, "kernel_size"),
            gamma,
            activation,
            use_bias,
            kernel_initializer,
            **kwargs,
        )


graph.rule("cost", AntisymmetricConv2D)(cost.kernels)
