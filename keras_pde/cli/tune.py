import contextlib
import logging
import sys
from pathlib import Path

from keras_pde.cli._common import add_data_folder, add_devices, command, positive, say, share, shown
from keras_pde.cli.train import changed
from keras_pde.text import percent

# keras_pde.tuner, and Keras Tuner with it, is imported only when a search begins.


def add(commands, debug, help):
    parser = command(
        commands,
        debug,
        "tune",
        _tune,
        help,
        "Trains a recipe with different values of the keys that its table [search] names, and "
        "writes the best recipe, all trials and a picture of clean against robust accuracy. "
        "Validation images choose; test images take no part.",
        kept="Finished trials are kept; the same command with --resume goes on.",
    )
    parser.add_argument("recipe", help="TOML file with [search]")
    parser.add_argument("--trials", type=positive, required=True, metavar="N", help="at most")
    parser.add_argument("--out", metavar="DIR", help="folder (default: runs/NAME-search)")
    parser.add_argument(
        "--tuner",
        default="random",
        choices=("random", "hyperband", "bayesian"),
        help="default: random",
    )
    parser.add_argument(
        "--objective",
        default="val_robust_accuracy",
        choices=("val_robust_accuracy", "val_accuracy", "val_loss"),
        help="what is best (default: val_robust_accuracy)",
    )
    parser.add_argument(
        "--min-accuracy",
        type=share,
        default=0.0,
        metavar="A",
        help="clean validation accuracy that the best trial must have, in [0, 1]",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the search in --out")
    parser.add_argument("--epochs", type=positive, metavar="N", help="of each trial")
    parser.add_argument("--limit", type=positive, metavar="N", help="training images of each trial")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of the values that are tried, and the trainings"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value in the recipe, e.g. --set model.width=8",
    )
    parser.add_argument(
        "--trust-network",
        action="store_true",
        help="let a chief's unprotected port be on a public network",
    )
    add_devices(parser)
    add_data_folder(parser)


def _tune(arguments):
    from keras_pde import tuner
    from keras_pde.tuner import chief

    # Each trial is a new model: TensorFlow's advice against building many is not for a search.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    shortened = {"training.epochs": arguments.epochs, "data.limit": arguments.limit}
    arguments.epochs = arguments.limit = None
    recipe = changed(arguments.recipe, arguments)
    out = Path(arguments.out or Path("runs") / f"{Path(arguments.recipe).stem}-search")
    with _live_table() as show:
        trials = tuner.search(
            recipe,
            out,
            arguments.trials,
            tuner=arguments.tuner,
            objective=arguments.objective,
            min_accuracy=arguments.min_accuracy,
            seed=recipe.training.seed,
            resume=arguments.resume,
            data_dir=arguments.data_dir,
            download=arguments.download,
            devices=arguments.devices,
            trust_network=arguments.trust_network,
            shortened={key: value for key, value in shortened.items() if value is not None},
            show=show,
        )
    for trial in trials:
        if trial.state == "failed":
            say(f"Trial {trial.number} failed: {trial.reason}")
    if chief.role() == "worker":
        say(f"This worker ran {len(trials)} trials; the chief writes the results.")
        return
    best = tuner.ranked(trials, arguments.objective, arguments.min_accuracy)[0]
    say(
        f"Best of {len(trials)} trials: {best.number}, {_values(best)}, {_result(best)}.\n"
        f"Written: {out}/best.toml, trials.json, tradeoff.png\n\nNext:\n"
        f"  keras-pde train {shown(Path(out) / 'best.toml')}"
    )


@contextlib.contextmanager
def _live_table():
    """A function that shows trials: as a live table on a terminal, as lines elsewhere."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.live import Live

    with Live(_table([]), refresh_per_second=4) as live:
        yield lambda trials: live.update(_table(trials))


class _Lines:
    """Prints each trial once, when it has ended."""

    def __init__(self):
        self.shown = set()

    def __call__(self, trials):
        for trial in trials:
            if trial.state != "running" and trial.number not in self.shown:
                self.shown.add(trial.number)
                say(f"trial {trial.number}: {_values(trial)}  {_result(trial)}")


def _table(trials):
    from rich.table import Table

    keys = list(trials[0].values) if trials else []
    table = Table("trial", *keys, "clean", "robust", "seconds", "state")
    for trial in trials:
        values = [_value(trial.values[key]) for key in keys]
        ends = [str(trial.number), *values, *_accuracies(trial), f"{trial.seconds:.0f}"]
        table.add_row(*ends, _state(trial), style="red" if trial.state == "failed" else None)
    return table


def _values(trial):
    return ", ".join(f"{key} {_value(value)}" for key, value in trial.values.items())


def _value(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _accuracies(trial):
    return [_accuracy(trial, name) for name in ("val_accuracy", "val_robust_accuracy")]


def _accuracy(trial, name):
    value, ends = trial.metrics.get(name), trial.interval(name)
    if value is None:
        return "-"
    return percent(value) + (f" ({' - '.join(map(percent, ends))})" if ends else "")


def _result(trial):
    if trial.state == "failed":
        return f"failed: {trial.reason}"
    clean, robust = _accuracies(trial)
    return f"{clean} clean, {robust} robust, {_state(trial)}, {trial.seconds:.0f} s"


def _state(trial):
    if trial.state == "failed":
        return f"failed: {trial.reason[:60]}"
    if trial.state == "running":
        return f"epoch {trial.epoch}/{trial.epochs}"
    return f"{trial.epoch} epochs"
