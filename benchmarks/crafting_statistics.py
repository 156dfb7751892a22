"""With which statistics of BatchNormalization to craft, by what adversarial training reaches.

A small convolutional network, whose normalizations have Keras' momenta, is trained on the embedded
images with `Adversarial("linf", 0.06)` and attacked by PGD-20: as it was trained, and after the
statistics were recalibrated on training images. Nothing is selected; test images.
"""

import itertools
import statistics
import warnings

import keras
from common import parser, report
from keras import layers

import keras_pde as kp
from keras_pde.attacks import PGD
from keras_pde.objectives import Adversarial

EPSILON, IMAGES = 0.06, 500
MOMENTA = (0.9, 0.99, 0.999)
# (steps of training, batch size, steps of PGD)
TRAININGS = ((160, 64, 1), (160, 16, 5), (600, 64, 1))


def network(momentum, seed):
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((28, 28, 1))
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=momentum)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def trained(data, momentum, steps, batch_size, pgd_steps, how, seed):
    model = network(momentum, seed)
    objective = Adversarial("linf", EPSILON, pgd_steps, random_start=pgd_steps > 1, statistics=how)
    robust = kp.RobustModel(model, objective, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    robust.compile(keras.optimizers.Adam(2e-3), loss)
    images = steps * batch_size
    epochs, count = -(-images // len(data.x_train)), min(images, len(data.x_train))
    count -= count % batch_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that statistics lag is what this is about
        x, y = data.x_train[:count], data.y_train[:count]
        robust.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)
    return model


def main():
    options = parser(__doc__, rounds=3).parse_args()
    data = kp.data.load("fashion_mnist_sample")
    attack = PGD("linf", EPSILON, steps=20, seed=1)
    rows = []
    for training, momentum in itertools.product(TRAININGS, MOMENTA):
        for how in ("inference", "batch"):
            found = []
            for seed in range(options.rounds):
                model = trained(data, momentum, *training, how, seed)
                recalibrate = kp.callbacks.RecalibrateBatchNorm(data.x_train)
                recalibrate.set_model(model)
                shares = [_robust(attack, model, data)]
                recalibrate.on_train_end()
                found.append([*shares, _robust(attack, model, data)])
            raw, recalibrated = (_measured(values) for values in zip(*found, strict=True))
            what = f'momentum {momentum}, {training}, `"{how}"`'
            measured = f"{recalibrated}; as trained {raw}"
            print(what, measured, flush=True)
            rows.append({"what": what, "target": "-", "measured": measured})
    notes = [
        f"Robust accuracy under PGD-20, Linf {EPSILON}, of {IMAGES} test images with recalibrated "
        f"statistics, and as the training left them; mean and standard deviation of "
        f"{options.rounds} trainings.",
        "In parentheses: steps of training (whole epochs), batch size, steps of PGD in training.",
    ]
    report("crafting_statistics", rows, {}, options, notes)


def _robust(attack, model, data):
    return 100 * attack(model, data.x_test[:IMAGES], data.y_test[:IMAGES]).robust_accuracy


def _measured(values):
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} %"


if __name__ == "__main__":
    main()
