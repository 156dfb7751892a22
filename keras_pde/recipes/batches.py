"""Training batches as a pure function of (seed, step): what a resumed training goes on with."""

import keras
import numpy as np
from keras import ops

from keras_pde.recipes.devices import ONE_DEVICE

_BACKEND = keras.backend.backend()


class Batches:
    """Shuffled, augmented batches of images that are held in memory (JAX: on the device).

    Each epoch is a new permutation, cut into whole batches; the rest of it is left out. `stream`
    gives them in the form in which `fit` is fastest: a `tf.data` pipeline on TensorFlow, device
    arrays on JAX.

    Args:
        x: float32 `(n, height, width, channels)`.
        y: integer `(n,)`.
        batch_size: images a step; at most n.
        augment: an `Augment`.
        seed: integer, of the order.
        classes: number of classes, for one-hot labels (which label smoothing needs); 0 for
            integer labels.
        devices: `Devices` that share each batch.

    Raises:
        ValueError: the devices cannot share a batch equally.
    """

    def __init__(self, x, y, batch_size, augment, seed=0, classes=0, devices=ONE_DEVICE):
        self.x, self.y = x, np.asarray(y, "int32")
        self.batch_size = min(batch_size, len(x))
        devices.check_batch(self.batch_size)
        self.share = devices.share(self.batch_size)
        self.augment, self.seed, self.classes = augment, seed, classes
        self.steps_per_epoch = len(x) // self.batch_size
        self._order = self._held = None

    def examples(self, step):
        """The epoch of a step, counted over the whole training, and the examples of its batch.

        Where several processes train together: this process's share of them.
        """
        epoch, batch = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            self._order = epoch, generator.permutation(len(self.x)).astype("int32")
        order = self._order[1]
        chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return np.int32(epoch), chosen[self.share]

    def _batch(self, x, y, epoch, examples):
        images = self.augment(ops.take(x, examples, axis=0), epoch, examples)
        labels = ops.take(y, examples, axis=0)
        return images, ops.one_hot(labels, self.classes) if self.classes else labels

    def stream(self, first, last):
        """What `fit` takes as `x` for these steps, with `steps_per_epoch` and `shuffle=False`."""
        return _STREAMS[_BACKEND](self, first, last)


def _tensorflow(batches, first, last):
    import tensorflow as tf

    with tf.device("CPU:0"):
        x, y = tf.convert_to_tensor(batches.x), tf.convert_to_tensor(batches.y)
    size = batches.batch_size

    def batch(epoch, examples):
        return batches._batch(x, y, epoch, tf.ensure_shape(examples, (size,)))

    options = tf.data.Options()
    # Every replica's share is cut from one global batch; there are no files to shard by.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Not `from_generator`: on Python 3.11 TensorFlow then fixes malloc's mmap threshold at 128 KiB
    # for good, so that each activation is mapped and unmapped anew: trainings take twice as long.
    steps = tf.data.Dataset.range(first, last)
    indices = steps.map(lambda i: tf.numpy_function(batches.examples, [i], ("int32", "int32")))
    dataset = indices.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _jax(batches, first, last):
    import jax

    if batches._held is None:
        held = jax.device_put(batches.x), jax.device_put(batches.y), jax.jit(batches._batch)
        batches._held = held
    x, y, batch = batches._held

    class Stream(keras.utils.PyDataset):
        def __len__(self):
            return last - first

        def __getitem__(self, number):
            return batch(x, y, *batches.examples(first + number))

    return Stream(workers=0)


_STREAMS = {"tensorflow": _tensorflow, "jax": _jax}
