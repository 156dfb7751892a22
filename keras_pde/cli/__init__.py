"""The command `keras-pde`: one file a command, `main` runs the one that is asked for.

Help is there before Keras is: a command's own file is imported when it is asked for.
"""

import argparse
import contextlib
import importlib
import os
import sys

import keras_pde
from keras_pde import __version__

COMMANDS = {
    "quickstart": "train, attack and compare four small models on real images (minutes, "
    "no network)",
    "list": "list the pretrained models",
    "show": "print the card of a pretrained or saved model",
    "evaluate": "attack a pretrained or saved model and print how robust it is",
    "train": "train, evaluate and save the model of a recipe",
    "tune": "search the values of a recipe for the most robust model",
    "offline": "train on a machine that has a GPU for minutes, and no network",
    "publish": "publish the model of a finished run",
    "unpublish": "take a published model back",
    "check": "load all published models, and compare them with their cards",
    "prefetch": "download pretrained models, to load them without a network",
    "data": "which data sets are here; carry them to other machines in small files",
}


def main(argv=None) -> int:
    """Runs a command; 0 if it went well, 1 after an error, 2 for wrong usage, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a title may have letters that a terminal has not
            stream.reconfigure(errors="backslashreplace")
    parser = _parser(argv[0] if argv else None)
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 2
    try:
        _import(arguments.imports)
        arguments.run(arguments)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {arguments.kept}", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"keras-pde: error: {message}\n(--debug shows where)", file=sys.stderr)
        return 1
    return 0


def _import(modules):
    """Modules of the user's own, from the folder where the command runs or installed."""
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.split(".")[0]):
                raise
            raise ValueError(
                f"Received --import {name}, which is no module in {os.getcwd()} and none that is "
                "installed; expected the name of a file without .py, or of a package."
            ) from error


def _parser(wanted=None):
    """The parser of all commands, of which the wanted one has its arguments."""
    parser = argparse.ArgumentParser(
        prog="keras-pde",
        description="Stable and robust networks for Keras 3.",
        epilog="Start with: keras-pde quickstart",
    )
    parser.add_argument("--version", action="version", version=f"keras_pde {__version__}")
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show the traceback of an error")
    debug.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="import this Python module first, from here or installed, which registers layers, "
        "models, data terms or optimizers of your own",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, help in COMMANDS.items():
        if name == wanted:
            with _without_noise():
                keras_pde.evaluate  # noqa: B018 (the first of the names that were left out)
                module = importlib.import_module(f"keras_pde.cli.{name}")
            module.add(commands, debug, help)
        else:
            commands.add_parser(name, help=help)
    return parser


@contextlib.contextmanager
def _without_noise():
    """Within it nothing goes to standard error, to which TensorFlow tells what it is doing."""
    wanted = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" in sys.modules or wanted in ("0", "1"):
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
