"""Seconds of a PGD-100 evaluation with early exit against without.

A small CNN, plainly trained on Fashion-MNIST; epsilon is found by bisection on other images (the
end of the training set), so that about 45 % of all images stay correct. Images that are
misclassified from the start are attacked in neither run.
"""

import numpy as np
from common import interleaved, parser, ratio_text, report, trained

from keras_pde import data
from keras_pde.attacks import PGD
from keras_pde.attacks.target import Target
from keras_pde.models import small_cnn
from keras_pde.objectives import Plain


def epsilon_for(share, target, x, y):
    """The Linf epsilon at which PGD-20 leaves that share of the images correct."""
    low, high = 0.0, 0.5
    for _ in range(8):
        middle = (low + high) / 2
        robust = PGD("linf", middle, steps=20)(target, x, y).robust_accuracy
        low, high = (middle, high) if robust > share else (low, middle)
    return high


def main():
    command_line = parser(__doc__)
    command_line.add_argument("--data", default="fashion_mnist_sample")
    command_line.add_argument("--images", type=int, default=512)
    command_line.add_argument("--steps", type=int, default=100)
    command_line.add_argument("--training-steps", type=int, default=400)
    command_line.add_argument("--robust", type=float, default=0.45)
    options = command_line.parse_args()
    images = data.load(options.data, data_dir=options.data_dir)
    (x_train, y_train), other = images.split_validation(256)
    model = small_cnn(images.x_train.shape[1:])
    name = f"{options.data}_small_cnn"
    model = trained(name, model, Plain(), x_train, y_train, options.training_steps)

    target = Target(model, x_train)
    epsilon = epsilon_for(options.robust, target, *other)
    x, y = images.x_test[: options.images], images.y_test[: options.images]
    attack = PGD("linf", epsilon, steps=options.steps)
    results = {}

    def evaluation(early_exit):
        results[early_exit] = attack(target, x, y, early_exit=early_exit)

    seconds = interleaved(
        {"early exit": lambda: evaluation(True), "all steps": lambda: evaluation(False)},
        options.rounds,
    )
    on, off = results[True], results[False]
    clean = np.mean(on.status != "misclassified")
    row = {
        "what": f"PGD-{options.steps} evaluation, early exit off / on",
        "target": ">= 1.5",
        "measured": ratio_text(seconds, "all steps", "early exit"),
    }
    notes = [
        f"small_cnn, {options.data}, plainly trained for {options.training_steps} steps; {len(x)} "
        f"test images, Linf epsilon {epsilon:.4f} from other images; {options.rounds} rounds.",
        f"Clean accuracy {clean:.1%}, robust accuracy {on.robust_accuracy:.1%} with and "
        f"{off.robust_accuracy:.1%} without early exit.",
        f"Backward passes {on.backward_passes} against {off.backward_passes}: at best "
        f"{off.backward_passes / on.backward_passes:.2f} times faster.",
    ]
    if not 0.4 <= on.robust_accuracy <= 0.6:
        notes.append("Robust accuracy is NOT between 40 and 60 %: not the measurement intended.")
    report("early_exit", [row], seconds, options, notes)


if __name__ == "__main__":
    main()
