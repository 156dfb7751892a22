import warnings

import keras
import numpy as np

from keras_pde.attacks import PGD
from keras_pde.callbacks import EvaluationWeights, OptimizerLogger, RobustValidation
from keras_pde.callbacks.optimizer_logger import logging_parts
from keras_pde.optimizers.evaluation_weights import judged_by_others
from keras_pde.recipes.devices import ONE_DEVICE


class Course:
    """How a recipe's network is fitted: its batches, validation, and attacks on held-out images.

    Args:
        recipe: a `Recipe`.
        robust, batches: of `build`, made from it.
        held_out: images and labels to select with.
        devices: those of `robust` and `batches`.
        evaluated: the `EvaluationWeights` to use where the optimizer asks for it.

    Attributes:
        attacked: the `RobustValidation`; `attacked.last` is the last accuracy that it found.
    """

    def __init__(self, recipe, robust, batches, held_out, devices=ONE_DEVICE, evaluated=None):
        self.robust, self.batches, self.held_out = robust, batches, held_out
        self.devices = devices
        self.evaluated = evaluated or EvaluationWeights()
        x, y = held_out
        validation = recipe.validation
        attack = PGD(
            validation.norm, validation.epsilon, steps=validation.steps, seed=recipe.training.seed
        )
        count = min(validation.images, len(x))
        self.attacked = RobustValidation(
            x[:count], y[:count], attack, validation.every, min(count, batches.batch_size)
        )

    def run(self, callbacks, first, last, **kwargs):
        """Trains from epoch `first` to `last`, attacking held-out images after each; the `History`.

        Args:
            callbacks: run after the attack, so that they see `val_robust_accuracy`.
            first: number of finished epochs.
            last: number of finished epochs in the end.
            **kwargs: for `keras.Model.fit`.
        """
        steps = self.batches.steps_per_epoch
        _check_cycles(self.robust.optimizer, steps, last)
        return self._fit(callbacks, first * steps, steps, first, last, **kwargs)

    def rehearse(self, callbacks, steps):
        """The first so many steps, and what follows an epoch; the network changes."""
        return self._fit(callbacks, 0, steps, 0, 1)

    def _fit(self, callbacks, first_step, steps, first, last, **kwargs):
        (x, y), classes = self.held_out, self.batches.classes
        labels = np.eye(classes, dtype="float32")[y] if classes else y
        rows, size = _validation_rows(len(x), self.devices)
        with self.devices.scope(), warnings.catch_warnings():
            # What is kept is an epoch's anchor, and what is resumed goes on within the cycle.
            warnings.filterwarnings("ignore", message=".*ends within a cycle")
            # Statistics that lag are an alarm of the evaluation that follows.
            warnings.filterwarnings("ignore", message=".*these lag behind the weights")
            return self.robust.fit(
                self.batches.stream(first_step, first_step + (last - first) * steps),
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=steps,
                shuffle=False,
                validation_data=(x[rows], labels[rows]),
                validation_batch_size=size,
                callbacks=[
                    keras.callbacks.LambdaCallback(on_epoch_end=_check_finite),
                    *self._asked_for(),
                    self.attacked,
                    *callbacks,
                ],
                **{"verbose": 0, **kwargs},
            )

    def _asked_for(self):
        """The callbacks without which the optimizer is not seen as it should be."""
        optimizer = self.robust.optimizer
        found = [self.evaluated] if judged_by_others(optimizer) else []
        return found + ([OptimizerLogger()] if logging_parts(optimizer) else [])


def _check_cycles(optimizer, steps, epochs):
    """Refuses a training within which no anchor moves: what is kept would be the initial weights.

    Args:
        steps: of an epoch.
        epochs: of the training.
    """
    for part in judged_by_others(optimizer):
        anchored = "anchor" in getattr(part, "evaluation_choices", ())
        if anchored and part.inner_steps > steps * epochs:
            raise ValueError(
                f"Received the optimizer {part.name!r} with cycles of {part.inner_steps} batches "
                f"for a training of {steps * epochs}, whose validation would see the initial "
                f"weights only; expected cycles of at most {steps}, the batches of an epoch. "
                "Shorten them in [optimizer]."
            )


def _validation_rows(count, devices):
    """This process's rows of the held-out images, and how many of them make a batch.

    Devices take equal shares of a batch: of an odd image or two there is no clean loss.
    """
    shares = count // devices.count
    if not shares:
        raise ValueError(
            f"Received {count} held-out images for {devices.count} devices; expected at least as "
            "many: raise data.validation."
        )
    size = _divisor(shares, max(1, 500 // devices.count)) * devices.count
    return devices.share(shares * devices.count), size // devices.processes


def _check_finite(epoch, logs):
    broken = [name for name, value in logs.items() if not np.isfinite(value)]
    if broken:
        raise ValueError(
            f"Received {broken[0]} = {logs[broken[0]]} in epoch {epoch + 1}; expected a number: "
            "the training has diverged. What was finished before is kept, but would diverge again: "
            "lower the learning rate in [schedule] and train anew."
        )


def _divisor(count, largest):
    """The largest batch size up to `largest` that leaves no smaller last batch to compile."""
    return next(
        (n for n in range(min(count, largest), largest // 4, -1) if count % n == 0), largest
    )
