"""Sequential MNIST, pixel by pixel: `AntisymmetricRNN` against an LSTM of as many weights.

Both read 784 pixels one after the other and are trained alike: batches of 128 in the same order,
Adam with a cosine schedule, gradients clipped at norm 1, the same seed, the same number of batches.
Each has four candidates, tried for a tenth of the batches; 5,000 validation images of the training
set choose among them and give the curve (docs/sequential_mnist.png). The test images are looked at
once, at the end. The two run at the same time, with one thread each.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from common import cross_entropy, interleaved, parser, report

from keras_pde import data
from keras_pde.layers.recurrent import AntisymmetricRNN

FIGURE = Path(__file__).parents[1] / "docs" / "sequential_mnist.png"
BATCH, POINTS = 128, 24  # images a batch, points of the curve
UNITS = 128
STEP, GAMMA = 0.01, 0.01  # as in Chang et al., 2019


def antisymmetric(gated):
    return AntisymmetricRNN(UNITS, STEP, GAMMA, gated=gated)


def lstm():
    """The LSTM whose classifier is nearest in weights to the antisymmetric one."""
    wanted = classifier(antisymmetric(gated=False)).count_params()
    counts = {n: 4 * n * (n + 2) + 10 * (n + 1) for n in range(1, 2 * UNITS)}
    return keras.layers.LSTM(min(counts, key=lambda n: abs(counts[n] - wanted)))


# name -> candidates, each a layer's arguments and a learning rate.
MODELS = {
    "AntisymmetricRNN": (
        antisymmetric,
        [({"gated": gated}, rate) for gated in (False, True) for rate in (3e-3, 1e-2)],
    ),
    "LSTM": (lstm, [({}, rate) for rate in (1e-3, 3e-3, 1e-2, 3e-2)]),
}


def classifier(layer):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((784, 1)), layer, keras.layers.Dense(10)])


def compiled(name, candidate, batches=1):
    layer, (arguments, learning_rate) = MODELS[name][0], candidate
    model = classifier(layer(**arguments))
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, batches)
    optimizer = keras.optimizers.Adam(schedule, clipnorm=1.0)
    model.compile(optimizer, cross_entropy(), metrics=["accuracy"])
    return model


def seconds_a_batch(options, x, y):
    """name -> seconds of single training steps, in turn."""

    def step(model):
        return lambda: model.train_on_batch(x[:BATCH], y[:BATCH])

    steps = {name: step(compiled(name, candidates[0])) for name, (_, candidates) in MODELS.items()}
    return interleaved(steps, options.rounds, repeats=3)


def trained(name, candidate, batches, training, validation, points=1):
    """The model and `[(batches, validation accuracy), ...]`."""
    (x, y), curve = training, []
    rng, epochs = np.random.default_rng(0), -(-batches * BATCH // len(x))
    order = np.concatenate([rng.permutation(len(x)) for _ in range(epochs)])
    model = compiled(name, candidate, batches)
    for part in np.array_split(np.arange(batches), min(points, batches)):
        chosen = order[part[0] * BATCH : (part[-1] + 1) * BATCH]
        model.fit(x[chosen], y[chosen], batch_size=BATCH, shuffle=False, verbose=0)
        curve.append((int(part[-1]) + 1, accuracy(model, *validation)))
        print(f"{name} {candidate}: {curve[-1][0]} batches, {curve[-1][1]:.4f}", flush=True)
    return model, curve


def accuracy(model, x, y):
    return model.evaluate(x, y, batch_size=1000, verbose=0)[1]


def chosen_and_trained(name, batches, dataset):
    """Everything about one model, as JSON holds it."""
    training, validation = sequences(dataset)
    trials = []
    for candidate in MODELS[name][1]:
        _, curve = trained(name, candidate, max(batches // 10, 1), training, validation)
        trials.append((curve[-1][1], candidate))
    best = max(trials, key=lambda trial: trial[0])[1]
    began = time.perf_counter()
    model, curve = trained(name, best, batches, training, validation, POINTS)
    return {
        "trials": trials,
        "candidate": best,
        "curve": curve,
        "seconds": time.perf_counter() - began,
        "test": accuracy(model, dataset.x_test.reshape(-1, 784, 1), dataset.y_test),
        "weights": model.count_params(),
        "units": model.layers[0].cell.units,
        "growth": growth(model.layers[0].cell),
    }


def growth(cell):
    """What one step multiplies small states by at most; None for an LSTM."""
    if not hasattr(cell, "spectrum"):
        return None
    return float(cell.scheme.amplification(cell.step_size * cell.spectrum()).max())


def sequences(dataset):
    parts = dataset.split_validation(5000)
    return [(x.reshape(len(x), 784, 1), y) for x, y in parts]


def draw(curves):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        batches, accuracies = zip(*curve, strict=True)
        axes.plot(batches, 100 * np.array(accuracies), marker=".", label=name)
    axes.set(xlabel=f"batches of {BATCH}", ylabel="validation accuracy, %")
    axes.set_title("Sequential MNIST, pixel by pixel")
    axes.grid(alpha=0.3)
    axes.legend()
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=130)


def side_by_side(batches, options):
    """name -> what `chosen_and_trained` found, in a process each."""
    with tempfile.TemporaryDirectory() as folder:
        processes = {}
        for name in MODELS:
            command = [sys.executable, __file__, "--only", name, "--batches", str(batches)]
            command += ["--result", str(Path(folder) / name)]
            command += ["--data-dir", options.data_dir] if options.data_dir else []
            processes[name] = subprocess.Popen(command)
        if any(process.wait() for process in processes.values()):
            raise SystemExit("A training failed; see above.")
        return {name: json.loads((Path(folder) / name).read_text()) for name in MODELS}


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=60, help="of training, for each model")
    arguments.add_argument("--only", choices=MODELS, help="train one of them, into --result")
    arguments.add_argument("--batches", type=int, help="of training, instead of --minutes")
    arguments.add_argument("--result", help="file for the result of --only")
    options = arguments.parse_args()
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    dataset = data.load("mnist", data_dir=options.data_dir)
    if options.only:
        found = chosen_and_trained(options.only, options.batches, dataset)
        Path(options.result).write_text(json.dumps(found))
        return
    seconds = seconds_a_batch(options, *sequences(dataset)[0])
    slowest = max(np.median(times) for times in seconds.values())
    batches = options.batches or max(int(60 * options.minutes / slowest), 1)
    results = side_by_side(batches, options)
    rows = []
    notes = [
        f"{batches} batches of {BATCH} ({batches * BATCH / len(sequences(dataset)[0][0]):.1f} "
        f"epochs), one run, seed 0; 5,000 validation and {len(dataset.y_test):,} test images."
    ]
    for name, found in results.items():
        rows.append(
            {
                "what": f"{name}, {found['units']} units, {found['weights']:,} weights",
                "target": "-",
                "measured": f"{100 * found['test']:.2f} % of the test images, "
                f"{100 * found['curve'][-1][1]:.2f} % of the validation images",
            }
        )
        trials = ", ".join(f"{value:.1%} {candidate}" for value, candidate in found["trials"])
        notes.append(
            f"{name}: {found['seconds'] / 60:.0f} minutes with {found['candidate']}; a tenth of "
            f"the batches gave {trials}."
        )
        if found["growth"]:
            notes.append(
                f"After training a step of {name} multiplies small states by at most "
                f"{found['growth']:.5f}."
            )
    draw({name: found["curve"] for name, found in results.items()})
    report("sequential_mnist", rows, seconds, options, notes)


if __name__ == "__main__":
    main()
