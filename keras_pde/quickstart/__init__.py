"""Four twins of one small network, trained, attacked and compared, on real images.

J0 (plain), J1 (FGSM), J2 (L2) and J2-Lip (tulip, with a tanh head) of Finlay, Oberman and Abbasi
(2018, arXiv 1810.00953), each a recipe beside this file, and the table of that paper for them.
"""

import itertools
from pathlib import Path
from typing import Any

from keras_pde import data as datasets
from keras_pde import recipes
from keras_pde.evaluation import Report
from keras_pde.registry import unknown_name
from keras_pde.text import columns, number, percent

TWINS = ("J0", "J1", "J2", "J2-Lip")
SMOKE = {"data.limit": 200, "training.epochs": 1}
# The objective's length and factor, which not every twin has.
OF_THE_OBJECTIVE = {"epsilon": ("J1", "J2", "J2-Lip"), "weight": ("J2-Lip",)}


def twins(changes: dict[str, Any], images: int | None = None, **objective) -> dict:
    """Name -> `Recipe` of the four.

    Args:
        changes: dotted key -> value, for all of them.
        images: number of test images to attack; None for the recipes' own.
        **objective: `epsilon` and `weight`, for the twins that have them.

    Raises:
        ValueError: a key or a value is none of a recipe.
    """
    for argument in objective:
        if argument not in OF_THE_OBJECTIVE:
            raise unknown_name("setting of the twins", argument, OF_THE_OBJECTIVE)
    found = {}
    for name in TWINS:
        recipe = recipes.load(Path(__file__).parent / f"{name.lower()}.toml")
        own = {f"objective.{k}": v for k, v in objective.items() if name in OF_THE_OBJECTIVE[k]}
        if images is not None:
            own |= {f"evaluation.{i}.images": images for i in range(len(recipe.evaluation))}
        found[name] = recipe.replaced({**changes, **own})
    return found


def free_folder(folder) -> Path:
    """`folder`, or `folder-2`, `folder-3`, ... if there is something in it already."""
    folder = Path(folder)
    numbered = (folder.with_name(f"{folder.name}-{i}") for i in itertools.count(2))
    return next(f for f in itertools.chain([folder], numbered) if not _occupied(f))


def _occupied(folder):
    return folder.is_file() or any(path.is_file() for path in folder.rglob("*"))


def run(
    made: dict, out, data_dir=None, download=False, overwrite=False, say=print, progress=None
) -> dict[str, dict[str, Report]]:
    """Trains and attacks the twins, each into its folder within `out`, beside the error curves.

    An interrupted run keeps what is finished.

    Args:
        made: name -> `Recipe`, as `twins` returns them: on the same data.
        out: folder; created if need be.
        data_dir, download: as in `keras_pde.data.load`.
        overwrite: whether trainings that are there are replaced.
        say: function of a line of text.
        progress: function of (text, finished, total), called during trainings and attacks.

    Returns:
        name -> norm -> `Report`.

    Raises:
        ValueError: the recipes are on several data sets, one of them cannot be trained, or a folder
            holds something else than a training.
    """
    out, reports = Path(out), {}
    sets = {(recipe.data.name, recipe.data.limit) for recipe in made.values()}
    if len(sets) != 1:
        raise ValueError(f"Received recipes on {sorted(sets)}; expected the same data for all.")
    ((name, limit),) = sets
    dataset = datasets.load(name, limit or None, data_dir, download)
    for recipe in made.values():  # before anything is overwritten
        recipes.check(recipe)
    for name in made if overwrite else ():
        recipes.RunFolder(out / name).clear()

    def brief(text):
        if "\n" not in text:  # tables come together, at the end
            say(text)

    for name, recipe in made.items():
        folder = recipes.train(recipe, out / name, dataset=dataset, say=brief, progress=progress)
        found = (Report.from_json(path) for path in sorted(folder.path.glob("report_*.json")))
        reports[name] = {report.norm: report for report in found}
        for norm in reports[name]:
            one, *others = (by_norm[norm] for by_norm in reports.values())
            one.plot(*others, path=out / f"error_curve_{norm}.png")
    return reports


def table(reports: dict[str, dict[str, Report]]) -> str:
    """The table of the paper: one row a model."""
    head, rows = ["model", "clean error"], []
    for name, by_norm in reports.items():
        cells = [name, percent(1 - next(iter(by_norm.values())).clean_accuracy)]
        for norm, report in by_norm.items():
            (epsilon,) = report.epsilons
            cells += [
                number(report.distance_quantile()),
                percent(1 - report.robust_accuracy(epsilon)),
            ]
            if not rows:
                head += [f"median {norm.capitalize()}", f"error at {epsilon:g}"]
        rows.append(tuple(cells))
    return "\n".join(columns([tuple(head), *rows]))


def verdict(reports: dict[str, dict[str, Report]]) -> str:
    """Whether the paper's ordering J0 < J1 < J2 < J2-Lip of median distances came out."""
    medians = {name: by["l2"].distance_quantile() for name, by in reports.items()}
    names = list(medians)
    ordered = all(medians[a] < medians[b] for a, b in itertools.pairwise(names))
    found = ", ".join(f"{name} {number(median)}" for name, median in medians.items())
    first, last = reports[names[0]]["l2"], reports[names[-1]]["l2"]
    compared = last.compare(first)
    return (
        (
            f"The order {' < '.join(names)} of the paper came out"
            if ordered
            else f"The order of the paper did NOT come out in this run ({found})"
        )
        + f"; L2, {names[-1]} / {names[0]}: {compared.summary()}; {first.count} images, one "
        "training each."
    )


def sanity(reports) -> list[str]:
    """The alarms of all reports, with the model's name."""
    return [
        f"{name} ({norm}): {alarm}"
        for name, by_norm in reports.items()
        for norm, report in by_norm.items()
        for alarm in report.alarms
    ]
