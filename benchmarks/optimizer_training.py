"""What networks reach with each optimizer, at the same number of gradients.

All methods see the same batches, in the order that a seed says, from the same initial weights, for
as many epochs: each batch is one gradient. (`SAM` spends two on a step, `SAGD` two or more.) Every
method has as many candidates as the others, but for `SALR` as it comes. Validation images of the
training set choose, after trainings with seeds of their own; the chosen candidate is trained with
other seeds, and the test images are looked at once, at the end of those.

- LeNet on MNIST: Entropy-SGD against SGD and Adam; docs/optimizer_training.png has the validation
  loss by effective epochs.
- A small network with batch normalization on CIFAR-10: all families. The statistics are
  recalibrated at the end, whatever the method.

One training a core. What is done is kept in a file: started again, this goes on where it was.
"""

import functools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from common import HERE, cross_entropy, parser, report, stepped
from keras.optimizers import schedules
from scipy import stats

import keras_pde as kp
from keras_pde.recipes.augment import Augment
from keras_pde.recipes.batches import Batches

FIGURE = HERE.parent / "docs" / "optimizer_training.png"
RUNS = Path(tempfile.gettempdir()) / "keras_pde_benchmarks" / "optimizer_training.jsonl"
BATCH, FIRST_TUNING_SEED = 128, 100


def sgd(batches, rate):
    return keras.optimizers.SGD(stepped(rate, batches), momentum=0.9, nesterov=True)


def constant_sgd(batches, rate, **kwargs):
    return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, **kwargs)


def averaged_sgd(batches, rate):
    """With Keras' moving average of the weights."""
    return constant_sgd(batches, rate, use_ema=True)


def adam(batches, rate):
    return keras.optimizers.Adam(schedules.CosineDecay(rate, batches))


def entropy_sgd(batches, rate, scope, kind=kp.optimizers.EntropySGD):
    """With the outer rate in steps, as in the paper."""
    return kind(stepped(1.0, batches), inner_learning_rate=rate, scope=scope, inner_momentum=0.9)


def hamilton_jacobi(batches, rate, scope):
    return entropy_sgd(batches, rate, scope, kp.optimizers.HamiltonJacobi)


def sam(batches, rate, rho):
    return kp.optimizers.SAM(sgd(batches // 2, rate), rho)


def sagd(batches, rate, rule):
    """Without a schedule: larger batches instead."""
    return kp.optimizers.SAGD(rate, rule, momentum=0.9, nesterov=True)


def salr(batches):
    """Without a schedule, and without arguments."""
    return kp.optimizers.SALR()


@dataclass(frozen=True)
class Problem:
    """Where methods are compared.

    Attributes:
        dataset: name, and how many of its training images validate.
        network: function from a seed to a model.
        epochs: of each training.
        tuning, seeds: how many trainings choose a candidate, and how many are published.
        methods: name -> (function from the batches of a training and a candidate's arguments to an
            optimizer, candidates). The first is what the others are compared with.
        targets: method -> text.
    """

    dataset: str
    validation: int
    network: Callable
    epochs: int
    tuning: int
    seeds: int
    methods: dict
    targets: dict


def singles(*values):
    return [(value,) for value in values]


PROBLEMS = {
    "LeNet, MNIST": Problem(
        "mnist",
        6_240,  # leaves 420 batches
        lambda seed: kp.models.lenet(seed=seed),
        epochs=20,
        tuning=3,
        seeds=10,
        methods={
            "SGD": (sgd, singles(0.01, 0.03, 0.1, 0.3)),
            "Adam": (adam, singles(0.03, 1e-3, 3e-3, 0.01)),
            "EntropySGD": (entropy_sgd, [(0.03, 1e-4), (0.03, 0.1), (0.1, 1e-4), (0.1, 0.1)]),
        },
        targets={"EntropySGD": "<= 0.1 points more than SGD"},
    ),
    "small CNN, CIFAR-10": Problem(
        "cifar10",
        6_480,  # leaves 340 batches
        lambda seed: kp.models.small_cnn((32, 32, 3), width=8, seed=seed),
        epochs=12,
        tuning=1,
        seeds=10,
        methods={
            "SGD": (sgd, singles(0.01, 0.03, 0.1, 0.05)),
            "SGD without a schedule": (constant_sgd, singles(0.1, 3e-3, 0.01, 0.03)),
            "SGD averaged, without a schedule": (averaged_sgd, singles(3e-3, 0.01, 0.03, 0.1)),
            "Adam": (adam, singles(1e-3, 3e-3, 0.01, 0.03)),
            "EntropySGD": (entropy_sgd, [(0.1, 1e-4), (0.03, 1e-4), (0.03, 0.1), (0.05, 1e-4)]),
            "HamiltonJacobi": (
                hamilton_jacobi,
                [(0.1, 0.01), (0.03, 0.01), (0.03, 1.0), (0.05, 0.01)],
            ),
            "SAM(SGD)": (sam, [(0.03, 0.01), (0.03, 0.05), (0.03, 0.02), (0.05, 0.05)]),
            "SAGD without a schedule": (
                sagd,
                [(1.0, "salr"), (0.3, "salr"), (0.3, "cabs"), (0.5, "salr")],
            ),
            "SALR as it comes": (salr, [()]),
        },
        targets={"SALR as it comes": "<= 0.5 points more than SGD"},
    ),
}


@functools.cache
def images(name, data_dir):
    return kp.data.load(name, data_dir=data_dir)


def trained(problem, method, candidate, seed, data_dir):
    """One training: what was found on validation images, and on test images if published."""
    problem = PROBLEMS[problem]
    dataset = images(problem.dataset, data_dir)
    training, validation = dataset.split_validation(problem.validation)
    batches = Batches(*training, BATCH, Augment(), seed)
    total = problem.epochs * batches.steps_per_epoch
    make, candidates = problem.methods[method]
    model = problem.network(seed)
    keras.utils.set_random_seed(seed)
    optimizer = make(total, *candidates[candidate])
    model.compile(optimizer, cross_entropy(), metrics=["accuracy"])
    callbacks = [kp.callbacks.EvaluationWeights()] if optimizer.use_ema else []
    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers):
        callbacks.append(kp.callbacks.RecalibrateBatchNorm(training[0], BATCH))
    history = model.fit(
        batches.stream(0, total),
        epochs=problem.epochs,
        steps_per_epoch=batches.steps_per_epoch,
        shuffle=False,
        validation_data=validation,
        validation_batch_size=1000,
        verbose=0,
        callbacks=callbacks,
    ).history
    found = {"loss": history["val_loss"], "accuracy": history["val_accuracy"][-1]}
    if seed < FIRST_TUNING_SEED:
        _, found["test"] = model.evaluate(dataset.x_test, dataset.y_test, 1000, verbose=0)
    return found


def trained_as(job, data_dir):
    return trained(*job, data_dir)


class Campaign:
    """Trainings, a process a core, each of which is kept when it is done."""

    def __init__(self, path, workers, data_dir):
        self.path, self.workers, self.data_dir = Path(path), workers, data_dir
        self.path.parent.mkdir(exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.found = {tuple(job): found for job, found in map(json.loads, lines)}

    def run(self, jobs):
        """`(problem, method, candidate, seed)` -> what `trained` found, of all that is known."""
        missing = [job for job in jobs if job not in self.found]
        os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
        context = multiprocessing.get_context("spawn")
        one = functools.partial(trained_as, data_dir=self.data_dir)
        # Few trainings a process: TensorFlow keeps the images of each.
        pool = context.Pool(self.workers, maxtasksperchild=3)
        with pool, self.path.open("a") as file:
            for job, found in zip(missing, pool.imap(one, missing), strict=True):
                self.found[job] = found
                print(job, found, flush=True)
                file.write(json.dumps([job, found]) + "\n")
                file.flush()
        return self.found


def compared(name, problem, campaign):
    """Rows of the table, and method -> mean validation loss after each epoch."""
    tuning = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + problem.tuning)
    numbers = {m: range(len(candidates)) for m, (_, candidates) in problem.methods.items()}
    trials = [(name, m, i, s) for m, n in numbers.items() if len(n) > 1 for i in n for s in tuning]
    found = campaign.run(trials)

    def validated(method, i):
        return np.mean([found[name, method, i, s]["accuracy"] for s in tuning])

    best = {
        m: max(n, key=lambda i, m=m: validated(m, i)) if len(n) > 1 else 0
        for m, n in numbers.items()
    }
    found = campaign.run([(name, m, i, s) for s in range(problem.seeds) for m, i in best.items()])
    runs = {m: [found[name, m, i, s] for s in range(problem.seeds)] for m, i in best.items()}
    errors = {m: 100 - 100 * np.array([run["test"] for run in r]) for m, r in runs.items()}
    losses = {m: np.array([run["loss"][-1] for run in r]) for m, r in runs.items()}
    first = next(iter(errors))
    rows = []
    for method, error in errors.items():
        chosen = ", ".join(map(str, problem.methods[method][1][best[method]]))
        measured = f"{interval(error)} % wrong, validation loss {interval(losses[method], 3)}"
        if method != first:
            further = interval(losses[method] - losses[first], 3)
            measured += f"; minus {first}: {interval(error - errors[first])}, {further}"
        rows.append(
            {
                "what": f"{name}: {method}" + (f" ({chosen})" if chosen else ""),
                "target": problem.targets.get(method, "-"),
                "measured": measured,
            }
        )
    return rows, {m: np.mean([run["loss"] for run in r], axis=0) for m, r in runs.items()}


def interval(values, digits=2):
    """Mean and 95 % interval, Student's, as text."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"


def draw(title, losses):
    """method -> validation loss after each epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for method, values in losses.items():
        axes.semilogy(range(1, len(values) + 1), values, marker=".", label=method)
    axes.set(xlabel="effective epochs", ylabel="validation loss", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(FIGURE, dpi=130)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--runs", default=RUNS, help="file of the trainings that are done")
    arguments.add_argument("--workers", type=int, default=os.cpu_count())
    options = arguments.parse_args()
    campaign = Campaign(options.runs, options.workers, options.data_dir)
    rows, notes = [], []
    for name, problem in PROBLEMS.items():
        found, losses = compared(name, problem, campaign)
        rows += found
        notes.append(
            f"{name}: {problem.epochs} epochs of {len(losses)} methods, batch {BATCH}, "
            f"{problem.validation:,} validation images, {problem.tuning} trainings a candidate to "
            f"choose, {problem.seeds} to publish, all test images."
        )
        if name == next(iter(PROBLEMS)):
            draw(name, losses)
    report("optimizer_training", rows, {}, options, notes)


if __name__ == "__main__":
    main()
