"""What a training step costs with each optimizer, against `keras.optimizers.SGD` with momentum.

LeNet on 28x28 and a ResNet-20-like network on 32x32x3 images, batch 128, plain `train_on_batch` of
the same batch, not jitted (Keras' choice on a CPU); and how many copies of the weights an optimizer
keeps.
"""

import keras
import numpy as np
from common import cross_entropy, interleaved, parser, ratio_text, report, resnet20_like

import keras_pde as kp

BATCH = 128
SGD = "SGD, momentum"


def sgd():
    return keras.optimizers.SGD(0.01, momentum=0.9)


OPTIMIZERS = {
    SGD: sgd,
    "EntropySGD": lambda: kp.optimizers.EntropySGD(inner_learning_rate=0.01),
    "EntropySGD, momentum in both loops": lambda: kp.optimizers.EntropySGD(
        inner_learning_rate=0.01, momentum=0.9, inner_momentum=0.9
    ),
    "EntropySGD, noise": lambda: kp.optimizers.EntropySGD(
        inner_learning_rate=0.01, temperature=1e-6
    ),
    "Lookahead(SGD)": lambda: kp.optimizers.Lookahead(sgd()),
    "SAM(SGD)": lambda: kp.optimizers.SAM(sgd()),
    "SALR": lambda: kp.optimizers.SALR(0.01, momentum=0.9),
    "SAGD": lambda: kp.optimizers.SAGD(0.01, momentum=0.9),
}
NETWORKS = {
    "LeNet": (lambda: kp.models.lenet((28, 28, 1)), 1.10),
    "ResNet-20-like": (resnet20_like, 1.03),
}


def stepper(network, optimizer):
    """One training step; and how many copies of the weights the optimizer has."""
    model, optimizer = network(), optimizer()
    model.compile(optimizer, cross_entropy())
    rng = np.random.default_rng(0)
    x = rng.random((BATCH, *model.input_shape[1:]), "float32")
    y = rng.integers(0, 10, BATCH)
    model.train_on_batch(x, y)
    weights = sum(v.shape.num_elements() for v in (w.value for w in model.trainable_variables))
    kept = sum(v.value.shape.num_elements() for v in optimizer.variables)
    return lambda: model.train_on_batch(x, y), kept / weights


def main():
    options = parser(__doc__).parse_args()
    rows, seconds, copies = [], {}, {}
    for name, (network, target) in NETWORKS.items():
        steps = {}
        for what, optimizer in OPTIMIZERS.items():
            steps[what], copies[what] = stepper(network, optimizer)
        found = interleaved(steps, options.rounds, repeats=5)
        seconds.update({f"{name}, {what}": times for what, times in found.items()})
        rows += [
            {
                "what": f"{name}, {what} / {SGD}",
                "target": f"<= {target:.2f}" if what.startswith("EntropySGD") else "-",
                "measured": ratio_text(found, what, SGD),
            }
            for what in OPTIMIZERS
            if what != SGD
        ]
    rows += [
        {
            "what": f"{what}: copies of the weights that it keeps",
            "target": "<= 4, 2 without momentum" if what.startswith("EntropySGD") else "-",
            "measured": f"{count:.1f}",
        }
        for what, count in copies.items()
    ]
    report("optimizer_step", rows, seconds, options, [f"Batch {BATCH}, {options.rounds} rounds."])


if __name__ == "__main__":
    main()
