"""How fast a training is on this machine, and how many of its epochs fit into minutes."""

import time
from dataclasses import asdict, dataclass

import keras
from keras import ops

_STEPS = 12  # of a rehearsal, at most
_MARGIN, _BETWEEN = 0.05, 0.02  # epochs take a little longer than their parts: share, seconds


@dataclass(frozen=True)
class Pace:
    """Seconds, as measured.

    Attributes:
        compilation: of the programs that train, validate and attack, with a first run of each.
        step: of one batch.
        validation: of the held-out images without an attack.
        attack: of the held-out images, all of them classified correctly.
        writing: what is kept of an epoch.
        images_per_second: in training.
    """

    compilation: float
    step: float
    validation: float
    attack: float
    writing: float
    images_per_second: float

    def epoch(self, steps: int, every: int) -> float:
        """Of an epoch of so many steps, with an attack after each `every`-th."""
        seconds = steps * self.step + self.validation + self.attack / every + self.writing
        return (1 + _MARGIN) * seconds + _BETWEEN

    def described(self) -> dict[str, float]:
        """Its numbers, for a file."""
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()}


def measure(course, journal) -> Pace:
    """Compiles all programs of a training and times them; the network is as before.

    Args:
        course: a `Course` of one process.
        journal: its `Journal`.
    """
    began = time.monotonic()
    before = journal.values()
    watch = _Stopwatch()
    steps = min(_STEPS, max(2, course.batches.steps_per_epoch))
    attacked = course.attacked
    every, attacked.every = attacked.every, 1
    # Attacks run whole batches, and smaller ones when few images are left. Both are compiled
    # when as many as can be are classified correctly, and when one is.
    course.rehearse([watch], steps)
    most = attacked.target.predict(attacked.x, batch_size=attacked.batch_size)
    few = (most + 1) % attacked.target.num_classes
    few[0] = most[0]
    attacked.measure(few)
    attacked.measure(most)
    compiled = time.monotonic()
    attacked.measure(most)
    attack = time.monotonic() - compiled
    course.rehearse([watch], steps)
    writing = journal.rehearse()
    journal.assign(before)
    attacked.last, attacked.every = journal.robust_accuracy(), every
    return Pace(
        compilation=compiled - began,
        step=watch.step,
        validation=watch.validation,
        attack=attack,
        writing=writing,
        images_per_second=course.batches.batch_size / watch.step,
    )


def fitting(journal, steps, blocks, say) -> int:
    """How many epochs the training gets, of which the journal has the finished ones.

    Args:
        journal: with pace, deadline and the number of epochs that was asked for.
        steps: of an epoch.
        blocks: how many times the minutes that are left now there will be.
        say: function of a line of text.

    Raises:
        ValueError: not one more epoch fits.
    """
    pace, done, asked = journal.pace, len(journal.history), journal.epochs
    left = journal.deadline - time.monotonic()
    epoch = pace.epoch(steps, journal.validation.every)
    fit = int(left // epoch)
    say(
        f"Compiled in {pace.compilation:.0f} s; {pace.images_per_second:.0f} images a second, "
        f"{epoch:.1f} s an epoch, {max(left, 0):.0f} s are left."
    )
    if fit < 1:
        raise ValueError(
            f"Received {left:.0f} seconds for training after compilation; expected at least "
            f"{epoch:.1f}, for one epoch: raise the minutes, or lower data.limit, objective.steps, "
            "the model's width or validation.images."
        )
    epochs = min(asked, done + blocks * fit)
    times = f"{blocks} times " * (blocks > 1)
    say(
        f"{times}{fit} epochs would fit; the training has {epochs}"
        + (f", not {asked}, and its schedule is shortened so." if epochs < asked else ".")
    )
    return epochs


class _Stopwatch(keras.callbacks.Callback):
    """Seconds of a step, and of the validation after the last one."""

    async_safe = (
        True  # another thread calls it after batches, so nothing is computed before the end
    )

    def on_epoch_begin(self, epoch, logs=None):
        self._ends = {}

    def on_train_batch_end(self, batch, logs=None):
        if batch in (0, self.params["steps"] - 1):  # only these wait for the device
            ops.convert_to_numpy(next(iter(logs.values())))
            self._ends[batch] = time.monotonic()

    def on_test_end(self, logs=None):
        self._validated = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        last = self.params["steps"] - 1
        self.step = (self._ends[last] - self._ends[0]) / last
        self.validation = max(0.0, self._validated - self._ends[last])
