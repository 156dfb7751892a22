"""Seconds of PGD-20 in Linf on CIFAR-10 images against Foolbox, ART and CleverHans.

All attack the same Keras model object, in the same process and in turn: 20 steps of 2/255 in a
ball of 8/255 around each image, from a random start, cross-entropy, images in [0, 1]. The images
are correctly classified ones, so that nobody may skip any; ours runs without early exit. Each
library uses the batch size that is its fastest here. What is timed is the library's attack call
from numpy images to adversarial images, with whatever checks that call makes by itself: ours
predicts before and after, ART twice after, Foolbox once after, CleverHans never. Robust accuracies
are computed afterwards, outside the timing and for all in the same way, and must agree within a
point.

How the peers run. Ours: one compiled loop. Foolbox: a Python loop of eager gradients. ART: a Python
loop of eager gradients. CleverHans: a Python loop around a compiled gradient; sign, clipping and
projection are eager; all three get TensorFlow tensors or numpy arrays as their documentation
shows. "tf.function" variants are what a user of that library can still compile: the
model's call for Foolbox and ART (whose loops refuse to be traced), the whole attack for CleverHans.
"""

import warnings

import numpy as np
import tensorflow as tf
from common import (
    cifar10,
    interleaved,
    parser,
    ratio_text,
    report,
    resnet20_like,
    trained,
)

from keras_pde.attacks import PGD
from keras_pde.attacks.target import Target
from keras_pde.objectives import Adversarial

EPSILON, STEP = 8 / 255, 2 / 255
BATCHES = (64, 128, 256, 512)


def ours(model, steps):
    attack = PGD("linf", EPSILON, steps=steps, step_size=STEP, random_start=True)

    def run(x, y, batch_size):
        result = attack(model, x, y, batch_size=batch_size, early_exit=False)
        assert result.backward_passes == steps * len(x)
        return result.adversarial

    return run


def foolbox(model, steps):
    import foolbox as fb

    # Foolbox asks for the logits with model(x), which is inference mode in Keras 3.
    wrapped = fb.TensorFlowModel(model, bounds=(0, 1), device="/CPU:0")
    attack = fb.attacks.LinfPGD(abs_stepsize=STEP, steps=steps, random_start=True)

    def run(x, y, batch_size):
        found = []
        for images, labels in in_batches(x, y, batch_size):
            labels = tf.convert_to_tensor(labels)
            found.append(attack(wrapped, tf.convert_to_tensor(images), labels, epsilons=EPSILON)[1])
        return np.concatenate([part.numpy() for part in found])

    return run


def art(model, steps):
    from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_tensorflow_v2 import (  # noqa: E501
        ProjectedGradientDescentTensorFlowV2,
    )
    from art.estimators.classification import TensorFlowV2Classifier

    classifier = TensorFlowV2Classifier(
        model,
        nb_classes=10,
        input_shape=(32, 32, 3),
        loss_object=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )

    def run(x, y, batch_size):
        attack = ProjectedGradientDescentTensorFlowV2(
            classifier,
            norm=np.inf,
            eps=EPSILON,
            eps_step=STEP,
            max_iter=steps,
            num_random_init=1,
            batch_size=batch_size,
            verbose=False,
        )
        return attack.generate(x, y)

    return run


def cleverhans(model, steps, compiled):
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    def attack(images, labels):
        return projected_gradient_descent(
            model,
            images,
            EPSILON,
            STEP,
            steps,
            np.inf,
            clip_min=0.0,
            clip_max=1.0,
            y=labels,
            rand_init=True,
        )

    attack = tf.function(attack) if compiled else attack

    def run(x, y, batch_size):
        found = [
            attack(tf.convert_to_tensor(images), tf.convert_to_tensor(labels))
            for images, labels in in_batches(x, y, batch_size)
        ]
        return np.concatenate([part.numpy() for part in found])

    return run


def in_batches(x, y, batch_size):
    for start in range(0, len(x), batch_size):
        yield x[start : start + batch_size], y[start : start + batch_size]


def compiled(model):
    """The model's call as a `tf.function`, which a user may hand to a library in its stead."""
    call = tf.function(lambda x, training=False: model(x, training=training))
    call(tf.zeros((2, 32, 32, 3)))
    return call


def attacks(model, steps):
    """Name -> (images, labels, batch size) -> adversarial images."""
    return {
        # A `Target` keeps what was compiled for the next call, as each peer's object does; with the
        # model itself every call traces again.
        "ours": ours(Target(model, np.zeros((1, 32, 32, 3), "float32")), steps),
        "ours, model instead of Target": ours(model, steps),
        "CleverHans 4.0.0": cleverhans(model, steps, compiled=False),
        "CleverHans 4.0.0, tf.function around the attack": cleverhans(model, steps, compiled=True),
        "Foolbox 3.3.4": foolbox(model, steps),
        "Foolbox 3.3.4, tf.function model": foolbox(compiled(model), steps),
        "ART 1.20.1": art(model, steps),
        "ART 1.20.1, tf.function model": art(compiled(model), steps),
    }


TARGETS = {"Foolbox 3.3.4": ">= 2.0", "ART 1.20.1": ">= 2.5", "CleverHans 4.0.0": ">= 1.0"}


def main():
    command_line = parser(__doc__)
    command_line.add_argument("--images", type=int, default=512)
    command_line.add_argument("--steps", type=int, default=20)
    command_line.add_argument("--training-steps", type=int, default=400)
    command_line.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    command_line.add_argument("--only", nargs="*", help="names of attacks")
    options = command_line.parse_args()
    warnings.filterwarnings("ignore", module="art")
    tf.get_logger().setLevel("ERROR")

    data, _ = cifar10(options.data_dir)
    model = trained(
        "cifar10_linf",
        resnet20_like(),
        Adversarial("linf", EPSILON, step_size=1.25 * EPSILON, random_start=True),
        data.x_train,
        data.y_train,
        options.training_steps,
    )
    right = model.predict(data.x_test, verbose=0).argmax(-1) == data.y_test
    x, y = (a[right][: options.images] for a in (data.x_test, data.y_test))

    # A short attack chooses the batch size of each.
    batch = {}
    for name, run in attacks(model, max(1, options.steps // 5)).items():
        if options.only and name not in options.only:
            continue
        sizes = [size for size in options.batches if size <= len(x)] or [len(x)]
        trials = {size: lambda run=run, size=size: run(x, y, size) for size in sizes}
        seconds = interleaved(trials, rounds=2)
        batch[name] = min(sizes, key=lambda size: min(seconds[size]))
        print(f"{name}: batch {batch[name]}", flush=True)

    runs = {name: run for name, run in attacks(model, options.steps).items() if name in batch}
    found = {}

    def call(name):
        found[name] = runs[name](x, y, batch[name])

    seconds = interleaved({name: lambda n=name: call(n) for name in runs}, options.rounds)

    robust = {}
    for name, images in found.items():
        assert np.abs(images - x).max() <= EPSILON + 1e-6 and 0 <= images.min() <= images.max() <= 1
        robust[name] = float(np.mean(model.predict(images, verbose=0).argmax(-1) == y))
    spread = max(robust.values()) - min(robust.values())
    allowed = max(0.01, 2 / len(x)) + 1e-9
    if spread > allowed:
        options.publish = False
        print(f"NOT EQUAL WORK, not published: robust accuracies differ by {spread:.3f}: {robust}")

    rows = [
        {
            "what": f"PGD-{options.steps} linf, {len(x)} images: {name} / ours",
            "target": TARGETS.get(name, "-"),
            "measured": ratio_text(seconds, name, "ours"),
        }
        for name in seconds
        if name != "ours" and "ours" in seconds
    ]
    notes = [
        f"ResNet-20-like after {options.training_steps} steps of adversarial training (clean test "
        f"accuracy {right.mean():.1%}); {len(x)} correctly classified CIFAR-10 test images; "
        f"{options.rounds} rounds.",
        "Robust accuracy on these images and batch size: "
        + "; ".join(f"{name} {robust[name]:.1%}, {batch[name]}" for name in seconds)
        + ".",
        "Compiled: ours, the loop; CleverHans, each gradient (as documented) or the whole attack "
        "(tf.function around it); Foolbox and ART, nothing, or the model's call (tf.function "
        "model).",
    ]
    report("pgd", rows, seconds, options, notes)


if __name__ == "__main__":
    main()
