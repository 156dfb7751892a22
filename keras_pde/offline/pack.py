import json
import math
import shutil
import tarfile
import tempfile
import zipapp
from collections.abc import Callable, Sequence
from pathlib import Path

import keras_pde
from keras_pde import data as datasets
from keras_pde import environment
from keras_pde.files import Parts
from keras_pde.offline.machine import Machine, fetch
from keras_pde.offline.starter import FORMAT
from keras_pde.recipes import Recipe, RunFolder, build
from keras_pde.recipes.run_folder import BEST, CHECKPOINT, RECIPE, RUN

STEM, MANIFEST, STARTER = "bundle", "bundles.json", "offline.pyz"
_BESIDE = 200_000  # bytes, more than what travels beside the bundles
_PACKAGE = Path(keras_pde.__file__).parent


def pack(
    recipes: Recipe | dict[str, Recipe],
    out: str | Path,
    *,
    have: str | Path | None = None,
    python: str | None = None,
    bring: Sequence[str] = (),
    max_mb: float = 60,
    resume: str | Path | None = None,
    evaluate: bool = False,
    data_dir: str | Path | None = None,
    download: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> dict:
    """Writes all that a machine without a network needs to train recipes.

    The folder then holds

        offline.pyz     unpacks and trains there: python3 offline.pyz run --max-minutes 8 --out OUT
        bundles.json    sizes and SHA-256 of the bundles, and what is in them
        bundle.001, ... one tar file, cut: the package, the wheels that the machine lacks, the
                        recipes, the data, and a run that goes on

    Args:
        recipes: a `Recipe`, or name -> `Recipe` for several on the same data.
        out: folder to write to; new or empty.
        have: file with what the machine has, see `Machine.read`; `None` for Python alone.
        python: its Python version, such as "3.12", if the file does not say so.
        bring: further requirements to bring, or to bring although the machine has them.
        max_mb: every bundle has fewer megabytes (10^6 bytes) than this, with the files beside it.
        resume: folder of a run that goes on there, as `collect` or `recipes.train` left it; of a
            single recipe.
        evaluate: bring the test images instead, to attack the trained model of `resume`.
        data_dir, download: as in `keras_pde.data.load`.
        overwrite: replace bundles that are in the folder.
        say: function of a line of text.

    Returns:
        The contents of bundles.json.

    Raises:
        ValueError: an argument or the recipe is not fit for it, or a wheel cannot be had.
        FileExistsError: the folder holds something.
        FileNotFoundError: the data or the run are absent.

    Example:

    >>> from keras_pde import offline, recipes
    >>> recipe = recipes.load("zoo/recipes/cifar10-linf.toml")
    >>> offline.pack(recipe, "to_carry", have="probe.json", max_mb=60)
    """
    if not 0.5 <= max_mb < math.inf:
        raise ValueError(f"Received max_mb={max_mb!r}; expected megabytes, at least 0.5.")
    if isinstance(recipes, Recipe):
        recipes = {"recipe": recipes}
    _check(recipes, resume, evaluate)
    machine = Machine.read(have, python)
    out = Path(out)
    there = [p for p in out.glob("*") if not _is_ours(p)] or (not overwrite and [*out.glob("*")])
    if there:
        raise FileExistsError(
            f"Received the folder {out}, which holds {there[0].name}; expected a new one, or "
            "overwrite=True (--overwrite) to replace bundles."
        )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=out) as scratch:
        staging = Path(scratch) / "content"
        staging.mkdir()
        done = _add_run(staging, *recipes, RunFolder(resume), evaluate) if resume else 0
        _add_code(staging)
        _add_recipes(staging, recipes)
        (staging / "wheels").mkdir()
        needed = fetch(machine, staging / "wheels", bring, say)
        (data,) = {recipe.found(recipe.data.name) for recipe in recipes.values()}
        say(f"Packing {data} ...")
        packed = datasets.pack(
            data,
            staging / "data",
            max_mb=2**20,
            data_dir=data_dir,
            download=download,
            splits=("test",) if evaluate else ("train",),
        )
        parts = _cut(staging, Parts(Path(scratch), STEM, math.ceil(max_mb * 10**6) - _BESIDE, say))
        manifest = {
            "format": FORMAT,
            "recipes": list(recipes),
            "keras_pde": environment.version("keras_pde"),
            "commit": environment.commit(),
            "python": machine.python,
            "needed": needed,
            "wheels": sorted(path.name for path in (staging / "wheels").iterdir()),
            "data": packed["name"],
            "task": "evaluate" if evaluate else "train",
            "finished_epochs": done,
            "bundles": parts,
        }
        (Path(scratch) / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        _write_starter(Path(scratch))
        for old in filter(_is_ours, [*out.glob("*")]):
            old.unlink()
        for name in (STARTER, *(part["file"] for part in parts), MANIFEST):
            (Path(scratch) / name).rename(out / name)
    return manifest


def _is_ours(path):
    return path.name in (STARTER, MANIFEST) or path.match(f"{STEM}.[0-9][0-9][0-9]")


def _check(recipes, resume, evaluate):
    for recipe in recipes.values():
        if recipe.training.backend not in ("", "jax"):
            raise ValueError(
                f"Received a recipe for the backend {recipe.training.backend!r}; offline trainings "
                "run on JAX: leave training.backend out."
            )
        if "from" in recipe.model.arguments:
            raise ValueError(
                "Received a recipe that starts from another model, which is not carried along; "
                "expected [model] with a name."
            )
        build.check(recipe.replaced({"training.backend": ""}))
    data = {recipe.data.name for recipe in recipes.values()}
    if len(data) != 1:
        raise ValueError(f"Received recipes on {sorted(data)}; expected one data set in a pack.")
    if resume is not None and len(recipes) != 1:
        raise ValueError(
            f"Received {len(recipes)} recipes with a run to go on with; expected its recipe alone."
        )
    if evaluate and (resume is None or not all(r.evaluation for r in recipes.values())):
        raise ValueError(
            "Received evaluate=True (--evaluate) without a run to attack (--resume RUN) or without "
            "[[evaluation]] in the recipe; expected both."
        )
    if resume is not None:
        _check_run(RunFolder(resume), *recipes.values(), evaluate)


def _check_run(run, recipe, evaluate):
    """Refuses a run without what another block needs."""
    run.check(recipe, resume=True)
    missing = [name for name in _needed(evaluate) if not (run / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"Received the run {run.path} without {missing}; expected one with all that the next "
            "block depends on."
        )


def _needed(evaluate):
    return [RECIPE, RUN, BEST] + [CHECKPOINT] * (not evaluate)


def _add_run(staging, name, run, evaluate):
    """Copies the files of a run; how many epochs it has finished."""
    target = staging / "runs" / name
    target.mkdir(parents=True)
    for file in _needed(evaluate):
        shutil.copyfile(run / file, target / file)
    return len(run.read_json(RUN)["history"])


def _add_code(staging):
    """This package, which remembers the commit that it is of."""
    target = staging / "code" / "keras_pde"
    shutil.copytree(_PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / environment.COMMIT).write_text(environment.commit() + "\n", encoding="utf-8")


def _add_recipes(staging, recipes):
    (staging / "recipes").mkdir()
    for name, recipe in recipes.items():
        (staging / "recipes" / f"{name}.toml").write_text(recipe.to_toml(), encoding="utf-8")


def _cut(staging, parts):
    """One archive of all that is staged, in parts; what each of them is."""
    with parts, tarfile.open(fileobj=parts, mode="w|") as archive:
        for path in sorted(staging.rglob("*")):
            archive.add(path, path.relative_to(staging), recursive=False, filter=_anonymous)
    return parts.written


def _write_starter(scratch):
    """A program of the standard library: what unpacks the rest there."""
    source = scratch / "starter"
    source.mkdir()
    shutil.copyfile(_PACKAGE / "offline" / "starter.py", source / "__main__.py")
    shutil.copyfile(_PACKAGE / "files.py", source / "files.py")
    zipapp.create_archive(source, scratch / STARTER)


def _anonymous(entry):
    """The same bytes whoever packs, and whenever."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry
