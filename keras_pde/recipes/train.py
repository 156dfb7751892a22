import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from keras_pde.callbacks import EvaluationWeights
from keras_pde.data import Dataset
from keras_pde.recipes import build, pace, schedules
from keras_pde.recipes.course import Course
from keras_pde.recipes.devices import find
from keras_pde.recipes.finish import check_card, finish
from keras_pde.recipes.journal import Journal
from keras_pde.recipes.recipe import Recipe
from keras_pde.recipes.run_folder import RunFolder


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    blocks: int | None = None,
    evaluate: bool = True,
    devices: int | str | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    dataset: Dataset | None = None,
    callbacks: Sequence[Callable] = (),
    say: Callable[[str], None] = print,
    progress: Callable[[str, int, int], None] | None = None,
) -> RunFolder:
    """Trains a recipe's model, keeps its best epoch, evaluates and saves it.

    Every finished epoch is in the folder: after a kill, `resume=True` goes on from there and ends
    with the same bits as an uninterrupted training (on the same hardware and versions).

    Args:
        recipe: a `Recipe`.
        out: the run's folder, see `RunFolder`.
        resume: go on with the training in that folder.
        max_minutes: stop cleanly before the epoch that would end later than that, from now.
        blocks: shorten the training, with its schedule, to what fits into so many blocks of
            `max_minutes`, this one included. It is compiled and timed first, and the number of
            epochs is settled before the first step. `None`: train as long as the recipe says.
        evaluate: whether to run the recipe's evaluations at the end.
        devices: number of devices that share each batch, or "auto", as in `devices.find`; `None`
            for one.
        data_dir, download: as in `keras_pde.data.load`.
        dataset: a `keras_pde.data.Dataset` in place of the one that the recipe names.
        callbacks: functions of the `Journal`, called after each epoch that it has written down.
        say: function of a line of text.
        progress: function of (text, finished, total), or `None`.

    Returns:
        The `RunFolder`. Its `run.json` says whether the training is finished.

    Raises:
        ValueError: the recipe or the folder is not fit; says what was received and expected.
        FileNotFoundError: the data are absent.
        OSError: the disk is full; what was written stands.

    Example:

    >>> run = keras_pde.recipes.train(recipe, "runs/mnist-linf")
    >>> model = keras_pde.load_model(run / "model")
    """
    deadline = _deadline(max_minutes)
    devices = find(devices)
    _check_blocks(blocks, max_minutes, devices)
    if not devices.first:
        say, progress = _silent, None
    build.check(recipe, devices)
    if note := build.validation_note(recipe):
        say(note)
    folder = RunFolder(out)
    devices.first_does(folder.check, recipe, resume)
    source = build.source_digest(recipe)
    devices.first_does(folder.check_source, source)
    loaded, training_part, held_out = build.dataset(recipe, data_dir, download, dataset)
    _check_end(recipe, loaded, evaluate)
    batches = build.batches(recipe, loaded, training_part, devices)
    steps = batches.steps_per_epoch
    with devices.scope():
        robust = build.robust_model(recipe, loaded, recipe.training.epochs * steps)
    with contextlib.ExitStack() as stack:

        def claim():  # nothing is created before all else is known to be right
            stack.enter_context(folder.locked())
            folder.start(recipe, resume)

        devices.first_does(claim)
        evaluated = EvaluationWeights()
        journal = Journal(
            folder,
            robust,
            _facts(recipe, loaded, training_part, held_out, devices, source),
            recipe,
            deadline,
            say,
            progress,
            devices,
            evaluated,
            callbacks,
        )
        with devices.scope():
            done = journal.restore()
        say(
            f"{recipe.title}: {loaded.name}, {len(training_part[0])} training and "
            f"{len(held_out[0])} validation images, {robust.model.count_params()} parameters, "
            f"{robust.objective!r}. Everything is written to {folder.path}."
        )
        if done:
            say(f"Resumed after epoch {done} of {journal.epochs}.")
        if done < journal.epochs and not journal.stopped_early:
            course = Course(recipe, robust, batches, held_out, devices, evaluated)
            _learn(course, journal, recipe, done, blocks, say)
        elif journal.is_whole and callbacks:
            for follow in callbacks:  # its last call may have failed
                follow(journal)
        elif folder.state() == "finished":
            say("It is finished already: nothing is left to do.")
            return folder
        devices.first_does(_conclude, recipe, folder, loaded, journal, evaluate, say, progress)
    return folder


def _check_end(recipe, loaded, evaluate):
    """Refuses what could not be evaluated or saved after the training."""
    if evaluate and recipe.evaluation and not len(loaded.x_test):
        raise ValueError(
            f"Received {loaded.name} without test images for a recipe with [[evaluation]]; "
            "expected some, or evaluate=False (--no-evaluation)."
        )
    check_card(recipe, loaded)


def _deadline(max_minutes):
    """On the clock `time.monotonic`; None for none."""
    if max_minutes is None:
        return None
    if not max_minutes >= 0:
        raise ValueError(f"Received max_minutes={max_minutes}; expected at least 0, or None.")
    return time.monotonic() + 60 * max_minutes


def _check_blocks(blocks, max_minutes, devices):
    if blocks is not None and (max_minutes is None or blocks < 1 or devices.processes > 1):
        raise ValueError(
            f"Received blocks={blocks} with max_minutes={max_minutes} and {devices.processes} "
            "processes; expected at least 1, the minutes of a block, and one process."
        )


def _learn(course, journal, recipe, done, blocks, say):
    """The epochs that are left; with `blocks` as many as fit into these."""
    course.attacked.last = journal.robust_accuracy()
    if blocks is not None:
        journal.pace = pace.measure(course, journal)
        journal.epochs = pace.fitting(journal, course.batches.steps_per_epoch, blocks, say)
        schedules.adapt(course.robust.optimizer, recipe.training.epochs, journal.epochs)
    course.run([journal], done, journal.epochs)


def _silent(text):
    """What processes other than the first say."""


def _conclude(recipe, folder, loaded, journal, evaluate, say, progress):
    folder.draw("curves.png", journal.plot)
    done, epochs = len(journal.history), journal.epochs
    if journal.stopped_early:
        say(f"Stopped after epoch {done} of {epochs}, as validation.patience says.")
    elif done < epochs:
        journal.write_facts("stopped")
        say(f"Stopped after epoch {done} of {epochs}, as --max-minutes says. --resume goes on.")
        return
    journal.write_facts("trained")
    if evaluate:
        finish(recipe, folder, loaded, journal.progress_made(), say, progress)
        journal.write_facts("finished")


def _facts(recipe, loaded, training_part, held_out, devices, source):
    return {
        "title": recipe.title,
        "seed": recipe.training.seed,
        "data": loaded.name,
        "training_images": len(training_part[0]),
        "validation_images": len(held_out[0]),
        "devices": devices.count,
        "processes": devices.processes,
        **({} if source is None else {"from": source}),
    }
