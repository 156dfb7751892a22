import time
from pathlib import Path

from keras_pde import quickstart
from keras_pde.cli._common import add_data, command, positive, say
from keras_pde.quickstart import Settings
from keras_pde.text import progress_bar


def add(commands, debug):
    parser = command(
        commands,
        debug,
        "quickstart",
        _quickstart,
        "train, attack and compare four small models on real images (minutes, no network)",
        "Trains four twins of one small network - J0 (plain), J1 (FGSM), J2 (L2), J2-Lip (tulip) - "
        "attacks them, prints the table of their robustness, and writes reports, error curves "
        "and models.",
        kept="Models that were finished are kept.",
    )
    new = Settings()
    add_data(parser, new.data)
    parser.add_argument("--out", metavar="DIR", help="where to write (default: runs/quickstart)")
    parser.add_argument("--limit", type=positive, metavar="N", help="use N training images")
    parser.add_argument(
        "--epochs", type=positive, default=new.epochs, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--images",
        type=positive,
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
    with progress_bar() as progress:
        reports = quickstart.run(settings, out, say=say, progress=progress)
    for alarm in quickstart.sanity(reports):
        say(f"ALARM {alarm}")
    say(f"\n{quickstart.table(reports)}\n")
    say(
        "A smoke run: these numbers mean nothing."
        if arguments.smoke
        else quickstart.verdict(reports)
    )
    say(f"\nWritten to {out}: report.json, error_curve_l2.png, error_curve_linf.png, models/.")
    say(f"{time.perf_counter() - began:.0f} seconds. Robust numbers are upper bounds.\n")
    say("Next:")
    say(f"  keras-pde evaluate {out}/models/J2-Lip --norm linf --epsilons 0.02 0.04")
    say(f"  python -c \"import keras_pde; keras_pde.load_model('{out}/models/J2').summary()\"")
    say("  keras-pde quickstart --data cifar10 --data-dir DIR   (the full set; much longer)")
