import math

import keras
import numpy as np
from keras import ops

from keras_pde.checks import check_count, check_flag
from keras_pde.registry import unknown_name

# Keras' activations with 0 <= sigma' <= 1 (relu and its like: where it exists).
MONOTONE = (
    "celu",
    "elu",
    "hard_sigmoid",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "relu",
    "relu6",
    "sigmoid",
    "softplus",
    "softsign",
    "tanh",
)


class StableRate(keras.layers.Layer):
    """What right-hand sides of stable equations share: a kernel K, dense or a convolution.

    Args:
        kernel_size: odd number of pixels, or None for a dense map of the last axis.
        activation: sigma, one of `MONOTONE`, or a function of one's own with 0 <= sigma' <= 1.
        use_bias: whether a bias is added within the activation.
        kernel_initializer: Keras initializer of K.

    Raises:
        ValueError: the activation is Keras' and not in the list, or the kernel size is even.
    """

    def __init__(self, kernel_size, activation, use_bias, kernel_initializer, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.kernel_size = kernel_size
        if kernel_size is not None:
            self.kernel_size = check_count(kernel_size, "kernel_size")
            if self.kernel_size % 2 == 0:
                raise ValueError(
                    f"Received kernel_size={kernel_size}; expected an odd number, such as 3: only "
                    "then the adjoint of a convolution with padding is one."
                )
        self.activation = keras.activations.get(activation)
        name = keras.activations.serialize(self.activation)
        own = getattr(keras.activations, str(name), None) is not self.activation
        if not own and name not in MONOTONE:
            raise unknown_name("activation of slope between 0 and 1", name, MONOTONE)
        self.use_bias = check_flag(use_bias, "use_bias")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        dense = kernel_size is None
        self.input_spec = keras.layers.InputSpec(**({"min_ndim": 2} if dense else {"ndim": 4}))

    def _add_weights(self, channels, filters, bias):
        size = () if self.kernel_size is None else (self.kernel_size, self.kernel_size)
        self.kernel = self.add_weight(
            name="kernel", shape=(*size, channels, filters), initializer=self.kernel_initializer
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(bias,), initializer="zeros")

    def eigenvalue_range(self, value_of=ops.convert_to_numpy, norm=None):
        """`(least, greatest)` number that says where the linearised equation's eigenvalues lie.

        Args:
            value_of: from a variable to its value, a NumPy array: that of another depth, say.
            norm: upper bound of ||K||_2 of a kernel; default `operator_norm`.
        """
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        config = {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return config if self.kernel_size is None else {**config, "kernel_size": self.kernel_size}


def linear(x, kernel):
    """K x: of the last axis for a matrix `(in, out)`, else the convolution that keeps the size."""
    if len(kernel.shape) == 2:
        return ops.matmul(x, kernel)
    return ops.conv(x, kernel, padding="same", data_format="channels_last")


def adjoint(kernel):
    """The kernel of K^T; zero padding and odd sizes make it a convolution, with k flipped."""
    xp = np if isinstance(kernel, np.ndarray) else ops
    for axis in range(len(kernel.shape) - 2):  # one by one: old Keras flips no more at once
        kernel = xp.flip(kernel, axis=axis)
    return xp.swapaxes(kernel, -1, -2)


def operator_norm(kernel):
    """An upper bound of ||K||_2: exact for matrices, for convolutions on images of any size.

    Zero padding cuts a piece out of the convolution on an infinite grid, whose norm is
    S = sup_w ||M(w)||_2 with the symbol M(w) = sum_j k_j exp(i j w).
    """
    if kernel.ndim == 2:
        return float(np.linalg.norm(kernel.astype("float64"), 2))
    # With the singular vectors u, v at the maximum, Re(phase u* M v) is a trigonometric polynomial
    # of degree d in each frequency, at most S, and S there; so it is at least S cos(d delta) at a
    # distance delta (M. Riesz). The next of n points is at most pi / n away, one frequency after
    # the other: S cos(pi d / n)^2 <= largest value on the grid. M(-w) is the conjugate of M(w).
    degrees = [size // 2 for size in kernel.shape[:2]]
    points = [max(16 * d, 1) for d in degrees]
    symbols = np.fft.fft2(kernel, s=points, axes=(0, 1))[:, : points[1] // 2 + 1]
    largest = np.linalg.svd(symbols.astype("complex64"), compute_uv=False).max()
    between = math.prod(math.cos(math.pi * d / n) for d, n in zip(degrees, points, strict=True))
    return float(largest / between) * (1 + 1e-5)  # the rounding of float32


def crude_norm(kernel):
    """A quick upper bound of ||K||_2, up to sqrt(pixels of the kernel) times as large.

    M(w) is the product of phases, one a pixel, and of the kernel as a tall matrix.
    """
    pixels = math.prod(kernel.shape[:-2])
    tall = kernel.reshape(-1, kernel.shape[-1]).astype("float64")
    return math.sqrt(pixels) * float(np.linalg.norm(tall, 2))
