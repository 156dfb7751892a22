from keras_pde import graph
from keras_pde.layers.stable.symmetric import Symmetric, cost_of_both
from keras_pde.registry import register


@register(
    "layer",
    "symmetric_dense",
    filters=5,
    normalization="tv",
    sign=1,
    activation="tanh",
    use_bias=False,
    kernel_initializer="he_normal",
)
class SymmetricDense(Symmetric):
    """Dense layer with a symmetric Jacobian, the right-hand side of a heat flow.

    The output, for y' = F(y), is

        F(y) = -K^T sigma(N(K y) + b).

    Without N, and with one whose scales are not negative, the eigenvalues of the linearised
    equation lie between -||K||^2 times the slope of N and 0: y' = F(y) smoothes, as heat flows do.

    Source: Ruthotto and Haber, "Deep neural networks motivated by partial differential equations",
    2018 (arXiv 1804.04272).

    Args:
        filters: number of channels of K y; default that of y.
        normalization: N: None, `"tv"` (`TVNormalization`), or `"batch"`, both without a shift.
        sign: -1, or 1 for -F, which the second equation of a Hamiltonian pair needs.
        activation: sigma, not decreasing, of slope at most 1; a name of Keras, or a function.
        use_bias: whether there is a b.
        kernel_initializer: Keras initializer of K.

    Input and output shape: `(batch, ..., channels)`.

    Raises:
        ValueError: `filters`, `normalization` or `sign` is none of these, or the slope of the
            activation leaves [0, 1].

    Example:

    >>> y = y + 0.1 * kp.layers.SymmetricDense(filters=32)(y)
    """

    def __init__(
        self,
        filters=None,
        normalization=None,
        sign=-1,
        activation="relu",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(
            None, filters, normalization, sign, activation, use_bias, kernel_initializer, **kwargs
        )


graph.rule("cost", SymmetricDense)(cost_of_both)
