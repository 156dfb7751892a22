"""What is known of the trials of a search: one JSON file each, in a folder that all workers share.

Keras Tuner keeps records too, but drops the reason of a failure on the way from a worker, and has
no clean accuracy of the epoch that the objective chose.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_pde.recipes import RunFolder


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Attributes:
        number: counts from 0.
        values: dotted key -> value.
        state: "running", "completed" or "failed".
        epoch, epochs: finished epochs, and those in the end.
        seconds: since it began.
        metrics: what the best epoch (while running: the last one) logged.
        reason: why it failed.
        worker: who ran it.
    """

    number: int
    values: dict[str, Any]
    state: str = "running"
    epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    worker: str = ""


class Trials:
    """The records in a folder."""

    def __init__(self, path):
        self.path = Path(path)

    def write(self, trial: Trial) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        RunFolder(self.path).write_json(f"{trial.number:04d}.json", dataclasses.asdict(trial))

    def read(self, worker: str | None = None) -> list[Trial]:
        """All of them in order, or those of one worker."""
        found = [Trial(**json.loads(path.read_text())) for path in self.path.glob("[0-9]*.json")]
        return sorted(
            (trial for trial in found if worker in (None, trial.worker)),
            key=lambda trial: trial.number,
        )


def is_larger_better(objective: str) -> bool:
    """Whether a logged quantity is to be large."""
    return not objective.endswith("loss")


def ranked(trials: list[Trial], objective: str, min_accuracy: float = 0.0) -> list[Trial]:
    """The completed trials, the best first; after them those of less clean validation accuracy.

    Args:
        trials: of a search.
        objective: name of the number that they are ranked by.
        min_accuracy: clean validation accuracy below which a trial comes after all others.
    """
    completed = [trial for trial in trials if trial.state == "completed"]
    sign = -1 if is_larger_better(objective) else 1

    def place(trial):
        too_low = trial.metrics["val_accuracy"] < min_accuracy
        return too_low, sign * trial.metrics[objective]

    return sorted(completed, key=place)
