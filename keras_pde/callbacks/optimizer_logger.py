import keras
from keras import ops

from keras_pde.optimizers import state


class OptimizerLogger(keras.callbacks.Callback):
    """Logs what optimizers decide by themselves, at the end of each epoch.

    The logs, so `history`, `CSVLogger` and TensorBoard, get the optimizer's `logged`: `last_rate`
    and `skipped` of optimizers that see the loss, `batches`, `steps` and `skipped` of `SAGD`, and
    the current `scope` of `EntropySGD` and `HamiltonJacobi`.

    Put it before the callbacks that read the logs.

    Raises:
        ValueError: the model's optimizer logs nothing.

    Example:

    >>> model.compile(kp.optimizers.SALR(), loss)
    >>> rates = model.fit(x, y, callbacks=[kp.callbacks.OptimizerLogger()]).history["last_rate"]
    """

    def on_train_begin(self, logs=None):
        if not logging_parts(self.model.optimizer) and not state.undecided(self.model.optimizer):
            raise ValueError(
                f"Received a model with the optimizer {type(self.model.optimizer).__name__}, which "
                "decides nothing by itself; expected SALR, SPS, ALIG, SAGD, EntropySGD or "
                "HamiltonJacobi of `keras_pde.optimizers`. Leave the callback out."
            )

    def on_epoch_end(self, epoch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        for optimizer in filter(lambda part: part.built, logging_parts(self.model.optimizer)):
            for name, value in optimizer.logged.items():
                logs[name] = float(ops.convert_to_numpy(value))


def logging_parts(optimizer):
    """Those of the optimizer and the ones inside it that have something to log."""
    return [part for part in state.nested(optimizer) if hasattr(type(part), "logged")]
