"""Counter-based random numbers: the same bits on every backend, for every batch size and order.

Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011) turns a key of two words and a counter of two words into two random words.
There is no state to carry or to save: noise is a function of (seed, stream, example, element), so
an attack draws the same start for an image whatever batch it sits in, and a resumed training sees
the noise of the uninterrupted one. Words are int32 tensors read as unsigned.
"""

import math
import zlib

import keras
from keras import ops

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def _shift_right(x, count):
    """Logical shift: int32 shifts keep the sign, which is masked away."""
    return ops.bitwise_and(ops.right_shift(x, count), (1 << (32 - count)) - 1)


def _rotate_left(x, count):
    return ops.bitwise_or(ops.left_shift(x, count), _shift_right(x, 32 - count))


def threefry(key, counter):
    """Two random int32 words from two key words and two counter words (broadcast together)."""
    schedule = (*key, ops.bitwise_xor(ops.bitwise_xor(key[0], key[1]), _PARITY))
    x0, x1 = counter[0] + schedule[0], counter[1] + schedule[1]
    for block in range(5):
        for count in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = ops.bitwise_xor(_rotate_left(x1, count), x0)
        x0 = x0 + schedule[(block + 1) % 3]
        x1 = x1 + schedule[(block + 2) % 3] + (block + 1)
    return x0, x1


def word(number):
    """A Python integer as an int32 tensor with the same low 32 bits."""
    low = int(number) & 0xFFFFFFFF
    return ops.convert_to_tensor(low - (1 << 32) if low >= 1 << 31 else low, dtype="int32")


def keys(seed, stream, examples):
    """One key per example.

    Args:
        seed: Python integer; its low 64 bits count.
        stream: integer or int32 scalar tensor that separates uses of one seed (a restart, a step).
        examples: int32 tensor `(batch,)`, the examples' own numbers.

    Returns:
        int32 tensor `(batch, 2)`.
    """
    examples = ops.cast(examples, "int32")
    stream = ops.zeros_like(examples) + ops.cast(stream, "int32")
    words = threefry((word(seed), word(int(seed) >> 32)), (examples, stream))
    return ops.stack(words, axis=-1)


def uniform(keys, shape, dtype="float32"):
    """Uniform numbers in (0, 1), never an end point, on a grid of 2^23 symmetric about 1/2.

    Args:
        keys: int32 tensor `(batch, 2)` from `keys`.
        shape: shape of one example's draw: integers, or some of them scalar tensors.

    Returns:
        float tensor `(batch, *shape)`.
    """
    size = math.prod(shape)  # of tensors too
    counters = ops.expand_dims(ops.arange((size + 1) // 2, dtype="int32"), 0)
    zero = ops.zeros_like(counters)
    words = threefry((keys[:, :1], keys[:, 1:]), (counters, zero))
    bits = _shift_right(ops.concatenate(words, axis=1)[:, :size], 9)
    unit = (ops.cast(bits, dtype) + 0.5) / 2.0**23  # exact: 23 bits and the half fit float32
    return ops.reshape(unit, (-1, *shape))


def normal(keys, shape, dtype="float32"):
    """Standard normal numbers by inversion; arguments as in `uniform`."""
    return math.sqrt(2.0) * ops.erfinv(2.0 * uniform(keys, shape, dtype) - 1.0)


class _Words(keras.random.SeedGenerator):
    """Two given words in place of a state: a draw depends on them alone."""

    def __init__(self, words):
        self.words = words

    def next(self, ordered=True):
        return self.words


def normal_at(seed, step, index, shape, dtype="float32"):
    """Standard normal numbers of the backend's own, faster generator.

    A function of seed, step and index, without a state. Unlike `normal` it draws other numbers on
    other backends.

    Args:
        seed: Python integer.
        step: integer or integer scalar tensor.
        index: Python integer.
        shape: static.
    """
    mixed = word(zlib.crc32(f"{seed}/{index}".encode()))
    words = ops.stack([mixed, ops.cast(step, "int32")])
    words = ops.cast(words, "uint32") if keras.backend.backend() == "jax" else words
    return keras.random.normal(shape, dtype=dtype, seed=_Words(words))
