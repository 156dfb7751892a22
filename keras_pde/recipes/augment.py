from keras import ops

from keras_pde import noise

_STREAM = 0x41554755  # apart from the streams of training noise, which are step numbers


class Augment:
    """Random crops, flips and cutout, as a function of (seed, epoch, example).

    Each image is moved by up to `crop` pixels in both directions (zeros come in), mirrored with
    probability 1/2, and a square is set to zero. The numbers come from `keras_pde.noise`, so
    TensorFlow and JAX, whole and resumed trainings, and any batch size give the same images.

    Sources: the crops and flips of He et al. (2016), arXiv 1512.03385; DeVries and Taylor (2017),
    "Improved regularization of convolutional neural networks with cutout", arXiv 1708.04552, whose
    square may reach over the edge.

    Args:
        crop: largest move, in pixels.
        flip: whether images are mirrored.
        cutout: side of the square, in pixels; 0 for none.
        seed: integer.
    """

    def __init__(self, crop=0, flip=False, cutout=0, seed=0):
        self.crop, self.flip, self.cutout, self.seed = crop, flip, cutout, seed

    def __bool__(self):
        return bool(self.crop or self.flip or self.cutout)

    def __call__(self, images, epoch, examples):
        """The augmented images.

        Args:
            images: float tensor `(batch, height, width, channels)`.
            epoch: int32 scalar.
            examples: int32 `(batch,)`, the examples' numbers in the training set.
        """
        if not self:
            return images
        height, width = images.shape[1:3]
        draws = noise.uniform(noise.keys(self.seed ^ _STREAM, epoch, examples), (5,))

        def drawn(i, count):
            """Integers 0 ... count - 1, one an example, as a column."""
            return ops.cast(ops.floor(draws[:, i : i + 1] * count), "int32")

        # One gather does crop and flip: where each row and column of the result comes from.
        rows = ops.arange(height)[None] + drawn(0, 2 * self.crop + 1) - self.crop
        columns = ops.arange(width)[None]
        if self.flip:
            mirrored = ops.cast(draws[:, 2:3] < 0.5, "int32")
            columns = columns + mirrored * (width - 1 - 2 * columns)
        columns = columns + drawn(1, 2 * self.crop + 1) - self.crop
        kept = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
        if self.cutout:
            # Centres are uniform over the pixels.
            y, x = drawn(3, height), drawn(4, width)
            kept = kept & ~(
                _near(ops.arange(height)[None], y, self.cutout)[:, :, None]
                & _near(ops.arange(width)[None], x, self.cutout)[:, None, :]
            )
        rows = ops.clip(rows, 0, height - 1)
        columns = ops.clip(columns, 0, width - 1)
        batch = ops.arange(ops.shape(images)[0])[:, None, None]
        where = (batch * height + rows[:, :, None]) * width + columns[:, None, :]
        pixels = ops.reshape(images, (-1, images.shape[-1]))
        moved = ops.take(pixels, where, axis=0)
        return moved * ops.cast(kept, images.dtype)[..., None]


def _within(index, size):
    return (index >= 0) & (index < size)


def _near(index, centre, side):
    low = centre - side // 2
    return (index >= low) & (index < low + side)
