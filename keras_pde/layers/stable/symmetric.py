import numpy as np
from keras import ops

from keras_pde import cost
from keras_pde.checks import check_choice, check_count
from keras_pde.layers.batch_norm import batch_norm
from keras_pde.layers.stable.stable_rate import StableRate, adjoint, linear, operator_norm
from keras_pde.layers.stable.tv_normalization import TVNormalization
from keras_pde.registry import unknown_name

NORMALIZATIONS = (None, "tv", "batch")


class Symmetric(StableRate):
    """sign K^T sigma(N(K y) + b), for dense maps and convolutions; see those."""

    def __init__(
        self,
        kernel_size,
        filters,
        normalization,
        sign,
        activation,
        use_bias,
        kernel_initializer,
        **kwargs,
    ):
        super().__init__(kernel_size, activation, use_bias, kernel_initializer, **kwargs)
        if normalization not in NORMALIZATIONS:
            raise unknown_name("normalization", normalization, NORMALIZATIONS)
        self.filters = filters if filters is None else check_count(filters, "filters")
        self.normalization, self.sign = normalization, check_choice(sign, "sign", (-1, 1))

    def build(self, input_shape):
        filters = self.filters or input_shape[-1]
        self._add_weights(input_shape[-1], filters, bias=filters)
        self.normalizer = None
        if self.normalization is not None:
            # Without a shift, since the bias is one.
            kind = {"tv": TVNormalization, "batch": batch_norm}[self.normalization]
            self.normalizer = kind(center=False, name="normalization", dtype=self.dtype_policy)
            self.normalizer.build((*input_shape[:-1], filters))

    def call(self, inputs, training=None):
        x = linear(inputs, self.kernel)
        if self.normalizer is not None:
            extra = {"training": training} if self.normalization == "batch" else {}
            x = self.normalizer(x, **extra)
        x = self.activation(x if self.bias is None else x + self.bias)
        return self.sign * linear(x, adjoint(self.kernel))

    def eigenvalue_range(self, value_of=ops.convert_to_numpy, norm=operator_norm):
        """Of K^T P D K, with N'(x) = P, which is diagonal, and 0 <= D <= 1, for any D.

        For `"batch"` P is that of inference. For `"tv"` P = s / r with r, a frozen coefficient, at
        its least. Nothing but a negative scale makes the least eigenvalue negative.
        """
        kernel, P = value_of(self.kernel), self._slopes(value_of)
        greatest, least = (
            norm(kernel * np.sqrt(p)) ** 2 if p.any() else 0.0
            for p in (np.maximum(P, 0), np.maximum(-P, 0))
        )
        return -least, greatest

    def _slopes(self, value_of):
        N = self.normalizer
        if self.normalization == "tv":
            return value_of(N.s) / np.sqrt(N.epsilon)
        if self.normalization == "batch":
            return value_of(N.gamma) / np.sqrt(value_of(N.moving_variance) + N.epsilon)
        return np.ones(self.kernel.shape[-1])

    def get_config(self):
        own = {"filters": self.filters, "normalization": self.normalization, "sign": self.sign}
        return {**super().get_config(), **own}


def cost_of_both(layer, args, output):
    """Cost of the kernel and its adjoint."""
    return 2 * cost.kernels(layer, args, output)
