"""Training from shallow to deep against training deep, and running a deep network with fewer steps.

- `continuous_net` on Fashion-MNIST, 8 Euler steps a block from the start, against 1 -> 2 -> 4 -> 8
  by `RefineDepth` after 3, 5 and 7 twelfths of the epochs: seconds of `fit` (tracing included),
  the saving that counting evaluations of the rates predicts (Queiruga et al., 2020), and that
  counting all multiply-adds does, and the test accuracies, paired over all test images and seeds.
- The same network with silu and 8 RK4 steps, trained once per seed, then run with 4 and 2 steps by
  `with_solver`, without retraining.

Test images are looked at once, at the end, and select nothing; nothing else is selected either.
"""

import time
from itertools import pairwise

import keras
import numpy as np
from common import cross_entropy, parser, report

import keras_pde as kp
from keras_pde.models.multiply_adds import multiply_adds

STEPS = 8
REFINEMENTS = (3 / 12, 5 / 12, 7 / 12)


def network(options, seed, **arguments):
    return kp.models.continuous_net(
        (28, 28, 1), width=options.width, horizon=options.horizon, seed=seed, **arguments
    )


def trained(model, x, y, epochs, seed, callbacks=()):
    """Seconds of `fit`."""
    keras.utils.set_random_seed(seed)
    batches = epochs * -(-len(x) // 128)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-4, batches, warmup_target=4e-3, warmup_steps=batches // 10
    )
    model.compile(keras.optimizers.Adam(schedule), cross_entropy(), metrics=["accuracy"])
    began = time.perf_counter()
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=2, callbacks=list(callbacks))
    return time.perf_counter() - began


def correct(model, x, y):
    return model.predict(x, batch_size=1000, verbose=0).argmax(-1) == y


def difference(first, second):
    """Points of accuracy that the second has less, with a 95 % interval over images, as text."""
    drop = 100 * (np.concatenate(first).astype(float) - np.concatenate(second))
    half = 1.96 * drop.std(ddof=1) / np.sqrt(len(drop))
    return f"{drop.mean():.2f} ± {half:.2f} points"


def mean(results):
    shares = [100 * found.mean() for found in results]
    return f"{np.mean(shares):.2f} % ({', '.join(f'{share:.2f}' for share in shares)})"


def incremental(options, x, y, x_test, y_test, seconds):
    epochs = sorted({max(round(share * options.epochs), 1) for share in REFINEMENTS})
    found = {"direct": [], "incremental": []}
    for seed in range(options.seeds):
        deep = network(options, seed, steps=STEPS)
        grown = network(options, seed, steps=1, stitch=options.horizon / STEPS)
        refine = kp.callbacks.RefineDepth(epochs, verbose=1)
        for name, model, callbacks in (("direct", deep, []), ("incremental", grown, [refine])):
            taken = trained(model, x, y, options.epochs, seed, callbacks)
            seconds.setdefault(f"fit, {name}", []).append(taken)
            found[name].append(correct(model, x_test, y_test))
    direct, shallow = (np.array(seconds[f"fit, {name}"]) for name in found)
    saved = 1 - shallow.sum() / direct.sum()
    bounds = [0, *epochs, options.epochs]

    def of_prediction(work):
        """What was saved, by what `work`, a function of the steps, says."""
        done = sum(work(2**k) * (b - a) for k, (a, b) in enumerate(pairwise(bounds)))
        predicted = 1 - done / (work(STEPS) * options.epochs)
        return f"{saved / predicted:.0%} of {predicted:.1%}"

    return [
        {
            "what": f"1 -> {STEPS} steps, refined before epochs {epochs} of {options.epochs}: "
            "time saved",
            "target": ">= 25 %",
            "measured": f"{saved:.1%} (median of pairs {np.median(1 - shallow / direct):.1%})",
        },
        {
            "what": "the same, of the saving that evaluations of the rates predict",
            "target": ">= 90 %",
            "measured": of_prediction(lambda steps: steps),
        },
        {
            "what": "the same, of the saving that multiply-adds predict, with those of stem, "
            "stitches and head",
            "target": "-",
            "measured": of_prediction(
                lambda steps: multiply_adds(network(options, 0, steps=steps))
            ),
        },
        {
            "what": "the same, accuracy lost",
            "target": "within 0.5 points",
            "measured": f"{difference(found['direct'], found['incremental'])}; "
            f"{mean(found['incremental'])} against {mean(found['direct'])}",
        },
    ]


def shortened(options, x, y, x_test, y_test, seconds):
    found = {STEPS: [], 4: [], 2: []}
    for seed in range(options.rk4_seeds):
        model = network(options, seed, steps=STEPS, scheme="rk4", num_basis=2, activation="silu")
        taken = trained(model, x, y, options.rk4_epochs, seed)
        seconds.setdefault("fit, RK4", []).append(taken)
        for steps, results in found.items():
            short = kp.models.with_solver(model, steps=steps)
            results.append(correct(short, x_test, y_test))
    return [
        {
            "what": f"trained with {STEPS} RK4 steps, run with {steps}: accuracy lost",
            "target": target,
            "measured": f"{difference(found[STEPS], found[steps])}; {mean(found[steps])}",
        }
        for steps, target in ((4, "<= 0.2 points"), (2, "<= 1.0 points"))
    ]


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, default=20_000, help="training images")
    arguments.add_argument("--epochs", type=int, default=12)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--rk4-epochs", type=int, default=4)
    arguments.add_argument("--rk4-seeds", type=int, default=2)
    arguments.add_argument("--width", type=int, default=8)
    arguments.add_argument("--horizon", type=float, default=1.0)
    options = arguments.parse_args()
    images = kp.data.load("fashion_mnist", data_dir=options.data_dir)
    x, y = images.x_train[: options.images], images.y_train[: options.images]
    seconds = {}
    rows = incremental(options, x, y, images.x_test, images.y_test, seconds)
    rows += shortened(options, x, y, images.x_test, images.y_test, seconds)
    notes = [
        f"`continuous_net`, width {options.width}, horizon {options.horizon:g}, {len(x):,} "
        f"training images, Adam; {options.seeds} seeds (RK4: {options.rk4_seeds}, "
        f"{options.rk4_epochs} epochs, K = 2), all {len(images.y_test):,} test images. Intervals: "
        "95 %, over the draw of test images, not over trainings.",
    ]
    report("depth_training", rows, seconds, options, notes)


if __name__ == "__main__":
    main()
