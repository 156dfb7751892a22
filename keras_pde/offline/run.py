"""What offline.pyz hands over to, on a machine without a network: a training within its minutes."""

import argparse
import os
import shutil
import sys
import threading
import time
from pathlib import Path

from keras_pde import data, recipes
from keras_pde.offline.parcel import Limits, Parcel
from keras_pde.recipes import RunFolder
from keras_pde.recipes.finish import attack, kept_model, report_stem
from keras_pde.recipes.run_folder import BEST, RUN, digest

_RESERVE = 6.0  # seconds for what follows the last epoch: a picture, and the end of the process
CUT = 3  # exit code of a process that its own clock ended


def main(work, manifest, argv, began) -> int:
    """Runs what was unpacked; the exit code.

    Args:
        work: folder of what was unpacked.
        manifest: contents of bundles.json.
        argv: arguments of the command line.
        began: when the process began, on the clock `time.time`: minutes count from then.
    """
    arguments = _parser().parse_args(argv)
    out = Path(arguments.out).resolve()
    deadline = began + 60 * arguments.max_minutes
    clock = threading.Timer(deadline - time.time(), _cut, [arguments.max_minutes, out])
    clock.daemon = True
    clock.start()
    try:
        _remember_programs(work / "compiled")
        changes = dict(_change(text) for text in arguments.set)
        name = _chosen(arguments.recipe, manifest["recipes"])
        recipe = recipes.load(work / "recipes" / f"{name}.toml").replaced(changes)
        loaded = _data(work, manifest, recipe)
        facts = {"recipe": recipe.values}
        if manifest["task"] == "evaluate":
            _evaluate(recipe, RunFolder(work / "runs" / name), loaded, out, facts)
        else:
            limits = Limits(arguments.return_mb, arguments.return_files, arguments.return_total)
            parcel = Parcel(out, limits, facts)
            minutes = (deadline - _RESERVE - time.time()) / 60
            run = recipes.train(
                recipe,
                work / "runs" / name,
                resume=arguments.resume,
                max_minutes=max(0.0, minutes),
                blocks=arguments.blocks,
                evaluate=False,
                dataset=loaded,
                callbacks=[parcel],
                say=_say,
            )
            shutil.copyfile(run / "curves.png", out / "curves.png")
            _say(f"{parcel.described()} They are in {out}, for keras-pde offline collect.")
    except KeyboardInterrupt:
        print("\nInterrupted. What was written down stands.", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        print(f"offline: error: {_explained(error)}", file=sys.stderr)
        return 1
    finally:
        clock.cancel()
    _say(f"Ended after {(time.time() - began) / 60:.2f} of {arguments.max_minutes:g} minutes.")
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="offline.pyz run")
    parser.add_argument("--out", required=True, metavar="DIR", help="for what is to come back")
    parser.add_argument(
        "--max-minutes",
        type=float,
        required=True,
        metavar="M",
        help="end within so many minutes, all counted from the start of this command",
    )
    parser.add_argument("--recipe", metavar="NAME", help="which one, if several were packed")
    parser.add_argument(
        "--blocks",
        type=int,
        default=1,
        metavar="N",
        help="how many such blocks the training has from now on, this one included (default: 1)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run that is here, or in the bundles"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe"
    )
    parser.add_argument(
        "--return-mb", type=float, default=16, metavar="MB", help="largest file in --out"
    )
    parser.add_argument("--return-files", type=int, default=8, metavar="N", help="files in --out")
    parser.add_argument(
        "--return-total", type=float, default=64, metavar="MB", help="all files in --out together"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _change(text):
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"Received --set {text}; expected --set KEY=VALUE.")
    return key, recipes.parse_value(value)


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
    """Attacks the kept model of a run; each report stands as soon as it is made."""
    out.mkdir(parents=True, exist_ok=True)
    reports = RunFolder(out)
    weights = digest(folder / BEST)
    made = folder.read_json(RUN)
    reports.write_json(RUN, {**made, **facts, "attacked": weights, "parts": {}})
    attack(recipe, reports, loaded, kept_model(recipe, folder, loaded), _say, None)
    names = [report_stem(recipe, index) for index in range(len(recipe.evaluation))]
    _say(f"{', '.join(names)}: in {out}, for keras-pde offline collect --out RUN.")


def _explained(error):
    """One line; of memory that does not suffice, what to lower."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "ut of memory" in text:
        return (
            "The memory does not suffice. Lower it with --set training.batch_size=N (half of what "
            "it is), the model's width, or data.limit; what was written down stands. "
            f"({text[:200]})"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"This machine lacks the package {error.name}: pack again with --bring {error.name}."
    return text


def _cut(minutes, out):
    """Ends the process at once: it must not outlast its minutes, whatever it waits for."""
    print(
        f"offline: error: The {minutes:g} minutes are over. What was written down of finished "
        f"epochs is in {out}; --resume goes on.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(CUT)
