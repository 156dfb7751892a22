from keras_pde.layers.stable.stable_block import StableBlock
from keras_pde.layers.stable.symmetric_conv2d import SymmetricConv2D
from keras_pde.layers.stable.symmetric_dense import SymmetricDense


class SymmetricBlock(StableBlock):
    """What the blocks with F(y) = -K^T sigma(N(K y) + b) share: their arguments."""

    dense_rate = SymmetricDense
    convolutional_rate = SymmetricConv2D
    default_scheme: str

    def __init__(
        self,
        steps,
        scheme=None,
        kernel_size=3,
        filters=None,
        normalization=None,
        activation="relu",
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
            "kernel_size": kernel_size,
            "filters": filters,
            "normalization": normalization,
            "activation": activation,
            "use_bias": use_bias,
            "kernel_initializer": kernel_initializer,
        }
        super().__init__(
            settings,
            seed,
            steps=steps,
            scheme=self.default_scheme if scheme is None else scheme,
            basis=basis,
            num_basis=num_basis,
            horizon=horizon,
            memory=memory,
            unroll=unroll,
            **kwargs,
        )
