from pathlib import Path

from keras_pde import data as datasets
from keras_pde import recipes
from keras_pde.cli._common import add_data_folder, add_devices, command, positive, say, shown
from keras_pde.text import progress_bar


def add(commands, debug, help):
    parser = command(
        commands,
        debug,
        "train",
        _train,
        help,
        "Runs a recipe (a TOML file such as those in zoo/recipes). Every finished epoch is kept: "
        "--resume goes on after a stop, and ends with the same weights.",
        kept="Finished epochs are kept; the same command with --resume goes on.",
    )
    parser.add_argument("recipe", help="TOML file")
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--max-minutes",
        type=float,
        metavar="M",
        help="stop before the epoch that would end later than that",
    )
    add_changes(parser)
    add_devices(parser)
    parser.add_argument("--no-evaluation", action="store_true", help="train only")
    add_data_folder(parser)


def add_changes(parser):
    """What `changed` reads."""
    parser.add_argument("--epochs", type=positive, metavar="N", help="instead of the recipe's")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="use N training images, held-out ones included"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value in the recipe, e.g. --set objective.epsilon=0.2",
    )


def _train(arguments):
    recipe = changed(arguments.recipe, arguments)
    out = Path(arguments.out or Path("runs") / Path(arguments.recipe).stem)
    with progress_bar() as progress:
        folder = recipes.train(
            recipe,
            out,
            resume=arguments.resume,
            max_minutes=arguments.max_minutes,
            evaluate=not arguments.no_evaluation,
            devices=arguments.devices,
            data_dir=arguments.data_dir,
            download=arguments.download,
            say=say,
            progress=progress,
        )
    state = folder.state()
    if state == "trained":
        say("\nNot evaluated, and no model saved: the same with --resume, without --no-evaluation.")
    if state == "finished":
        model = shown(out / "model")
        own = "".join(f" --import {name}" for name in arguments.imports)
        publish = f"\n  keras-pde publish {shown(out)}{own}"
        publish *= bool(recipe.name and recipe.evaluation)
        foreign = recipe.data.name not in datasets.NAMES
        data = f" --data {shown(recipe.found(recipe.data.name))}" * foreign
        say(f"\nNext:\n  keras-pde show {model}\n  keras-pde evaluate {model}{data}{own}{publish}")


def changed(path, arguments):
    """The recipe with the values that the command line gives instead."""
    recipe = recipes.load(path)
    changes = {
        "training.epochs": arguments.epochs,
        "data.limit": arguments.limit,
        "training.seed": arguments.seed,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    changes |= map(recipes.parse_change, arguments.set)
    return recipe.replaced(changes) if changes else recipe
