from keras_pde import graph
from keras_pde.checks import check_count
from keras_pde.layers.stable.symmetric import Symmetric, cost_of_both
from keras_pde.registry import register


@register(
    "layer",
    "symmetric_conv2d",
    kernel_size=5,
    filters=5,
    normalization="batch",
    sign=1,
    activation="tanh",
    use_bias=False,
    kernel_initializer="he_normal",
)
class SymmetricConv2D(Symmetric):
    """Convolution, activation and its adjoint: the right-hand side of a heat flow of images.

    As `SymmetricDense`, with a convolution K of stride 1 and zero padding, and its true adjoint:

        F(y) = -K^T sigma(N(K y) + b).

    Source: Ruthotto and Haber, "Deep neural networks motivated by partial differential equations",
    2018 (arXiv 1804.04272).

    Args:
        kernel_size: odd number of pixels in either direction.
        filters: number of channels of K y; default that of y.
        normalization: N: None, `"tv"` (`TVNormalization`), or `"batch"`, both without a shift.
        sign: -1, or 1 for -F, which the second equation of a Hamiltonian pair needs.
        activation: sigma, not decreasing, of slope at most 1; a name of Keras, or a function.
        use_bias: whether there is a b.
        kernel_initializer: Keras initializer of K.

    Input and output shape: `(batch, height, width, channels)`.

    Raises:
        ValueError: `filters`, `normalization` or `sign` is none of these, the kernel size is even,
            or the slope of the activation leaves [0, 1].

    Example:

    >>> y = y + 0.1 * kp.layers.SymmetricConv2D(filters=32)(y)
    """

    def __init__(
        self,
        kernel_size=3,
        filters=None,
        normalization=None,
        sign=-1,
        activation="relu",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(
            check_count(kernel_size, "kernel_size"),
            filters,
            normalization,
            sign,
            activation,
            use_bias,
            kernel_initializer,
            **kwargs,
        )


graph.rule("cost", SymmetricConv2D)(cost_of_both)
