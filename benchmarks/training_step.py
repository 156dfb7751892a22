"""Seconds of one training step of each objective, against Keras' own `fit` and against J2.

What is timed is the compiled function that `fit` calls for every batch (`make_train_function`), on
one batch of 128 images that stays in memory. Every objective has a model of its own, with the
same initial weights.
"""

import keras
import numpy as np
import tensorflow as tf
from common import (
    cifar10,
    cross_entropy,
    interleaved,
    parser,
    ratio_text,
    report,
    resnet20_like,
)

from keras_pde import RobustModel
from keras_pde.objectives import Adversarial, GradientPenalty, Plain, Tulip

DOUBLE, HALF = {"method": "double_backprop"}, {"method": "finite_difference", "fraction": 0.5}
OBJECTIVES = {
    "RobustModel(Plain)": Plain(),
    "J2": Adversarial("l2", 0.1),
    "double backprop": GradientPenalty("l2", 0.1, **DOUBLE),
    "finite difference": GradientPenalty("l2", 0.1, method="finite_difference"),
    "finite difference, half batch": GradientPenalty("l2", 0.1, **HALF),
    "Tulip inference top 1": Tulip(0.1, 1.0, top_k=1),
    "Tulip inference top 4": Tulip(0.1, 1.0, top_k=4),
    "Tulip batch top 1": Tulip(0.1, 1.0, top_k=1, statistics="batch"),
    "Tulip batch top 4": Tulip(0.1, 1.0, top_k=4, statistics="batch"),
    "Tulip batch, all (2018)": Tulip(0.1, 1.0, top_k=None, statistics="batch"),
    "PGD-7 linf": Adversarial("linf", 8 / 255, steps=7, random_start=True),
}
TO_PLAIN = {  # target, relative to plain `fit`
    "RobustModel(Plain)": "-",
    "J2": "<= 1.7",
    "double backprop": "<= 2.3",
    "finite difference": "<= 2.5",
    "finite difference, half batch": "<= 1.9",
    "PGD-7 linf": "-",
}
TO_J2 = {
    "Tulip inference top 1": "<= 1.10",
    "Tulip inference top 4": "-",
    "Tulip batch top 1": "-",
    "Tulip batch top 4": "-",
    "Tulip batch, all (2018)": "-",
}


def compiled_step(model, x, y):
    """One step of `fit` on that batch."""
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), cross_entropy())
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((x, y)).cache().repeat())

    def step():
        logs = model.train_function(batches)
        loss = float(logs["loss"])  # waits for the step
        assert np.isfinite(loss)

    return step


def main():
    command_line = parser(__doc__, rounds=9)
    command_line.add_argument("--repeats", type=int, default=4, help="steps a measurement")
    command_line.add_argument("--batch", type=int, default=128)
    command_line.add_argument("--only", nargs="*", help="names of objectives")
    options = command_line.parse_args()
    tf.get_logger().setLevel("ERROR")  # it takes thirteen models for one that traces again
    data, source = cifar10(options.data_dir, noise_if_absent=True)
    x, y = data.x_train[: options.batch], data.y_train[: options.batch]

    steps = {
        "plain fit": compiled_step(resnet20_like(), x, y),
        "plain fit, Keras' own BatchNormalization": compiled_step(
            resnet20_like(keras.layers.BatchNormalization), x, y
        ),
    }
    for name, objective in OBJECTIVES.items():
        if not options.only or name in options.only:
            steps[name] = compiled_step(RobustModel(resnet20_like(), objective), x, y)
    seconds = interleaved(steps, options.rounds, options.repeats)

    rows = []
    for base, label, targets in (("plain fit", "plain fit", TO_PLAIN), ("J2", "J2", TO_J2)):
        for name, target in targets.items():
            if name in seconds and base in seconds:
                what = f"training step, {name} / {label}"
                measured = ratio_text(seconds, name, base)
                rows.append({"what": what, "target": target, "measured": measured})
    notes = [
        f"ResNet-20-like, batch {options.batch}, {source}, SGD with momentum, not jitted (Keras' "
        f"choice on a CPU); {options.rounds} rounds of {options.repeats} steps each.",
        "Plain `fit` is the same network, with `keras_pde.layers.batch_norm`. With Keras' own "
        "BatchNormalization it takes "
        + ratio_text(seconds, "plain fit, Keras' own BatchNormalization", "plain fit")
        + " of that.",
    ]
    report("training_step", rows, seconds, options, notes)


if __name__ == "__main__":
    main()
