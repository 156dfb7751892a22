import contextlib

import keras
import numpy as np
from keras import ops

from keras_pde.optimizers import CyclicOptimizer
from keras_pde.training import slots


class EvaluationWeights(keras.callbacks.Callback):
    """Shows validation and checkpoints the weights that the optimizer wants to be evaluated.

    Cyclic optimizers (`keras_pde.optimizers.CyclicOptimizer`) leave the model at y within a cycle,
    and at its anchor, or mean, only at the end of a cycle and of `fit`. With this callback the
    model holds the latter during validation, and from the end of an epoch to the beginning of the
    next, so that checkpoints and early stopping see it, too; then the training goes on from y.
    Where the batches of an epoch are a multiple of the cycle nothing is changed, except for
    `evaluation_weights="mean"` and for stochastic weight averaging.

    Put it before the callbacks that save or evaluate. One that saves what a training is to go on
    from does so within `training_weights()`.

    Raises:
        ValueError: the model's optimizer has no such weights.

    Example:

    >>> model.compile(kp.optimizers.EntropySGD(inner_steps=20), loss)
    >>> model.fit(x, y, validation_data=held_out, callbacks=[kp.callbacks.EvaluationWeights()])
    """

    def __init__(self):
        super().__init__()
        self._kept, self._wanted = None, 0

    @contextlib.contextmanager
    def training_weights(self):
        """Within it the model holds the weights y of the training again."""
        shown = self._wanted > 0
        if shown:
            self._hide()
        try:
            yield
        finally:
            if shown:
                self._show()

    def on_train_begin(self, logs=None):
        self._kept, self._wanted = None, 0
        if not cyclic_parts(self.model.optimizer) and not slots.undecided(self.model.optimizer):
            raise ValueError(
                f"Received a model with the optimizer {type(self.model.optimizer).__name__}, which "
                "trains the weights that it evaluates; expected one of `keras_pde.optimizers` that "
                "works in cycles. Leave the callback out."
            )

    def on_epoch_begin(self, epoch, logs=None):
        if self._wanted:
            self._hide()

    def on_test_begin(self, logs=None):
        self._show()

    def on_test_end(self, logs=None):
        self._hide()

    def on_epoch_end(self, epoch, logs=None):
        self._show()

    def on_train_end(self, logs=None):
        self._kept, self._wanted = None, 0  # `fit` has put the final weights into the model

    def _show(self):
        self._wanted += 1
        if self._wanted > 1:
            return
        self._synchronise()
        self._kept = []
        for optimizer in filter(lambda part: part.built, cyclic_parts(self.model.optimizer)):
            variables = optimizer._trainable_variables
            self._kept += [(v, np.array(ops.convert_to_numpy(v))) for v in variables]
            for variable, value in zip(variables, optimizer.evaluation_values(), strict=True):
                variable.assign(value)

    def _hide(self):
        self._wanted -= 1
        if self._wanted or self._kept is None:
            return
        self._synchronise()
        for variable, value in self._kept:
            variable.assign(value)
        self._kept = None

    def _synchronise(self):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()


def cyclic_parts(optimizer):
    """Those of the optimizer and the ones inside it that work in cycles."""
    return [part for part in slots.nested(optimizer) if isinstance(part, CyclicOptimizer)]
