"""What the commands share: arguments, output, progress."""

import argparse
import shlex
from pathlib import Path

from keras_pde import data as datasets
from keras_pde.threat import radius


def command(commands, debug, name, run, help, description, kept="Nothing was written."):
    """The parser of a command; `kept` says what is left of it after Ctrl-C."""
    parser = commands.add_parser(
        name,
        help=help,
        description=description,
        parents=[debug],
    )
    parser.set_defaults(run=run, kept=kept)
    return parser


def add_data(parser, default):
    parser.add_argument(
        "--data",
        default=default,
        metavar="NAME",
        help=f"data set: {', '.join(datasets.NAMES)}, an .npz or .csv file, or a folder",
    )
    add_data_folder(parser)


def add_data_folder(parser):
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of TensorFlow Datasets (otherwise TFDS_DATA_DIR, then ~/tensorflow_datasets)",
    )
    parser.add_argument("--download", action="store_true", help="download the set if it is absent")


def add_devices(parser):
    parser.add_argument(
        "--devices",
        type=_devices,
        metavar="auto|N",
        help="share each batch between N devices (GPUs, else parts of the CPU), or all GPUs",
    )


def _devices(text):
    if text == "auto" or (text.isdigit() and int(text) >= 1):
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"received {text}; expected auto or a number of devices")


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"received {value}; expected at least 1")
    return value


def length(text):
    try:
        return radius(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def share(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"received {text}; expected a share in [0, 1]")
    return value


def shown(path):
    """A path as a command takes it, from anywhere."""
    return shlex.quote(str(Path(path).absolute()))


def say(text):
    print(text, flush=True)
