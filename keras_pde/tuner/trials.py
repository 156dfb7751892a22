"""What is known of the trials of a search: one JSON file each, in a folder that all workers share.

Keras Tuner keeps records too, but drops the reason of a failure on the way from a worker, and has
no clean accuracy of the epoch that the objective chose.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_pde.evaluation.tables import interval
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
        images: of how many held-out images `val_accuracy` and `val_robust_accuracy` are shares.
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
    images: dict[str, int] = field(default_factory=dict)

    def interval(self, name: str) -> tuple[float, float] | None:
        """95 % interval of an accuracy, over the draw of held-out images; exact (Clopper-Pearson).

        The best of many trials is better on these images than it is: the interval is of one trial.
        """
        share, count = self.metrics.get(name), self.images.get(name)
        if share is None or not count:
            return None
        return interval(round(share * count), count)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Trial":
        """The trial of what `to_dict` has returned."""
        return cls(**{name: value for name, value in record.items() if name != "intervals"})

    def to_dict(self) -> dict[str, Any]:
        """The fields, and the intervals."""
        intervals = {name: self.interval(name) for name in self.images}
        return {**dataclasses.asdict(self), "intervals": intervals}


class Trials:
    """The records in a folder."""

    def __init__(self, path):
        self.path = Path(path)

    def write(self, trial: Trial) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        RunFolder(self.path).write_json(f"{trial.number:04d}.json", trial.to_dict())

    def read(self, worker: str | None = None) -> list[Trial]:
        """All of them in order, or those of one worker."""
        paths = self.path.glob("[0-9]*.json")
        found = [Trial.from_dict(RunFolder(self.path).read_json(path.name)) for path in paths]
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
