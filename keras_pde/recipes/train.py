import numpy as np

from keras_pde import environment
from keras_pde.attacks import PGD
from keras_pde.recipes import build, curves
from keras_pde.recipes.finish import finish
from keras_pde.recipes.journal import Journal
from keras_pde.recipes.run_folder import RunFolder
from keras_pde.training.callbacks import RobustValidation


def train(
    recipe,
    out,
    *,
    resume=False,
    max_minutes=None,
    evaluate=True,
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
    build.check(recipe)
    folder = RunFolder(out)
    loaded, training_part, held_out = build.dataset(recipe, data_dir, download)
    with folder.locked():
        folder.start(recipe, resume)
        batches = build.batches(recipe, loaded, training_part)
        epochs, steps = recipe.training.epochs, batches.steps_per_epoch
        robust = build.robust_model(recipe, loaded, epochs * steps)
        journal = Journal(
            folder,
            robust,
            _facts(recipe, loaded, training_part, held_out),
            recipe.validation.select,
            max_minutes,
            say,
            progress,
        )
        done = journal.restore()
        say(
            f"{recipe.title}: {loaded.name}, {len(training_part[0])} training and "
            f"{len(held_out[0])} validation images, {robust.model.count_params()} parameters, "
            f"{robust.objective!r}. Everything is written to {folder.path}."
        )
        if done:
            say(f"Resumed after epoch {done} of {epochs}.")
        if done < epochs:
            before = journal.history[-1]["val_robust_accuracy"] if done else None
            fit(recipe, robust, batches, held_out, [journal], done, robust_accuracy=before)
        curves.plot(journal.history, folder / "curves.png", recipe.title, journal.best["epoch"])
        if len(journal.history) < epochs:
            journal.write_facts("stopped")
            say(
                f"Stopped after epoch {len(journal.history)} of {epochs}, as --max-minutes says. "
                "--resume goes on."
            )
            return folder
        journal.write_facts("trained")
        if evaluate:
            finish(recipe, folder, loaded, journal, say, progress)
            journal.write_facts("finished")
    return folder


def fit(
    recipe, robust, batches, held_out, callbacks, first=0, last=None, robust_accuracy=None, **kwargs
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
    return robust.fit(
        batches.stream(first * steps, last * steps),
        initial_epoch=first,
        epochs=last,
        steps_per_epoch=steps,
        shuffle=False,
        validation_data=(x, labels),
        validation_batch_size=_divisor(len(x), 500),
        callbacks=[attacked, *callbacks],
        **{"verbose": 0, **kwargs},
    )


def _divisor(count, largest):
    """The largest batch size up to `largest` that leaves no smaller last batch to compile."""
    return next(
        (n for n in range(min(count, largest), largest // 4, -1) if count % n == 0), largest
    )


def _facts(recipe, loaded, training_part, held_out):
    return {
        "title": recipe.title,
        "seed": recipe.training.seed,
        "data": loaded.name,
        "training_images": len(training_part[0]),
        "validation_images": len(held_out[0]),
        "commit": environment.commit(),
        "environment": environment.describe(),
    }
