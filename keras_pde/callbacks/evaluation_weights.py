import contextlib

import keras
import numpy as np
from keras import ops

from keras_pde import _keras
from keras_pde.optimizers import evaluation_weights, state
from keras_pde.optimizers.evaluation_weights import judged_by_others


class EvaluationWeights(keras.callbacks.Callback):
    """Shows validation and checkpoints the weights that the optimizer wants to be evaluated.

    Cyclic optimizers (`keras_pde.optimizers.CyclicOptimizer`) leave the model at y within a cycle,
    and at its anchor, or mean, only at the end of a cycle and of `fit`; any optimizer with
    `use_ema` leaves it at a moving average, only at the end of `fit`. With this callback the model
    holds these during validation, and from the end of an epoch to the beginning of the next, so
    that checkpoints and early stopping see them, too; then the training goes on with the same bits.
    Where the batches of an epoch are a multiple of the cycle nothing is changed, except for
    averages.

    Put it before the callbacks that save, stop, evaluate, or replace weights (`RefineDepth`), which
    would see y. One that saves what a training is to go on from, such as `BackupAndRestore`, stands
    before it, or saves within `training_weights()`.

    A `fit` that is interrupted while they are shown leaves them in the model; the next `fit` with
    the same callback goes on from y.

    A model with a `train_step` of its own and several optimizers, such as a GAN, names them: then
    `fit` also ends as with `model.optimizer`, with these weights in the model.

    Where `model.optimizer` has no such weights nothing is to do, so that one list of callbacks
    serves all optimizers; one that was named must have some.

    Args:
        optimizer: a `keras.optimizers.Optimizer` or a list of them, those whose weights to show;
            default `model.optimizer`.

    Raises:
        ValueError: an optimizer that was named has no such weights, or is none.

    Example:

    >>> model.compile(kp.optimizers.EntropySGD(inner_steps=20), loss)
    >>> model.fit(x, y, validation_data=held_out, callbacks=[kp.callbacks.EvaluationWeights()])
    """

    def __init__(self, optimizer=None):
        super().__init__()
        given = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
        self._own = [] if optimizer is None else [evaluation_weights(o).optimizer for o in given]
        self._training, self._shown, self._wanted = False, [], 0

    @property
    def _optimizers(self):
        return self._own or [self.model.optimizer]

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
        if self._shown and all(shown.are_in_place() for shown in self._shown):
            self._put_back()  # an interrupted training's
        self._training, self._shown, self._wanted = True, [], 0
        for optimizer in self._own:
            if not judged_by_others(optimizer) and not state.undecided(optimizer):
                raise ValueError(
                    f"Received the optimizer {type(optimizer).__name__}, which trains the weights "
                    "that it evaluates; expected one of `keras_pde.optimizers` that works in "
                    "cycles, or one with use_ema=True. Leave it, or the callback, out."
                )

    def on_epoch_begin(self, epoch, logs=None):
        if self._wanted:
            self._hide()

    def on_test_begin(self, logs=None):
        if self._training:
            self._show()

    def on_test_end(self, logs=None):
        if self._training:
            self._hide()

    def on_epoch_end(self, epoch, logs=None):
        self._show()

    def on_train_end(self, logs=None):
        # `fit` has put the final weights of its own optimizer into the model.
        if self._own and self._shown:
            self._put_back()
        for optimizer in self._own:
            optimizer.finalize_variable_values(_keras.trained_by(optimizer))
        self._training, self._shown, self._wanted = False, [], 0
        if keras.backend.backend() == "jax":
            # Keras' own optimizers as the buffers of the averages, which the next `fit` refuses.
            for variable in self.model.trainable_variables:
                variable.assign(np.array(ops.convert_to_numpy(variable)))

    def _show(self):
        self._wanted += 1
        if self._wanted > 1:
            return
        self._synchronise()
        self._shown = [evaluation_weights(optimizer) for optimizer in self._optimizers]
        for shown in self._shown:
            shown.__enter__()

    def _hide(self):
        self._wanted -= 1
        if self._wanted or not self._shown:
            return
        self._synchronise()
        self._put_back()

    def _put_back(self):
        for shown in reversed(self._shown):
            shown.__exit__()
        self._shown = []

    def _synchronise(self):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
