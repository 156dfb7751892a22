"""The command `keras-pde`: one file a command, `main` runs the one that is asked for."""

import argparse
import sys

from keras_pde import __version__
from keras_pde.cli import data, evaluate, offline, publish, quickstart, show, train, tune
from keras_pde.cli import list as list_models

COMMANDS = (quickstart, list_models, show, evaluate, train, tune, offline, publish, data)


def main(argv=None) -> int:
    """Runs a command; 0 if it went well, 1 after an error, 2 for wrong usage, 130 after Ctrl-C."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 2
    try:
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


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-pde",
        description="Stable and robust networks for Keras 3.",
        epilog="Start with: keras-pde quickstart",
    )
    parser.add_argument("--version", action="version", version=f"keras_pde {__version__}")
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands, debug)
    return parser
