import shlex
import time
from pathlib import Path

from keras_pde import quickstart
from keras_pde.cli._common import add_data, command, positive, say, shown
from keras_pde.text import progress_bar


def add(commands, debug, help):
    parser = command(
        commands,
        debug,
        "quickstart",
        _quickstart,
        help,
        "Trains four twins of one small network - J0 (plain), J1 (FGSM), J2 (L2), J2-Lip (tulip) - "
        "attacks them, prints the table of their robustness, and writes reports, error curves "
        "and models.",
        kept="Models that were finished are kept.",
    )
    new = quickstart.twins({})["J2-Lip"]
    objective = new.objective[0].arguments
    add_data(parser, new.data.name)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where to write (default: runs/quickstart, or runs/quickstart-smoke)",
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="use N training images, held-out ones included"
    )
    parser.add_argument(
        "--epochs", type=positive, metavar="N", help=f"default: {new.training.epochs}"
    )
    parser.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help=f"test images to attack (default: {new.evaluation[0].images})",
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        default=objective["epsilon"],
        help="length of the training perturbations, images in [0, 1] (default: %(default)s)",
    )
    parser.add_argument(
        "--weight",
        type=float,
        default=objective["weight"],
        help="of J2-Lip's penalty (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, help=f"default: {new.training.seed}")
    parser.add_argument(
        "--smoke", action="store_true", help="seconds instead of minutes: shows that it runs"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --out")


def _quickstart(arguments):
    began = time.perf_counter()
    given = {
        "data.name": arguments.data,
        "data.limit": arguments.limit,
        "training.epochs": arguments.epochs,
        "training.seed": arguments.seed,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    images = arguments.images
    if arguments.smoke:
        changes, images = {**quickstart.SMOKE, **changes}, images or 20
    recipes = quickstart.twins(changes, images, epsilon=arguments.epsilon, weight=arguments.weight)
    default = "runs/quickstart-smoke" if arguments.smoke else "runs/quickstart"
    wanted = Path(arguments.out or default)
    out = wanted if arguments.overwrite else quickstart.free_folder(wanted)
    if arguments.out and out != wanted:
        raise ValueError(
            f"The folder {wanted} is not empty: pass another --out, or --overwrite to replace it."
        )
    with progress_bar() as progress:
        reports = quickstart.run(
            recipes,
            out,
            arguments.data_dir,
            arguments.download,
            arguments.overwrite,
            say=say,
            progress=progress,
        )
    for alarm in quickstart.sanity(reports):
        say(f"ALARM {alarm}")
    say(f"\n{quickstart.table(reports)}\n")
    say(
        "A smoke run: these numbers mean nothing."
        if arguments.smoke
        else quickstart.verdict(reports)
    )
    say(f"\nWritten to {out}: a run for each, error_curve_l2.png, error_curve_linf.png.")
    say(f"{time.perf_counter() - began:.0f} seconds. Robust numbers are upper bounds.\n")
    say("Next:")
    out = Path(out).absolute()
    say(f"  keras-pde evaluate {shown(out / 'J2-Lip/model')} --norm linf --epsilons 0.02 0.04")
    code = f"import keras_pde; keras_pde.load_model({str(out / 'J2/model')!r}).summary()"
    say(f"  python -c {shlex.quote(code)}")
    say("  keras-pde quickstart --data cifar10 --data-dir DIR   (the full set; much longer)")
