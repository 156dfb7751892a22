import time

import keras
import numpy as np
from keras import ops

from keras_pde import environment
from keras_pde.recipes import curves
from keras_pde.recipes.run_folder import BEST, CHECKPOINT, RUN

ROBUST = "val_robust_accuracy"


class Journal(keras.callbacks.Callback):
    """Writes down each finished epoch: checkpoint, best weights, history, curves, TensorBoard.

    Args:
        folder: the `RunFolder`.
        robust: the `RobustModel` in training.
        facts: what `run.json` says beside the history.
        validation: the recipe's, which says when held-out images are attacked, and which epoch is
            kept.
        max_minutes: stop before an epoch that would end later than so many minutes from now.
        say: function of a line of text.
        progress: function of (text, finished, total), or `None`.
        devices: of the training; their first process writes.
        evaluated: the `EvaluationWeights` of the training, which the checkpoint must not have.
    """

    async_safe = True  # what it does after a batch may happen while the next one runs

    def __init__(
        self, folder, robust, facts, validation, max_minutes, say, progress, devices, evaluated
    ):
        super().__init__()
        self.folder, self.robust, self.facts = folder, robust, facts
        self.validation = validation
        self.say, self.progress, self.devices = say, progress, devices
        self.evaluated = evaluated
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.history: list[dict] = []
        self.best = None
        self.starts: list[dict] = []  # commit, versions and hardware of each process that trained
        self._board = None

    # The state

    def _state(self):
        return [*self.robust.variables, *self.robust.optimizer.variables]

    def restore(self) -> int:
        """Takes up the state of the checkpoint, if there is one; number of finished epochs."""
        if not (self.folder / CHECKPOINT).exists():
            return 0
        arrays, facts = self.folder.read_arrays(CHECKPOINT)
        variables = self._state()
        found = [tuple(a.shape) for a in arrays]
        expected = [tuple(v.shape) for v in variables]
        if found != expected:
            raise ValueError(
                f"Received {self.folder / CHECKPOINT} with {len(found)} arrays; expected those of "
                f"this model and optimizer ({len(expected)}): the code changed since. Train anew."
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        self.history, self.best = facts["history"], facts["best"]
        self.starts = facts["starts"]
        return len(self.history)

    # The callback

    def on_train_begin(self, logs=None):
        start = {"after_epoch": len(self.history), "commit": environment.commit()}
        self.starts = [*self.starts, {**start, **environment.describe()}]
        self._began = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._began = epoch, time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if self.progress is not None:
            epochs, steps = self.params["epochs"], self.params["steps"]
            self.progress(f"epoch {self._epoch + 1}/{epochs}", batch + 1, steps)

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self._began
        row = {"epoch": epoch + 1, **{k: float(v) for k, v in logs.items()}}
        if not self._is_attacked(epoch + 1):
            del row[ROBUST]  # the callback repeats the last value; only measured ones count
        row["learning_rate"] = float(ops.convert_to_numpy(self.robust.optimizer.learning_rate))
        row["seconds"] = round(seconds, 2)
        self.history.append(row)
        self.devices.first_does(self._write, row)
        if self.deadline is not None and epoch + 1 < self.params["epochs"]:
            late = time.monotonic() + seconds > self.deadline
            self.model.stop_training = self.devices.agree(late)

    def _write(self, row):
        # Files in the order of their dependence: the checkpoint makes the epoch count.
        if self._is_best(row):
            self.best = row
            weights = [ops.convert_to_numpy(w) for w in self.robust.result.weights]
            self.folder.write_arrays(BEST, weights, epoch=row["epoch"])
        with self.evaluated.training_weights():
            state = [np.array(ops.convert_to_numpy(v)) for v in self._state()]
        facts = {"starts": self.starts, "history": self.history, "best": self.best}
        self.folder.write_arrays(CHECKPOINT, state, **facts)
        self.write_facts("training")
        self._log_scalars(row)
        self.say(self._line(row))

    def _is_attacked(self, epoch):
        return epoch in (1, self.params["epochs"]) or epoch % self.validation.every == 0

    def _is_best(self, row):
        select = self.validation.select
        if select == "last" or self.best is None:
            return True
        # The later one of equals: if nothing is robust yet, the network has at least learned more.
        return select in row and row[select] >= self.best[select]

    def robust_accuracy(self) -> float | None:
        """The last one that was measured."""
        return next((row[ROBUST] for row in reversed(self.history) if ROBUST in row), None)

    def plot(self, path):
        """Draws the course of the training."""
        curves.plot(self.history, path, self.facts["title"], self.best["epoch"])

    def write_facts(self, state):
        """Writes `run.json`."""
        progress = {"starts": self.starts, "kept": self.best, "history": self.history}
        self.folder.write_json(RUN, {**self.facts, "state": state, **progress})

    def _line(self, row):
        epochs = self.params["epochs"]
        shown = {k: v for k, v in row.items() if k not in ("epoch", "seconds")}
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        left = (epochs - row["epoch"]) * row["seconds"] / 60
        rest = f", about {left:.0f} min left" if left >= 1 else ""
        return f"epoch {row['epoch']}/{epochs}  {numbers}  ({row['seconds']:.1f} s{rest})"

    def _log_scalars(self, row):
        if self._board is None:
            try:
                from tensorboard.summary import Writer
            except ImportError:
                self._board = False
                self.say("(No TensorBoard logs: pip install tensorboard to have them.)")
            else:
                self._board = Writer(str(self.folder / "tensorboard"))
        if self._board:
            for name in row.keys() - {"epoch"}:
                self._board.add_scalar(name, row[name], row["epoch"])
            self._board.flush()
