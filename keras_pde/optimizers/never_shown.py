"""The warning that nobody has asked an optimizer for the weights to judge its training by."""

import contextlib
import sys
import warnings
import weakref

from keras import ops

from keras_pde import _keras


class Watch:
    """What was done with a built optimizer; it warns when that is gone, or Python ends.

    A loop of one's own that evaluates what an optimizer trains, where it is to be judged by an
    anchor or a mean, looks just as a right one.

    Args:
        optimizer: a built one.
        origin: the variable that counts the batches before this `fit`.
        cycle: steps after which the model itself holds the weights to judge by; 0 for never.
    """

    def __init__(self, optimizer, origin, cycle):
        self.stepped = self.asked = False
        counted = _keras.batches_of(optimizer), optimizer.gradient_accumulation_steps or 1
        weakref.finalize(optimizer, _warn, self, type(optimizer).__name__, *counted, origin, cycle)


def _warn(watch, name, batches, batches_a_step, origin, cycle):
    # After an error the training was not meant to end so.
    if watch.asked or not watch.stepped or hasattr(sys, "last_value"):
        return
    passed = 0
    with contextlib.suppress(Exception):  # without a value on JAX; or the backend has ended
        batches, origin = (int(ops.convert_to_numpy(variable)) for variable in (batches, origin))
        passed = batches // batches_a_step - origin
    if passed % cycle if cycle else passed:
        warnings.warn(
            f"{name} has made {passed} steps, but the weights to judge them by were never "
            "shown: the model holds others. A loop of your own ends with "
            "optimizer.finalize_variable_values(model.trainable_variables), and evaluates within "
            "`with keras_pde.optimizers.evaluation_weights(optimizer):`; a model with several "
            "optimizers is fitted with keras_pde.callbacks.EvaluationWeights(optimizer=[...]).",
            stacklevel=2,
        )
