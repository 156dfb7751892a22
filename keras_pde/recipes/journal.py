import csv
import io
import time

import keras
import numpy as np
from keras import ops

from keras_pde import environment
from keras_pde.compiled import step_by_step
from keras_pde.optimizers import state
from keras_pde.recipes import curves
from keras_pde.recipes.run_folder import BEST, CHECKPOINT, HISTORY, RUN

ROBUST, CLEAN = "val_robust_accuracy", "val_clean_accuracy"
_REHEARSAL = "rehearsal.npz"


class Journal(keras.callbacks.Callback):
    """Writes down each finished epoch: checkpoint, best weights, history, curves, TensorBoard.

    Args:
        folder: the `RunFolder`.
        robust: the `RobustModel` in training.
        facts: what `run.json` says beside the history.
        recipe: says when held-out images are attacked, which epoch is kept, and how many there are.
        deadline: stop before an epoch that would end later, on the clock `time.monotonic`.
        say: function of a line of text.
        progress: function of (text, finished, total), or `None`.
        devices: of the training; their first process writes.
        evaluated: the `EvaluationWeights` of the training, which the checkpoint must not have.
        followers: functions of the journal, called when an epoch is written down, with a method
            `rehearse` that returns the seconds that one takes.

    Attributes:
        epochs: of the whole training; the recipe's, unless it was shortened to fit into minutes.
        pace: what was measured for that.
        history: one row an epoch.
        best: the row of the epoch that is kept.
        is_whole: whether a checkpoint was there to be restored.
    """

    async_safe = True  # what it does after a batch may happen while the next one runs

    def __init__(
        self,
        folder,
        robust,
        facts,
        recipe,
        deadline,
        say,
        progress,
        devices,
        evaluated,
        followers=(),
    ):
        super().__init__()
        self.folder, self.robust, self.facts = folder, robust, facts
        self.validation, self.epochs = recipe.validation, recipe.training.epochs
        self.say, self.progress, self.devices = say, progress, devices
        self.evaluated, self.followers = evaluated, followers
        self.deadline = deadline
        self.pace = None
        self.history: list[dict] = []
        self.best = None
        self.starts: list[dict] = []  # commit, versions and hardware of each process that trained
        self._board = None

    # The state

    def variables(self):
        """All that the next step depends on."""
        return [*self.robust.variables, *self.robust.optimizer.variables]

    def values(self):
        """Copies of their values, in the same order."""
        with self.evaluated.training_weights():
            return [np.array(ops.convert_to_numpy(v)) for v in self.variables()]

    def progress_made(self):
        """What a checkpoint and `run.json` say of the training so far."""
        return {
            "epochs": self.epochs,
            "starts": self.starts,
            "history": self.history,
            "kept": self.best,
        }

    def restore(self) -> int:
        """Takes up the state of the checkpoint, if there is one; number of finished epochs.

        Raises:
            ValueError: it does not fit, or it is missing though the training has not ended.
        """
        self.is_whole = (self.folder / CHECKPOINT).exists()
        if not self.is_whole:
            return self._restore_facts()
        arrays, facts = self.folder.read_arrays(CHECKPOINT)
        variables = self.variables()
        expected = [tuple(v.shape) for v in variables]
        # A momentum for which there was no room on the way here has no entries; it starts anew.
        anew = {id(v) for v in state.momentum(self.robust.optimizer)}
        arrays = [
            np.zeros(v.shape, a.dtype) if a.shape == (0,) and id(v) in anew else a
            for v, a in zip(variables, arrays, strict=False)
        ] + arrays[len(variables) :]
        found = [tuple(a.shape) for a in arrays]
        if found != expected:
            raise ValueError(
                f"Received {self.folder / CHECKPOINT} with {len(found)} arrays; expected those of "
                f"this model and optimizer ({len(expected)}): the code changed since. Train anew."
            )
        self.assign(arrays)
        return self._take_up(facts)

    def _restore_facts(self):
        """Of a run whose checkpoint did not come back from where it was trained."""
        facts = self.folder.read_json(RUN) if (self.folder / RUN).exists() else {}
        if not facts.get("history"):
            return 0
        if len(facts["history"]) < facts["epochs"]:
            raise ValueError(
                f"Received the run {self.folder.path} without its {CHECKPOINT}; expected it, to go "
                "on: it was left behind, or did not come back. The kept epoch's model is whole."
            )
        return self._take_up(facts)

    def _take_up(self, facts):
        self.history, self.best = facts["history"], facts["kept"]
        self.starts, self.epochs = facts["starts"], facts["epochs"]
        return len(self.history)

    def assign(self, values):
        """Takes up values as `values` returns them."""
        for variable, array in zip(self.variables(), values, strict=True):
            variable.assign(array)

    # The callback

    def on_train_begin(self, logs=None):
        start = {"after_epoch": len(self.history), "commit": environment.commit()}
        paced = {"pace": self.pace.described()} if self.pace else {}
        self.starts = [*self.starts, {**start, **environment.describe(), **paced}]
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
            for name in (ROBUST, CLEAN):  # the callback repeats them; only measured ones count
                row.pop(name, None)
        with step_by_step():
            row["learning_rate"] = float(ops.convert_to_numpy(self.robust.optimizer.learning_rate))
        row["seconds"] = round(seconds, 2)
        self.history.append(row)
        if self._is_best(row):
            self.best = row
        self.devices.first_does(self._write, row)
        if self.stopped_early:
            self.model.stop_training = True
        if self.deadline is not None and epoch + 1 < self.epochs:
            # With what was written since.
            late = 2 * time.monotonic() - self._began > self.deadline
            self.model.stop_training = self.devices.agree(late)

    def _write(self, row):
        # Files in the order of their dependence: the checkpoint makes the epoch count.
        if self.best is row:
            self.folder.write_arrays(BEST, self.result(), epoch=row["epoch"])
        self.folder.write_arrays(CHECKPOINT, self.values(), **self.progress_made())
        self.write_facts("training")
        self._log_scalars(row)
        self.folder.write(HISTORY, _as_csv(self.history))
        for follow in self.followers:
            follow(self)
        self.say(self._line(row))

    def rehearse(self) -> float:
        """Seconds of what is written after an epoch; nothing is left of it."""
        began = time.monotonic()
        for arrays in (self.result(), self.values()):
            self.folder.write_arrays(_REHEARSAL, arrays)
        (self.folder / _REHEARSAL).unlink()
        return time.monotonic() - began + sum(f.rehearse(self) for f in self.followers)

    def result(self):
        """The weights to keep if this epoch is."""
        return [ops.convert_to_numpy(w) for w in self.robust.result.weights]

    def _is_attacked(self, epoch):
        return epoch in (1, self.params["epochs"]) or epoch % self.validation.every == 0

    def _is_best(self, row):
        select = self.validation.select
        if select == "last" or self.best is None:
            return True
        # The later one of equals: if nothing is robust yet, the network has at least learned more.
        return select in row and row[select] >= self.best[select]

    @property
    def stopped_early(self) -> bool:
        """Whether no epoch has been better for as many as the recipe's patience."""
        patience, select = self.validation.patience, self.validation.select
        rows = [row for row in self.history if patience and select in row]
        if not rows:
            return False
        first = max(rows, key=lambda row: row[select])["epoch"]  # of equals the first
        return len(self.history) - first >= patience

    def robust_accuracy(self) -> float | None:
        """The last one that was measured."""
        return next((row[ROBUST] for row in reversed(self.history) if ROBUST in row), None)

    def plot(self, path):
        """Draws the course of the training."""
        curves.plot(self.history, path, self.facts["title"], self.best["epoch"])

    def write_facts(self, state):
        """Writes `run.json`."""
        self.folder.write_json(RUN, {**self.facts, "state": state, **self.progress_made()})

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


def _as_csv(history):
    """One line an epoch; what was not measured in an epoch is empty."""
    names = dict.fromkeys(name for row in history for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()
