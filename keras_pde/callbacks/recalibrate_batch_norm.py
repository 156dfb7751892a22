import contextlib
import itertools

import keras
from keras import ops

from keras_pde import _keras
from keras_pde.calls import in_place_of
from keras_pde.checks import check_count
from keras_pde.data.examples import arrays
from keras_pde.layers import ContinuousBlock


class RecalibrateBatchNorm(keras.callbacks.Callback):
    """Gives batch normalization the statistics of the weights that are evaluated.

    Moving averages lag behind weights that move fast, and averaged weights, or those of
    `EvaluationWeights`, have never seen a batch. At the end of each epoch, before its validation,
    and at the end of `fit` the moving mean and variance become the plain means over batches of
    training images; dropout stays off, and other layers are in inference mode. (A
    `ContinuousBlock` is in training mode as a whole.)

    Put it after `EvaluationWeights` and before callbacks that save.

    Args:
        x: training images: an array `(n, ...)`, a dict of arrays, or a list of one for each input
            of the model, of which the first `batches * batch_size` are used; or what gives batches
            each time that it is iterated over, such as a `tf.data.Dataset`: inputs, or tuples of
            inputs and labels.
        batch_size: of an array: as in the training, on which the statistics depend; at least 2.
        batches: how many, at least 1.

    Raises:
        ValueError: the model has no batch normalization, or there is no batch.

    Example:

    >>> averaged = kp.optimizers.StochasticWeightAveraging("sgd", start=1000)
    >>> model.compile(averaged, loss)
    >>> model.fit(x, y, callbacks=[kp.callbacks.RecalibrateBatchNorm(x)])
    """

    def __init__(self, x, batch_size=128, batches=50):
        super().__init__()
        self.batch_size = check_count(batch_size, "batch_size", least=2)
        self.batches = check_count(batches, "batches")
        self.x = x
        if hasattr(x, "shape") or isinstance(x, dict):
            self._check_count(x)
        self._training = self._done = False

    def _check_count(self, x):
        count = len(keras.tree.flatten(arrays(x))[0])
        if count < self.batch_size:
            raise ValueError(
                f"Received {count} images for batches of {self.batch_size}; expected at least one "
                "batch."
            )
        return count

    def on_train_begin(self, logs=None):
        _holders(self.model)  # refuses early
        self._training = True

    def on_epoch_begin(self, epoch, logs=None):
        self._done = False

    def on_test_begin(self, logs=None):
        if self._training:
            self._recalibrate()

    def on_epoch_end(self, epoch, logs=None):
        if not self._done:  # there was no validation
            self._recalibrate()

    def on_train_end(self, logs=None):
        self._training = False
        self._recalibrate()

    def _recalibrate(self):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        network = getattr(self.model, "model", self.model)
        with contextlib.ExitStack() as stack:
            layers = [stack.enter_context(_in_training_mode(h)) for h in _holders(self.model)]
            k = -1
            for k, images in enumerate(itertools.islice(self._images(), self.batches)):
                for normalization in (n for found in layers for n in found):
                    normalization.momentum = k / (k + 1)  # the plain mean
                network(keras.tree.map_structure(ops.convert_to_tensor, images), training=False)
        if k < 0:
            raise ValueError(
                f"Received x={self.x!r}, which gives no batch; expected an array of images, or "
                "what gives batches each time that it is iterated over, such as a tf.data.Dataset."
            )
        self._done = True

    def _images(self):
        # A list of arrays may be of batches, too; or one entry for each input of the model.
        network = getattr(self.model, "model", self.model)
        inputs = len(getattr(network, "inputs", None) or [None])
        several = isinstance(self.x, list | tuple) and inputs > 1 and len(self.x) == inputs
        if not (hasattr(self.x, "shape") or isinstance(self.x, dict) or several):
            yield from (batch[0] if isinstance(batch, tuple) else batch for batch in self.x)
            return
        x = arrays(self.x)
        for k in range(self._check_count(x) // self.batch_size):
            rows = slice(k * self.batch_size, (k + 1) * self.batch_size)
            yield keras.tree.map_structure(lambda array, rows=rows: array[rows], x)


def _holders(model):
    """The layers to put into training mode: normalizations, and blocks whose rates have some."""
    kinds = (keras.layers.BatchNormalization, ContinuousBlock)
    layers = [layer for layer in _keras.layers_of(model) if isinstance(layer, kinds)]
    found = [layer for layer in layers if _normalizations(layer)]
    if not found:
        raise ValueError(
            f"Received the model {model.name!r}, which has no BatchNormalization that trains; "
            "leave the callback out."
        )
    return found


def _normalizations(layer):
    roots = [layer]
    if isinstance(layer, ContinuousBlock):
        roots = [rate.template.layer for rate in layer.rates]
    return [
        inner
        for root in roots
        for inner in _keras.layers_of(root)
        if isinstance(inner, keras.layers.BatchNormalization) and layer.trainable
    ]


@contextlib.contextmanager
def _in_training_mode(layer):
    """The layer's calls are in training mode; gives its normalizations, whose momentum is kept."""
    normalizations = _normalizations(layer)
    kept = [normalization.momentum for normalization in normalizations]

    def training_call(call, *args, **kwargs):
        return call(*args, **{**kwargs, "training": True})

    try:
        with in_place_of(layer, training_call):
            yield normalizations
    finally:
        for normalization, momentum in zip(normalizations, kept, strict=True):
            normalization.momentum = momentum
