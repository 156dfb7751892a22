import io
import json
from collections.abc import Callable
from pathlib import Path

from keras_pde import data as datasets
from keras_pde import files
from keras_pde.evaluation import Report
from keras_pde.recipes import Recipe, RunFolder, curves
from keras_pde.recipes.finish import attack, kept_model, save
from keras_pde.recipes.run_folder import BEST, CHECKPOINT, RECIPE, RUN, read_arrays

_NOT_OF_A_RUN = ("recipe", "parts", "state_without")


def collect(
    returned: str | Path,
    out: str | Path,
    *,
    evaluate: bool = False,
    data_dir: str | Path | None = None,
    download: bool = False,
    say: Callable[[str], None] = print,
    progress: Callable[[str, int, int], None] | None = None,
) -> RunFolder:
    """Makes what came back from an offline training into a run.

    The run's folder is one that `recipes.train` could have left: its `model/` can be loaded and
    attacked, it is published once it is measured, and another block goes on with it. What came back
    from an offline evaluation joins the run whose model was attacked.

    Args:
        returned: folder of the files that came back.
        out: the run's folder: a new one, or that of the run that went on or was attacked there.
        evaluate: whether to run the recipe's evaluations now.
        data_dir, download: as in `keras_pde.data.load`: the data say what the classes are.
        say: function of a line of text.
        progress: function of (text, finished, total), or `None`.

    Returns:
        The `RunFolder`.

    Raises:
        FileNotFoundError: files are missing; nothing was written.
        ValueError: files are damaged or of different epochs, or the run is another one.

    Example:

    >>> from keras_pde import load_model, offline
    >>> run = offline.collect("came_back", "runs/cifar10-linf")
    >>> model = load_model(run / "model")
    """
    returned, folder = Path(returned), RunFolder(out)
    facts = _facts(returned)
    recipe = Recipe.of(facts["recipe"])
    loaded = datasets.load(recipe.data.name, data_dir=data_dir, download=download)
    with folder.locked():
        if "attacked" in facts:
            reports = _joined_reports(returned, folder, recipe, facts)
        else:
            _check_place(folder, recipe, facts)
            _write_run(returned, folder, recipe, facts)
            reports = []
        model = kept_model(recipe, folder, loaded)
        if evaluate:
            reports = attack(recipe, folder, loaded, model, say, progress)
        made = folder.read_json(RUN)
        save(recipe, folder, loaded, model, made, reports)
        done = len(made["history"]) == made["epochs"]
        complete = done and len(reports) == len(recipe.evaluation) > 0
        folder.write_json(
            RUN, {**made, "state": "finished" if complete else "trained" if done else "stopped"}
        )
    images = sorted({report.count for report in reports})
    say(
        f"{folder.path}: epoch {made['kept']['epoch']} is kept, {len(made['history'])} of "
        f"{made['epochs']} are done, {len(reports)} of {len(recipe.evaluation)} evaluations"
        + (f" (test images: {', '.join(map(str, images))})." if images else ".")
    )
    return folder


def _facts(returned):
    path = returned / RUN
    if not path.is_file():
        raise FileNotFoundError(
            f"Received the folder {returned} without {RUN}; expected all files that an offline run "
            "left in its --out. Without it no epoch was finished, or it did not come back."
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["history"], facts["kept"], facts["epochs"], facts["parts"], facts["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Received {path}, which is damaged or none of an offline run ({error!r}); bring it "
            "again."
        ) from error
    return facts


def _check_place(folder, recipe, facts):
    """Refuses a folder in which something else would be lost than an earlier part of this run."""
    if not (folder / RUN).exists():
        folder.check(recipe, resume=False)
        return
    folder.check(recipe, resume=True)
    history = folder.read_json(RUN)["history"]
    if facts["history"][: len(history)] != history:
        raise ValueError(
            f"Received the run {folder.path} of {len(history)} epochs, which what came back does "
            "not continue; expected a new folder."
        )


def _write_run(returned, folder, recipe, facts):
    """The files of a run, as they were there but for the rounding on the way."""
    weights, state = (
        _arrays(returned, kind, facts["parts"][kind]) for kind in ("weights", "state")
    )
    progress = {key: facts[key] for key in ("epochs", "starts", "history", "kept")}
    folder.write_arrays(BEST, weights, epoch=facts["kept"]["epoch"])
    if state:
        folder.write_arrays(CHECKPOINT, state, **progress)
    folder.write(RECIPE, recipe.to_toml().encode())
    folder.write_json(RUN, {k: v for k, v in facts.items() if k not in _NOT_OF_A_RUN})
    title, kept = facts["title"], facts["kept"]["epoch"]
    folder.draw("curves.png", lambda path: curves.plot(facts["history"], path, title, kept))


def _arrays(returned, kind, listed):
    """The arrays of an archive whose parts came back; none if it was left out."""
    if not listed:
        return []
    files.check(returned, listed, f"the {kind} in {returned}", "bring these files again")
    buffer = io.BytesIO()
    files.join(returned, listed, buffer)
    buffer.seek(0)
    return read_arrays(buffer)[0]


def _joined_reports(returned, folder, recipe, facts):
    """The reports of a run's model that were finished, copied to the run."""
    if not (folder / BEST).is_file() or files.digest(folder / BEST) != facts["attacked"]:
        raise ValueError(
            f"Received the run {folder.path}, whose {BEST} is not what was attacked there; "
            "expected the folder that was packed with --evaluate."
        )
    folder.check(recipe, resume=True)
    if not facts["reports"]:
        raise ValueError(
            f"Received {returned}, in which no evaluation was finished; expected at least one "
            "report: give it more minutes, or fewer images (--set evaluation.0.images=N)."
        )
    files.check(returned, facts["reports"], f"the reports in {returned}", "bring these files again")
    names = [part["file"] for part in facts["reports"]]
    folder.write(RECIPE, recipe.to_toml().encode())  # with the evaluations that were made
    reports = [Report.from_json(returned / name) for name in names]
    for name, report in zip(names, reports, strict=True):
        folder.write(name, report.to_json().encode())
        folder.draw(name.replace(".json", ".png"), report.plot)
    return reports
