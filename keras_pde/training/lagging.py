"""Whether BatchNormalization's moving statistics are those of the network that was trained.

They lag behind its weights: after n steps m^n of them is what they began with, 20 % after 160 steps
with Keras' default m = 0.99.
"""

import contextlib
import warnings

import keras
import numpy as np
from keras import ops

from keras_pde import _keras
from keras_pde.layers.batch_norm import moving_statistics
from keras_pde.training.step import Step

LEAST = 32  # images, of which batch statistics say something
MOST = 128
FIX = (
    "train with keras_pde.callbacks.RecalibrateBatchNorm(x), or build the layers with a smaller "
    "momentum, such as keras_pde.layers.batch_norm() with its 0.9, or train for longer"
)


def outputs(perturbed, x):
    """Outputs in inference mode: with the moving statistics, and with those of these images.

    Args:
        perturbed: the `Perturbed` of a built Keras model.
        x: inputs, arrays of at least `LEAST` examples, of which `MOST` are used.

    Returns:
        A pair of arrays; `None` if nothing moves in the model, there are too few images, or the
        model cannot be called in training mode with them alone.
    """
    model = perturbed.model
    if len(keras.tree.flatten(x)[0]) < LEAST or not moving_statistics(_keras.layers_of(model)):
        return None
    variables = (model.trainable_variables, model.non_trainable_variables)
    values = ([v.value for v in some] for some in variables)
    inputs = keras.tree.map_structure(lambda array: ops.convert_to_tensor(array[:MOST]), x)

    def no_loss(y, outputs):
        return ops.zeros(ops.shape(outputs)[:1])

    try:
        step = Step(perturbed, no_loss, *values, inputs, keras.tree.flatten(inputs)[0], None, 0, 0)
        return tuple(map(ops.convert_to_numpy, step.both_statistics(step.x)))
    except Exception:  # of a model of the user's own
        return None


def warn(perturbed, example_loss, x, y=None):
    """Warns if the loss with moving statistics is far above the loss with those of a batch.

    Args:
        perturbed: the `Perturbed` of the network that was trained.
        example_loss: `(y, outputs) -> (batch,)` losses.
        x, y: what `fit` got: arrays, or a dataset, of which the first batch is taken.
    """
    text = None
    with contextlib.suppress(Exception):  # the training is over, and must not be lost for this
        single = hasattr(x, "shape") or isinstance(x, dict | list | tuple)
        if not single and iter(x) is not x:  # what is read already is left alone
            x, y = next(iter(x))[:2]
        found = outputs(perturbed, keras.tree.map_structure(lambda a: np.asarray(a[:MOST]), x))
        if found is not None:
            few = np.asarray(y[: len(found[0])])
            text = verdict(*(float(ops.mean(example_loss(few, z))) for z in found))
    if text:
        warnings.warn(f"{text}.", stacklevel=4)


def verdict(moving, batch):
    """What is wrong, if the loss with moving statistics is far above the one with a batch's."""
    if moving > 1.5 * batch + 0.3:
        return (
            f"on the same images the loss is {batch:.2f} with their own statistics and "
            f"{moving:.2f} with the moving ones of BatchNormalization, which predictions, "
            f"evaluation and attacks use: these lag behind the weights; {FIX}"
        )
