"""What offline.pyz hands over to, on a machine without a network: a training in its minutes."""

import errno
import shutil
import sys
import time
from pathlib import Path

from keras_pde import data, recipes
from keras_pde.files import digest
from keras_pde.offline.parcel import Limits, Parcel, check_out
from keras_pde.recipes import RunFolder
from keras_pde.recipes.finish import attack, kept_model
from keras_pde.recipes.run_folder import BEST, RECIPE, RUN

_RESERVE = 6.0  # seconds for what follows the last epoch: a picture, and the end of the process
_SILENCE = 20.0  # seconds


def main(work, manifest, arguments, began) -> int:
    """Runs what was unpacked; the exit code.

    Args:
        work: folder of what was unpacked.
        manifest: contents of bundles.json.
        arguments: of `offline.pyz run`, as `starter` parses them.
        began: when the process began, on the clock `time.time`: minutes count from then.
    """
    out = Path(arguments.out).resolve()
    deadline = began + 60 * arguments.max_minutes
    try:
        _remember_programs(work / "compiled")
        name = _chosen(arguments.recipe, manifest["recipes"])
        recipe = _recipe(work, name, arguments)
        loaded = _data(work, manifest, recipe)
        facts = {"recipe": recipe.values}
        _say(f"What is to come back is in {out}.")
        if manifest["task"] == "evaluate":
            _evaluate(recipe, RunFolder(work / "runs" / name), loaded, out, facts)
        else:
            minutes = (deadline - _RESERVE - time.time()) / 60
            _train(recipe, work / "runs" / name, loaded, out, facts, arguments, max(0.0, minutes))
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. Finished epochs are in {out}; the same command with --resume goes on.",
            file=sys.stderr,
        )
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        print(f"offline: error: {_explained(error)}", file=sys.stderr)
        return 1
    _say(f"Ended after {(time.time() - began) / 60:.2f} of {arguments.max_minutes:g} minutes.")
    return 0


def _recipe(work, name, arguments):
    """What was packed, or, to go on, what is in training, changed by --set."""
    file, trained = work / "recipes" / f"{name}.toml", work / "runs" / name / RECIPE
    changes = dict(map(recipes.parse_change, arguments.set))
    recipe = recipes.load(trained if arguments.resume and trained.exists() else file)
    changed = recipe.replaced(changes) if changes else recipe
    if changed.data.name != recipe.data.name:
        raise ValueError(
            f"Received --set data.name={changed.data.name}; expected {recipe.data.name!r}, what is "
            "in the bundles."
        )
    return changed


def _train(recipe, folder, loaded, out, facts, arguments, minutes):
    limits = Limits(arguments.return_mb, arguments.return_files, arguments.return_total)
    parcel = Parcel(out, limits, facts)
    run = recipes.train(
        recipe,
        folder,
        resume=arguments.resume,
        max_minutes=minutes,
        blocks=arguments.blocks,
        evaluate=False,
        dataset=loaded,
        callbacks=[parcel],
        say=_say,
    )
    shutil.copyfile(run / "curves.png", out / "curves.png")
    _say(parcel.described())


def _chosen(name, packed):
    name = packed[0] if name is None and len(packed) == 1 else name
    if name not in packed:
        raise ValueError(
            f"Received the recipe {name!r}; expected one of those that were packed: --recipe "
            f"{'|'.join(packed)}."
        )
    return name


def _say(text):
    print(text, flush=True)


def _remember_programs(folder):
    """What was compiled serves the next start on this machine."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    _say("Computes on " + ", ".join(f"{d.device_kind} ({d.platform})" for d in jax.devices()))


def _data(work, manifest, recipe):
    file = work / f"{manifest['data']}.npz"
    if not file.exists():
        data.unpack(work / "data", file)
    return data.load(file, recipe.data.limit or None)


def _evaluate(recipe, folder, loaded, out, facts):
    """Attacks the kept model of a run; each report counts as soon as it is made."""
    folder.check(recipe, resume=True)
    check_out(out, recipe.values)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("report_*"):
        old.unlink()
    returned = RunFolder(out)
    attacked = {"attacked": digest(folder / BEST), "parts": {}, "reports": []}
    facts = {**folder.read_json(RUN), **facts, **attacked}

    def finished(name):
        size = (out / name).stat().st_size
        facts["reports"].append({"file": name, "bytes": size, "sha256": digest(out / name)})
        returned.write_json(RUN, facts)

    returned.write_json(RUN, facts)
    images = recipe.evaluation[0].images or len(loaded.x_test)
    _say(f"Attacks the model of epoch {facts['kept']['epoch']} on {images} test images.")
    model = kept_model(recipe, folder, loaded)
    attack(recipe, returned, loaded, model, _say, _Progress(), finished)
    _say("keras-pde offline collect, into the run that was packed, states it on its card.")


class _Progress:
    """Says now and then how far attacks are."""

    def __init__(self):
        self._last = time.monotonic()

    def __call__(self, text, finished, total):
        if time.monotonic() > self._last + _SILENCE:
            self._last = time.monotonic()
            _say(f"{text}: {finished} of {total}")


def _explained(error):
    """One line; of memory that does not suffice, what to lower."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "ut of memory" in text:
        return (
            "The memory does not suffice. Lower it with --set training.batch_size=N (half of what "
            "it is), the model's width, or data.limit; what was written down stands. "
            f"({text[:200]})"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"The disk is full ({text}). Make room, then go on with --resume."
    if isinstance(error, ModuleNotFoundError):
        return f"This machine lacks the package {error.name}: pack again with --bring {error.name}."
    return text
