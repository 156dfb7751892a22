"""Becomes `__main__` of offline.pyz: checks and unpacks bundles, then hands over to their content.

Standard library only.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from pathlib import Path

try:
    import files  # lies beside this file there
except ImportError:
    from keras_pde import files

FORMAT = 1
CUT = 3  # exit code of a process that its own clock ended


def main():
    began = time.time()
    arguments = _parser().parse_args()
    folder = Path(arguments.bundles or Path(sys.argv[0]).resolve().parent)
    try:
        manifest = _manifest(folder)
        if arguments.action == "check":
            _check(folder, manifest)
            print(f"All bundles are here ({len(manifest['bundles'])}), and sound.")
            return 0
        _start_clock(arguments.max_minutes, arguments.out)
        work = Path(arguments.work or folder / "work").resolve()
        _check_python(manifest)
        _unpack(folder, manifest, work)
        sys.path[:0] = [str(work / "code"), str(work / "site")]
        _check_packages(manifest)
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        print(f"offline: error: {error}", file=sys.stderr)
        return 1
    os.environ["KERAS_BACKEND"] = "jax"
    try:
        from keras_pde.offline.run import main as run
    except ImportError as error:
        print(
            f"offline: error: A package of this machine does not do ({error}): pack again with "
            "--bring and its name, or with --have and the probe's output from here.",
            file=sys.stderr,
        )
        return 1
    return run(work, manifest, arguments, began)


def _start_clock(minutes, out):
    """Ends the process when the minutes are over, whatever it waits for."""

    def cut():
        try:
            os.set_blocking(2, False)  # nobody may read it
            text = f"offline: error: The {minutes:g} minutes are over. "
            left = ("**/checkpoint.npz", "**/report_*.json")
            if any(path for pattern in left for path in Path(out).glob(pattern)):
                text += f"What was written down of finished epochs is in {out}; --resume goes on.\n"
            else:
                text += "Nothing was finished: allow more of them, since compiling takes some.\n"
            os.write(2, text.encode())
        finally:
            os._exit(CUT)

    clock = threading.Timer(60 * minutes, cut)
    clock.daemon = True
    clock.start()


def _parser():
    parser = argparse.ArgumentParser(
        prog="offline.pyz",
        description="Trains, or attacks, what was packed. The bundles lie beside this file.",
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--bundles", metavar="DIR", help="folder of the bundles, if it is another")
    actions = parser.add_subparsers(dest="action", metavar="check|run", required=True)
    text = "say which bundles have come, and whether they are sound"
    actions.add_parser("check", parents=[shared], help=text, description=text)
    text = "unpack, and train or attack within the minutes"
    run = actions.add_parser("run", parents=[shared], help=text, description=text)
    run.add_argument(
        "--work",
        metavar="DIR",
        help="where to unpack and train (default: work, beside them)",
    )
    run.add_argument(
        "--out", required=True, metavar="DIR", help="for the files that are to come back"
    )
    run.add_argument(
        "--max-minutes",
        type=_minutes,
        required=True,
        metavar="M",
        help="end within so many minutes, all counted from the start of this command",
    )
    run.add_argument(
        "--blocks",
        type=int,
        default=1,
        metavar="N",
        help="plan the training for so many times --max-minutes, this one included (default: 1)",
    )
    run.add_argument("--recipe", metavar="NAME", help="which one, if several were packed")
    run.add_argument(
        "--resume", action="store_true", help="go on with the run that is here, or in the bundles"
    )
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe"
    )
    for name, value, what in (
        ("mb", 16, "largest file in --out, in 10^6 bytes"),
        ("files", 8, "number of files in --out"),
        ("total", 64, "all files in --out together, in 10^6 bytes"),
    ):
        kind = int if name == "files" else float
        text = f"{what} (default: {value})"
        run.add_argument(f"--return-{name}", type=kind, default=value, metavar="N", help=text)
    run.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _minutes(text):
    value = float(text)
    if not 0 < value < 10**5:
        raise argparse.ArgumentTypeError(f"received {text}; expected a positive number")
    return value


def _manifest(folder):
    path = folder / "bundles.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"Received the folder {folder} without bundles.json; expected what `keras-pde offline "
            "pack` wrote. Copy that file too."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sound = manifest["format"] == FORMAT and files.are_sound(manifest["bundles"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"Received {path}, which is damaged ({error!r}); copy it again.") from None
    if not sound:
        raise ValueError(f"Received {path}, which is damaged or of another version; pack again.")
    return manifest


def _check(folder, manifest):
    files.check(folder, manifest["bundles"], f"the bundles in {folder}", "copy these again")


def _check_python(manifest):
    here = "{}.{}".format(*sys.version_info[:2])
    binary = [name for name in manifest["wheels"] if not name.endswith("-none-any.whl")]
    if here != manifest["python"] and binary:
        raise ValueError(
            f"Received bundles for Python {manifest['python']}, with {binary[0]}; this is {here}: "
            f"pack again with --python {here}, or start this with the other one."
        )


def _unpack(folder, manifest, work):
    """Unpacks once: into a folder that appears complete or not at all."""
    digest = json.dumps(manifest["bundles"])
    stamp = work / "unpacked.json"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
        return
    if work.exists() and any(work.iterdir()):
        raise ValueError(
            f"Received the folder {work}, which holds something else, such as a run of other "
            "bundles; pass another with --work, or delete it."
        )
    _check(folder, manifest)
    prefix = f".{work.name}.unpacking-"
    work.parent.mkdir(parents=True, exist_ok=True)
    for leftover in work.parent.glob(f"{prefix}*"):  # of a process that was ended
        shutil.rmtree(leftover, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=work.parent))
    try:
        joined = staging / "joined.tar"
        with joined.open("wb") as file:
            files.join(folder, manifest["bundles"], file)
        with tarfile.open(joined) as archive:
            archive.extractall(staging, filter="data")
        joined.unlink()
        for wheel in sorted((staging / "wheels").glob("*.whl")):
            _install(wheel, staging / "site")
        (staging / "unpacked.json").write_text(digest, encoding="utf-8")
        if work.exists():
            work.rmdir()
        staging.rename(work)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _install(wheel, site):
    """A wheel is an archive of site-packages; its NAME.data has what belongs elsewhere."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for extra in site.glob("*.data"):
        for kind in ("purelib", "platlib"):
            if (extra / kind).is_dir():
                shutil.copytree(extra / kind, site, dirs_exist_ok=True)
        shutil.rmtree(extra)


def _check_packages(manifest):
    missing = []
    for name in manifest["needed"]:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise ValueError(
            f"Received bundles without {', '.join(missing)}, which this machine lacks: pack again "
            f"with --have and the probe's output from here, or with --bring {' '.join(missing)}."
        )


if __name__ == "__main__":
    sys.exit(main())
