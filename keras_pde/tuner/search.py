import contextlib
import dataclasses
import io
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_pde.recipes import Recipe, RunFolder
from keras_pde.registry import unknown_name
from keras_pde.tuner import chief, tradeoff
from keras_pde.tuner.extra import require
from keras_pde.tuner.hypermodel import RobustHyperModel, without_search
from keras_pde.tuner.trials import Trial, Trials, is_larger_better, ranked

TUNERS = {
    "random": "RandomSearch",
    "hyperband": "Hyperband",
    "bayesian": "BayesianOptimization",
}
OBJECTIVES = ("val_robust_accuracy", "val_accuracy", "val_loss")
SETTINGS = "search.json"


def search(
    recipe: Recipe,
    out: str | Path,
    trials: int,
    *,
    tuner: str = "random",
    objective: str = "val_robust_accuracy",
    min_accuracy: float = 0.0,
    seed: int = 0,
    resume: bool = False,
    data_dir: str | Path | None = None,
    download: bool = False,
    devices: int | str | None = None,
    trust_network: bool = False,
    shortened: dict[str, Any] | None = None,
    show: Callable[..., None] | None = None,
) -> list[Trial]:
    """Trains a recipe with different values of what its `[search]` names, and keeps the best.

    In the folder are then `best.toml` (a recipe for `keras_pde.recipes.train`), `trials.json`,
    `tradeoff.png` (clean against robust accuracy), and Keras Tuner's own files. All accuracies are
    on held-out training images; test images take no part.

    With Keras Tuner's environment variables the same call is the chief of a distributed search or
    one of its workers, who share the folder; workers write no results.

    Args:
        recipe: a `Recipe` with `[search]`.
        out: folder of the search.
        trials: at most so many; a space of fewer values ends the search earlier.
        tuner: one of `TUNERS`. Hyperband starts many short trainings and goes on with the best.
        objective: one of `OBJECTIVES`.
        min_accuracy: clean validation accuracy below which a trial is best only if all are below
            it: what robustness may cost. The tuner's choice of values does not look at it.
        seed: integer, of the values that are tried.
        resume: go on with the search in that folder, perhaps with more trials.
        data_dir, download: as in `keras_pde.data.load`.
        devices: number of devices that share each batch, or "auto", as in `keras_pde.recipes`.
        shortened: changes of the recipe for the trials only, such as `{"training.epochs": 2}`;
            `best.toml` is without them.
        trust_network: whether the chief's address may be a public one.
        show: function of the list of trials, called when it has changed, from another thread.

    Returns:
        The trials, a worker's own for a worker.

    Raises:
        ImportError: Keras Tuner is not installed.
        ValueError: the recipe, an option, the folder or the chief's address is not fit.
        FileNotFoundError: the data are absent.
        RuntimeError: no trial succeeded; says why.

    Example:

    >>> trials = keras_pde.tuner.search(recipe, "runs/search", trials=20, tuner="bayesian")
    """
    for what, received, known in (
        ("tuner", tuner, TUNERS),
        ("objective", objective, OBJECTIVES),
    ):
        if received not in known:
            raise unknown_name(what, received, known)
    require(*(["sklearn"] if tuner == "bayesian" else []))
    role, folder = chief.role(), RunFolder(out)
    whole, recipe = recipe, recipe.replaced(shortened or {})
    if role != "worker":
        folder.check(recipe, resume)
    hypermodel = RobustHyperModel(recipe, data_dir, download, devices)
    records = Trials(folder / "trials")
    settings = {"tuner": tuner, "objective": objective, "seed": seed}
    if role != "alone":
        chief.check_network(trust_network)
    if role == "worker":
        chief.wait()
        _join(folder, recipe, settings)
        made = _tuner(hypermodel, folder, trials, records, **settings)
        _run(made, lambda: records.read(chief.worker_name()), show)
        return records.read(chief.worker_name())
    if role == "chief":
        chief.check_free()
    with folder.locked():
        folder.start(recipe, resume)
        _claim(folder, settings)
        made = _tuner(hypermodel, folder, trials, records, **settings)
        made.save()  # a search that is killed in its first trial can be resumed
        _run(made, records.read, show)
        return _finish(folder, hypermodel, whole, records.read(), objective, min_accuracy)


def _join(folder, recipe, settings):
    if not (folder / SETTINGS).exists():
        raise ValueError(
            f"Received the folder {folder.path} for a worker, which is not the chief's; expected "
            "the same --out, on a disk that all machines share."
        )
    folder.check(recipe, resume=True)
    _claim(folder, settings)


def _claim(folder, settings):
    """Writes down how the values are chosen, or checks that it is as before."""
    if not (folder / SETTINGS).exists():
        folder.write_json(SETTINGS, settings)
    before = folder.read_json(SETTINGS)
    if before != settings:
        raise ValueError(
            f"Received {settings} for the search in {folder.path}, which began with {before}; "
            "expected the same (only the number of trials may change), or another --out."
        )


def _tuner(hypermodel, folder, trials, records, tuner, objective, seed):
    """Keras Tuner's class of that name, which also keeps our records."""
    keras_tuner = require()
    keras_tuner.src.config.DEBUG = False  # tracebacks of failed trials are in its trial.json
    base = getattr(keras_tuner, TUNERS[tuner])
    options = {"max_trials": trials}
    if tuner == "hyperband":
        # Brackets follow each other until the trials are used up.
        options = {"max_epochs": hypermodel.recipe.training.epochs, "hyperband_iterations": 0}
    if tuner == "bayesian":
        # Its default, 3 a dimension, may leave a short search nothing but random trials.
        options["num_initial_points"] = max(2, min(3 * len(hypermodel.spaces), trials // 3))
    direction = "max" if is_larger_better(objective) else "min"
    with contextlib.redirect_stdout(io.StringIO()):  # "Reloading Tuner from ..."
        made = type(base.__name__, (_Recording, base), {})(
            hypermodel,
            objective=keras_tuner.Objective(objective, direction),
            seed=seed + 1,  # 0 is none to Keras Tuner
            directory=str(folder.path),
            project_name="keras_tuner",
            # One failure says nothing about the next trial's values.
            max_consecutive_failed_trials=trials + 1,
            **options,
        )
    made.records = records
    if chief.role() != "worker":
        made.oracle.max_trials = trials
    return made


class _Recording:
    """What our tuners add to Keras Tuner's: a record of each trial, and patience with the chief."""

    _asked = False

    def pre_create_trial(self):
        if chief.role() == "worker":
            chief.wait()
        if self._asked:
            time.sleep(0.5)  # the answer was to ask again
        self._asked = True

    def run_trial(self, trial, *args, **kwargs):
        self._asked = False
        hp = trial.hyperparameters
        recipe = self.hypermodel.recipe
        self._began = time.monotonic()
        self._record = Trial(
            int(trial.trial_id),
            self.hypermodel.values_of(hp),
            epochs=hp.values.get("tuner/epochs", recipe.training.epochs),
            worker=chief.worker_name(),
            images={
                "val_accuracy": len(self.hypermodel.held_out[0]),
                "val_robust_accuracy": _attacked(self.hypermodel),
            },
        )
        self._write()
        try:
            results = super().run_trial(trial, *args, **kwargs)
            metrics = _best_epoch(results[0].history, self.oracle.objective)
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            self._write(state="failed", reason=reason)
            raise
        self._write(state="completed", metrics=metrics)
        return results

    def on_epoch_end(self, trial, model, epoch, logs=None):
        super().on_epoch_end(trial, model, epoch, logs)
        self._write(epoch=epoch + 1, metrics={k: float(v) for k, v in (logs or {}).items()})

    def _write(self, **changes):
        seconds = round(time.monotonic() - self._began, 1)
        self._record = dataclasses.replace(self._record, seconds=seconds, **changes)
        self.records.write(self._record)


def _best_epoch(history, objective):
    values = history[objective.name]
    best = (max if objective.direction == "max" else min)(values)
    epoch = values.index(best)
    return {name: float(column[epoch]) for name, column in history.items()}


def _run(made, read, show):
    with _watched(read, show), warnings.catch_warnings():
        # Gaussian processes of few points fit badly; nothing is to be done about it.
        warnings.filterwarnings("ignore", module="sklearn")
        made.search(verbose=0)


@contextlib.contextmanager
def _watched(read, show, seconds=0.5):
    """Within it a thread shows what `read` gives, when it has changed: the chief itself is busy."""
    if show is None:
        yield
        return
    end = threading.Event()

    def watch():
        shown, ended = [], False
        while not ended:
            ended = end.wait(seconds)
            found = read()
            if found != shown:
                show(found)
                shown = found

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _attacked(hypermodel):
    """How many held-out images are attacked."""
    return min(hypermodel.recipe.validation.images, len(hypermodel.held_out[0]))


def _finish(folder, hypermodel, recipe, trials, objective, min_accuracy):
    folder.write_json("trials.json", [trial.to_dict() for trial in trials])
    order = ranked(trials, objective, min_accuracy)
    if not order:
        reasons = "; ".join(f"trial {t.number}: {t.reason or t.state}" for t in trials)
        raise RuntimeError(f"None of the {len(trials)} trials succeeded: {reasons}")
    best = without_search(recipe.replaced(order[0].values))
    folder.write("best.toml", best.to_toml().encode())
    validation = recipe.validation
    attack = f"{validation.norm} {validation.epsilon:.4g}, PGD-{validation.steps}"
    what = f"{attack}, {_attacked(hypermodel)} images"
    tradeoff.plot(trials, order[0], folder / "tradeoff.png", recipe.title, what)
    return trials
