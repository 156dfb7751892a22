"""Sequential MNIST, pixel by pixel: `AntisymmetricRNN` against an LSTM of as many weights.

Both read 784 pixels one after the other and are trained alike: the same batches of 128 in the same
order, Adam with a cosine schedule, gradients clipped at norm 1, the same seed. How many batches
fit into `--minutes` is measured first, and the slower model decides for both. 5,000 validation
images of the training set give the curve (docs/sequential_mnist.png) and select nothing; the test
images are looked at once, at the end.
"""

from pathlib import Path

import keras
import numpy as np
from common import cross_entropy, interleaved, parser, report

from keras_pde import data
from keras_pde.layers.recurrent import AntisymmetricRNN

FIGURE = Path(__file__).parents[1] / "docs" / "sequential_mnist.png"
BATCH, POINTS = 128, 24  # images a batch, points of the curve


def antisymmetric(options):
    return AntisymmetricRNN(
        options.units,
        step_size=options.step_size,
        gamma=options.gamma,
        gated=options.gated,
        scheme=options.scheme,
    )


def lstm(options):
    """The LSTM whose classifier is nearest in weights to the antisymmetric one."""
    wanted = classifier(antisymmetric(options)).count_params()
    counts = {n: 4 * n * (n + 2) + 10 * (n + 1) for n in range(1, 2 * options.units)}
    return keras.layers.LSTM(min(counts, key=lambda n: abs(counts[n] - wanted)))


def classifier(layer):
    return keras.Sequential([keras.Input((784, 1)), layer, keras.layers.Dense(10)])


def compiled(model, options, batches=1):
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, batches)
    optimizer = keras.optimizers.Adam(schedule, clipnorm=1.0)
    model.compile(optimizer, cross_entropy(), metrics=["accuracy"])
    return model


def models(options):
    for name, layer in (("AntisymmetricRNN", antisymmetric), ("LSTM", lstm)):
        keras.utils.set_random_seed(0)
        yield name, classifier(layer(options))


def seconds_a_batch(options, x, y):
    """name -> seconds of single training steps, in turn."""

    def step(model):
        return lambda: model.train_on_batch(x[:BATCH], y[:BATCH])

    steps = {name: step(compiled(model, options)) for name, model in models(options)}
    return interleaved(steps, options.rounds, repeats=3)


def trained(model, options, batches, training, validation):
    """`[(batches, validation accuracy), ...]`."""
    (x, y), curve = training, []
    rng, epochs = np.random.default_rng(0), -(-batches * BATCH // len(x))
    order = np.concatenate([rng.permutation(len(x)) for _ in range(epochs)])
    compiled(model, options, batches)
    parts = np.array_split(np.arange(batches), min(POINTS, batches))
    for part in parts:
        chosen = order[part[0] * BATCH : (part[-1] + 1) * BATCH]
        model.fit(x[chosen], y[chosen], batch_size=BATCH, shuffle=False, verbose=0)
        curve.append((int(part[-1]) + 1, accuracy(model, *validation)))
        print(f"{model.layers[0].name}: {curve[-1][0]} batches, {curve[-1][1]:.4f}", flush=True)
    return curve


def accuracy(model, x, y):
    return model.evaluate(x, y, batch_size=1000, verbose=0)[1]


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


def growth(model):
    """What one step multiplies small states by at most, after the training."""
    cell = model.layers[0].cell
    return cell.scheme.amplification(cell.step_size * cell.spectrum()).max()


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=60, help="of training, for each model")
    arguments.add_argument("--units", type=int, default=128)
    arguments.add_argument("--step-size", type=float, default=0.01)
    arguments.add_argument("--gamma", type=float, default=0.03)
    arguments.add_argument("--gated", action="store_true")
    arguments.add_argument("--scheme", default="euler")
    arguments.add_argument("--learning-rate", type=float, default=3e-3)
    options = arguments.parse_args()
    dataset = data.load("mnist", data_dir=options.data_dir)
    training, validation = (
        (x.reshape(len(x), 784, 1), y) for x, y in dataset.split_validation(5000)
    )
    seconds = seconds_a_batch(options, *training)
    slowest = max(np.median(times) for times in seconds.values())
    batches = max(int(60 * options.minutes / slowest), 1)
    rows, curves, notes = [], {}, []
    for name, model in models(options):
        curves[name] = trained(model, options, batches, training, validation)
        test = accuracy(model, dataset.x_test.reshape(-1, 784, 1), dataset.y_test)
        units, weights = model.layers[0].cell.units, model.count_params()
        rows.append(
            {
                "what": f"{name}, {units} units, {weights:,} weights",
                "target": "-",
                "measured": f"{100 * test:.2f} % of the test images, "
                f"{100 * curves[name][-1][1]:.2f} % of the validation images",
            }
        )
        if name == "AntisymmetricRNN":
            notes.append(
                f"{options.scheme}, step {options.step_size}, gamma {options.gamma}, gated: "
                f"{options.gated}. After training a step multiplies small states by at most "
                f"{growth(model):.5f}."
            )
    draw(curves)
    epochs = batches * BATCH / len(training[0])
    notes.append(
        f"{batches} batches of {BATCH} ({epochs:.2f} epochs), one run, seed 0; "
        f"{len(validation[0]):,} validation and {len(dataset.y_test):,} test images."
    )
    report("sequential_mnist", rows, seconds, options, notes)


if __name__ == "__main__":
    main()
