import argparse
from pathlib import Path

from keras_pde import data as datasets
from keras_pde.cli._common import add_data, command, length, positive, say
from keras_pde.evaluation import corruption, evaluate
from keras_pde.hub import load_card, load_model
from keras_pde.hub.load import load_keras_file
from keras_pde.hub.repeat import measure_again
from keras_pde.text import columns, percent, progress_bar


def add(commands, debug, help):
    parser = command(
        commands,
        debug,
        "evaluate",
        _evaluate,
        help,
        "Attacks a model on test images. Without options on what is attacked and how, a model "
        "whose card states measurements is measured again in the same way, and the exit code is 1 "
        "if a number leaves the published interval.",
    )
    parser.add_argument(
        "model", help="name of a published model, folder, or .keras file (with --data)"
    )
    add_data(parser, None)
    parser.add_argument("--norm", choices=("l1", "l2", "linf"), help="default: the card's, or linf")
    parser.add_argument(
        "--epsilons",
        type=length,
        nargs="+",
        metavar="E",
        help="radii at which to give the robust accuracy, images in [0, 1]; 8/255 is understood "
        "(default: the card's)",
    )
    parser.add_argument(
        "--success",
        metavar="RULE",
        help='what counts as success of an attack: "any label flips", "error above 0.1" (default: '
        "another class)",
    )
    parser.add_argument("--at", metavar="LAYER", help="perturb the output of this layer")
    parser.add_argument("--output", metavar="HEAD", help="which output, of a model of several")
    parser.add_argument(
        "--noise",
        type=_noise,
        nargs="+",
        metavar="KIND=LEVEL",
        default=[],
        help="accuracy under random noise, too: gaussian=0.1, uniform=0.1, salt_and_pepper=0.05",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="test images (default: 500)")
    parser.add_argument("--seed", type=int, help="of random starts (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="write the report")
    parser.add_argument("--plot", metavar="FILE", help="write the error curve, e.g. curve.png")


def _noise(text):
    kind, equals, level = text.partition("=")
    try:
        if not equals:
            raise ValueError(f"received {text!r} without an amount.")
        return corruption.check([(kind, float(level))], (0.0, 1.0))[0]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} Write gaussian=0.1.") from error


def _evaluate(arguments):
    files = list(filter(None, (arguments.json, arguments.plot)))
    for path in files:
        if Path(path).exists():
            raise ValueError(f"The file {path} exists; pass another name.")
        Path(path).resolve().parent.mkdir(parents=True, exist_ok=True)
    model, card = _load(arguments.model)
    name = arguments.data or (card and card.dataset)
    if name is None:
        raise ValueError("A .keras file does not say what it was trained on; pass --data.")
    if not (arguments.data or name in datasets.NAMES or Path(name).exists()):
        raise ValueError(
            f"The card says that the model was trained on {name!r}, which is no published data "
            "set; expected where it is: pass --data FILE."
        )
    dataset = datasets.load(name, data_dir=arguments.data_dir, download=arguments.download)
    chosen = {name: getattr(arguments, name) for name in ("at", "output", "success", "noise")}
    others = (arguments.norm, arguments.epsilons, arguments.limit, arguments.seed)
    rows = card.measurements if card else ()
    if rows and not files and not any(chosen.values()) and others == (None,) * 4:
        _measure_again(card, model, dataset)
        return
    count = arguments.limit or 500
    norm = arguments.norm or (rows[0].norm if rows else "linf")
    stated = [row.epsilon for row in rows if row.norm == norm]
    title = card.title if card else Path(arguments.model).name
    with progress_bar() as progress:
        report = evaluate(
            model,
            dataset.x_test[:count],
            dataset.y_test[:count],
            norm=norm,
            epsilons=arguments.epsilons or stated,
            name=f"{title}, tested on {dataset.name}",
            seed=arguments.seed or 0,
            progress=progress,
            **chosen,
        )
    say(report.table())
    if arguments.json:
        report.to_json(arguments.json)
    if arguments.plot:
        report.plot(path=arguments.plot)


def _load(path):
    """The model, and its card, which a .keras file has not."""
    if Path(path).suffix == ".keras" or Path(path).is_file():
        return load_keras_file(path), None
    return load_model(path), load_card(path)


def _measure_again(card, model, dataset):
    for row in card.measurements:
        attacks = ", ".join(attack["label"] for attack in row.attacks)
        say(f"{row.threat}: {attacks} on {row.images} images ...")
    with progress_bar() as progress:
        pairs = measure_again(card, model, dataset.x_test, dataset.y_test, progress)
    rows = [("threat", "images", "", "clean", "robust", "95 % interval", "")]
    for published, measured in pairs:
        verdict = "agrees" if published.agrees_with(measured) else "DIFFERS"
        for row, source, result in ((published, "published", ""), (measured, "measured", verdict)):
            low, high = row.robust_interval
            interval = f"{percent(low)} - {percent(high)}"
            threat = (str(row.threat), str(row.images))
            shares = (percent(row.clean_accuracy), percent(row.robust_accuracy))
            rows.append((*threat, source, *shares, interval, result))
    say(f"{card.name or card.title}\n\n" + "\n".join(columns(rows)))
    differing = sum(not published.agrees_with(measured) for published, measured in pairs)
    if differing:
        raise ValueError(
            f"{differing} of {len(pairs)} rows lie outside the published intervals: another model, "
            "or another version of an attack."
        )
