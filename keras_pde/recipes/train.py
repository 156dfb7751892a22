import contextlib
import warnings

import keras
import numpy as np

from keras_pde.attacks import PGD
from keras_pde.recipes import build
from keras_pde.recipes.devices import ONE_DEVICE, find
from keras_pde.recipes.finish import finish
from keras_pde.recipes.journal import Journal
from keras_pde.recipes.run_folder import RunFolder
from keras_pde.training.callbacks import EvaluationWeights, OptimizerLogger, RobustValidation
from keras_pde.training.evaluation_weights import evaluated_parts
from keras_pde.training.optimizer_logger import logging_parts


def train(
    recipe,
    out,
    *,
    resume=False,
    max_minutes=None,
    evaluate=True,
    devices=None,
    data_dir=None,
    download=False,
    say=print,
    progress=None,
):
    """Trains a recipe's model, keeps its best epoch, evaluates and saves it.

    Every finished epoch is in the folder: after a kill, `resume=True` goes on from there and ends
    with the same bits as an uninterrupted training (on the same hardware and versions).

    Args:
        recipe: a `Recipe`.
        out: the run's folder, see `RunFolder`.
        resume: go on with the training in that folder.
        max_minutes: stop cleanly before the epoch that would end later than that.
        evaluate: whether to run the recipe's evaluations at the end.
        devices: number of devices that share each batch, or "auto", as in `devices.find`; `None`
            for one.
        data_dir, download: as in `keras_pde.data.load`.
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
    if max_minutes is not None and not max_minutes >= 0:
        raise ValueError(f"Received max_minutes={max_minutes}; expected at least 0, or None.")
    devices = find(devices)
    if not devices.first:
        say, progress = _silent, None
    build.check(recipe, devices)
    folder = RunFolder(out)
    devices.first_does(folder.check, recipe, resume)
    loaded, training_part, held_out = build.dataset(recipe, data_dir, download)
    batches = build.batches(recipe, loaded, training_part, devices)
    epochs, steps = recipe.training.epochs, batches.steps_per_epoch
    with devices.scope():
        robust = build.robust_model(recipe, loaded, epochs * steps)
    with contextlib.ExitStack() as stack:

        def claim():  # nothing is created before all else is known to be right
            stack.enter_context(folder.locked())
            folder.start(recipe, resume)

        devices.first_does(claim)
        evaluated = EvaluationWeights()
        journal = Journal(
            folder,
            robust,
            _facts(recipe, loaded, training_part, held_out, devices),
            recipe.validation,
            max_minutes,
            say,
            progress,
            devices,
            evaluated,
        )
        with devices.scope():
            done = journal.restore()
        say(
            f"{recipe.title}: {loaded.name}, {len(training_part[0])} training and "
            f"{len(held_out[0])} validation images, {robust.model.count_params()} parameters, "
            f"{robust.objective!r}. Everything is written to {folder.path}."
        )
        if done:
            say(f"Resumed after epoch {done} of {epochs}.")
        if done < epochs:
            before = journal.robust_accuracy()
            fit(
                recipe,
                robust,
                batches,
                held_out,
                [journal],
                done,
                robust_accuracy=before,
                devices=devices,
                evaluated=evaluated,
            )
        elif folder.state() == "finished":
            say("It is finished already: nothing is left to do.")
            return folder
        devices.first_does(_conclude, recipe, folder, loaded, journal, evaluate, say, progress)
    return folder


def _silent(text):
    """What processes other than the first say."""


def _conclude(recipe, folder, loaded, journal, evaluate, say, progress):
    folder.draw("curves.png", journal.plot)
    done, epochs = len(journal.history), recipe.training.epochs
    if done < epochs:
        journal.write_facts("stopped")
        say(f"Stopped after epoch {done} of {epochs}, as --max-minutes says. --resume goes on.")
        return
    journal.write_facts("trained")
    if evaluate:
        finish(recipe, folder, loaded, journal, say, progress)
        journal.write_facts("finished")


def fit(
    recipe,
    robust,
    batches,
    held_out,
    callbacks,
    first=0,
    last=None,
    robust_accuracy=None,
    devices=ONE_DEVICE,
    evaluated=None,
    **kwargs,
):
    """Trains from epoch `first` to `last`, attacking held-out images after each; the `History`.

    Args:
        recipe: a `Recipe`.
        robust, batches: of `build`, made from it.
        held_out: images and labels to select with.
        callbacks: run after the attack, so that they see `val_robust_accuracy`.
        first: number of finished epochs.
        last: number of finished epochs in the end; default: the recipe's.
        robust_accuracy: the last one found, if `first` is not 0.
        devices: those of `robust` and `batches`.
        evaluated: the `EvaluationWeights` to use where the optimizer asks for it.
        **kwargs: for `keras.Model.fit`.
    """
    steps, last = batches.steps_per_epoch, last or recipe.training.epochs
    x, y = held_out
    validation = recipe.validation
    attack = PGD(
        validation.norm, validation.epsilon, steps=validation.steps, seed=recipe.training.seed
    )
    count = min(validation.images, len(x))
    attacked = RobustValidation(
        x[:count], y[:count], attack, validation.every, min(count, batches.batch_size)
    )
    attacked.last = robust_accuracy
    labels = np.eye(batches.classes, dtype="float32")[y] if batches.classes else y
    rows, size = _validation_rows(len(x), devices)
    _check_cycles(robust.optimizer, steps, last)
    with devices.scope(), warnings.catch_warnings():
        # What is kept is an epoch's anchor, and what is resumed goes on within the cycle.
        warnings.filterwarnings("ignore", message=".*ends within a cycle")
        return robust.fit(
            batches.stream(first * steps, last * steps),
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=steps,
            shuffle=False,
            validation_data=(x[rows], labels[rows]),
            validation_batch_size=size,
            callbacks=[
                keras.callbacks.LambdaCallback(on_epoch_end=_check_finite),
                *_asked_for(robust.optimizer, evaluated),
                attacked,
                *callbacks,
            ],
            **{"verbose": 0, **kwargs},
        )


def _asked_for(optimizer, evaluated):
    """The callbacks without which an optimizer is not seen as it should be."""
    found = [evaluated or EvaluationWeights()] if evaluated_parts(optimizer) else []
    return found + ([OptimizerLogger()] if logging_parts(optimizer) else [])


def _check_cycles(optimizer, steps, epochs):
    """Refuses a training within which no anchor moves: what is kept would be the initial weights.

    Args:
        steps: of an epoch.
        epochs: of the training.
    """
    for part in evaluated_parts(optimizer):
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


def _facts(recipe, loaded, training_part, held_out, devices):
    return {
        "title": recipe.title,
        "seed": recipe.training.seed,
        "data": loaded.name,
        "training_images": len(training_part[0]),
        "validation_images": len(held_out[0]),
        "devices": devices.count,
        "processes": devices.processes,
    }
