from pathlib import Path

import keras

from keras_pde import data as datasets
from keras_pde.cli._common import add_data, command, positive, progress_bar, radius, say
from keras_pde.evaluation import evaluate
from keras_pde.hub import load_card, load_model


def add(commands, debug):
    parser = command(
        commands,
        debug,
        "evaluate",
        _evaluate,
        "attack a saved model and print how robust it is",
        "Attacks a model folder (as written by save_model or quickstart) on test images.",
    )
    parser.add_argument("model", help="folder of the model, or a .keras file (with --data)")
    add_data(parser, None)
    parser.add_argument(
        "--norm", default="linf", choices=("l1", "l2", "linf"), help="default: linf"
    )
    parser.add_argument(
        "--epsilons",
        type=radius,
        nargs="+",
        default=[],
        metavar="E",
        help="radii at which to give the robust accuracy, images in [0, 1]; 8/255 is understood",
    )
    parser.add_argument(
        "--limit", type=positive, default=500, metavar="N", help="test images (default: 500)"
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
    with progress_bar() as progress:
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
    say(report.table())
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
