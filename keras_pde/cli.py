"""The command `keras-pde`."""

import argparse
import sys
import time
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import keras

from keras_pde import __version__, quickstart
from keras_pde import data as datasets
from keras_pde.evaluation import evaluate
from keras_pde.hub import load_card, load_model
from keras_pde.quickstart import Settings


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
        print("\nInterrupted. What was finished until then is kept.", file=sys.stderr)
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
    for add in (_add_quickstart, _add_evaluate, _add_show):
        add(commands, debug)
    return parser


def _command(commands, debug, name, run, help, description):
    parser = commands.add_parser(
        name,
        help=help,
        description=description,
        parents=[debug],
    )
    parser.set_defaults(run=run)
    return parser


def _add_data(parser, default):
    parser.add_argument(
        "--data",
        default=default,
        metavar="NAME",
        help=f"data set: {', '.join(datasets.NAMES)}, an .npz file or a TFDS folder",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of TensorFlow Datasets (otherwise TFDS_DATA_DIR, then ~/tensorflow_datasets)",
    )
    parser.add_argument("--download", action="store_true", help="download the set if it is absent")


def _add_quickstart(commands, debug):
    parser = _command(
        commands,
        debug,
        "quickstart",
        _quickstart,
        "train, attack and compare four small models on real images (minutes, no network)",
        "Trains four twins of one small network - J0 (plain), J1 (FGSM), J2 (L2), J2-Lip (tulip) - "
        "attacks them, prints the table of their robustness, and writes reports, error curves "
        "and models.",
    )
    new = Settings()
    _add_data(parser, new.data)
    parser.add_argument("--out", metavar="DIR", help="where to write (default: runs/quickstart)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="use N training images")
    parser.add_argument(
        "--epochs", type=_positive, default=new.epochs, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--images",
        type=_positive,
        default=new.images,
        metavar="N",
        help="test images to attack (default: %(default)s)",
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        default=new.epsilon,
        help="length of the training perturbations, images in [0, 1] (default: %(default)s)",
    )
    parser.add_argument(
        "--weight",
        type=float,
        default=new.weight,
        help="of J2-Lip's penalty (default: %(default)s)",
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="the setting of 2018 instead: epsilon 0.01, penalty as in its code",
    )
    parser.add_argument("--seed", type=int, default=new.seed, help="default: %(default)s")
    parser.add_argument(
        "--smoke", action="store_true", help="seconds instead of minutes: shows that it runs"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --out")


def _quickstart(arguments):
    began = time.perf_counter()
    fields = Settings.__dataclass_fields__
    settings = Settings(**{name: getattr(arguments, name) for name in fields})
    if arguments.smoke:
        settings = quickstart.smoke(settings)
    wanted = Path(arguments.out or "runs/quickstart")
    out = wanted if arguments.overwrite else quickstart.free_folder(wanted)
    if arguments.out and out != wanted:
        raise ValueError(
            f"The folder {wanted} is not empty: pass another --out, or --overwrite to replace it."
        )
    with _progress() as progress:
        reports = quickstart.run(settings, out, say=_say, progress=progress)
    for alarm in quickstart.sanity(reports):
        _say(f"ALARM {alarm}")
    _say(f"\n{quickstart.table(reports)}\n")
    _say(
        "A smoke run: these numbers mean nothing."
        if arguments.smoke
        else quickstart.verdict(reports)
    )
    _say(f"\nWritten to {out}: report.json, error_curve_l2.png, error_curve_linf.png, models/.")
    _say(f"{time.perf_counter() - began:.0f} seconds. Robust numbers are upper bounds.\n")
    _say("Next:")
    _say(f"  keras-pde evaluate {out}/models/J2-Lip --norm linf --epsilons 0.02 0.04")
    _say(f"  python -c \"import keras_pde; keras_pde.load_model('{out}/models/J2').summary()\"")
    _say("  keras-pde quickstart --data cifar10 --data-dir DIR   (the full set; much longer)")


def _add_evaluate(commands, debug):
    parser = _command(
        commands,
        debug,
        "evaluate",
        _evaluate,
        "attack a saved model and print how robust it is",
        "Attacks a model folder (as written by save_model or quickstart) on test images.",
    )
    parser.add_argument("model", help="folder of the model, or a .keras file (with --data)")
    _add_data(parser, None)
    parser.add_argument(
        "--norm", default="linf", choices=("l1", "l2", "linf"), help="default: linf"
    )
    parser.add_argument(
        "--epsilons",
        type=_radius,
        nargs="+",
        default=[],
        metavar="E",
        help="radii at which to give the robust accuracy, images in [0, 1]; 8/255 is understood",
    )
    parser.add_argument(
        "--limit", type=_positive, default=500, metavar="N", help="test images (default: 500)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of random starts (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report")
    parser.add_argument("--plot", metavar="FILE", help="write the error curve, e.g. curve.png")


def _evaluate(arguments):
    model, title, trained_on = _load(arguments.model)
    name = arguments.data or trained_on
    if name is None:
        raise ValueError("A .keras file does not say what it was trained on; pass --data.")
    dataset = datasets.load(name, data_dir=arguments.data_dir, download=arguments.download)
    x, y = dataset.x_test[: arguments.limit], dataset.y_test[: arguments.limit]
    for path in filter(None, (arguments.json, arguments.plot)):
        if Path(path).exists():
            raise ValueError(f"The file {path} exists; pass another name.")
        Path(path).resolve().parent.mkdir(parents=True, exist_ok=True)
    with _progress() as progress:
        report = evaluate(
            model,
            x,
            y,
            norm=arguments.norm,
            epsilons=arguments.epsilons,
            name=f"{title}, tested on {dataset.name}",
            seed=arguments.seed,
            progress=progress,
        )
    _say(report.table())
    if arguments.json:
        report.to_json(arguments.json)
    if arguments.plot:
        report.plot(arguments.plot)


def _load(path):
    """The model, its title, and the data set it was trained on, if that is known."""
    if Path(path).is_file():
        model = keras.saving.load_model(path, compile=False)
        return getattr(model, "model", model), Path(path).name, None
    card = load_card(path)
    return load_model(path), card.title, card.dataset


def _add_show(commands, debug):
    parser = _command(
        commands, debug, "show", _show, "print the card of a saved model", "Prints the card (JSON)."
    )
    parser.add_argument("folder", help="folder of the model")


def _show(arguments):
    _say(load_card(arguments.folder).to_json())


def _radius(text):
    return float(Fraction(text))


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"received {value}; expected at least 1")
    return value


def _say(text):
    print(text, flush=True)


@contextmanager
def _progress():
    """A progress bar on a terminal; nothing where output is a file."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, visible=False)

        def progress(text, finished, total):
            bar.update(
                task, description=text, completed=finished, total=total, visible=finished < total
            )

        yield progress


if __name__ == "__main__":
    sys.exit(main())
