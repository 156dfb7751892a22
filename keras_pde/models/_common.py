"""What every architecture shares: seeds, the normalisation inside, logits in float32."""

import itertools
import random

import keras
import numpy as np

from keras_pde.checks import check_count, check_counts, check_flag, check_seed
from keras_pde.layers import TanhLogits


def seeds(seed):
    """Endless integers, drawn from `seed`."""
    draw = random.Random(check_seed(seed))
    return (draw.randrange(2**31) for _ in itertools.count())


def initializers(seed):
    """Endless He-normal initializers; each has a seed of its own, drawn from `seed`."""
    return (keras.initializers.HeNormal(seed=each) for each in seeds(seed))


def normalized_input(input_shape, mean, std):
    """The input of images in [0, 1], and (input - mean) / std unless both are None."""
    sizes = check_counts(input_shape, "input_shape", example="(28, 28, 1)")
    if len(sizes) != 3:
        raise ValueError(
            f"Received input_shape={input_shape!r}; expected (height, width, channels), such as "
            "(28, 28, 1)."
        )
    inputs = keras.Input(input_shape)
    if mean is None and std is None:
        return inputs, inputs
    channels = input_shape[-1]
    if not np.shape(mean) == np.shape(std) == (channels,) or not np.all(np.asarray(std) > 0):
        raise ValueError(
            f"Received mean={mean!r} and std={std!r}; expected neither, or one number for each of "
            f"the {channels} channels in both, std > 0."
        )
    return inputs, keras.layers.Normalization(mean=mean, variance=np.square(std))(inputs)


def dense_logits(x, num_classes, tanh_logits, initializer):
    """The head: a dense layer, and the bounded logits if asked for, in float32 under any policy."""
    num_classes = check_count(num_classes, "num_classes")
    tanh_logits = check_flag(tanh_logits, "tanh_logits")
    x = keras.layers.Dense(num_classes, kernel_initializer=initializer, dtype="float32")(x)
    return TanhLogits(dtype="float32")(x) if tanh_logits else x
