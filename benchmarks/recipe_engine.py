"""A recipe's training against bare `fit`, and its images a second against what a step needs.

`small_cnn` on CIFAR-10 images, plain training. Both trainings run for as many epochs as there are
rounds, in threads that take turns, so that what happens once a training (tracing, the start of the
pipeline) is in the round that does not count. An epoch of the recipe has its checkpoint, best
weights, `run.json`, TensorBoard and an attack on one image in it; both have the same validation.
"""

import tempfile
import threading
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from common import cifar10, cross_entropy, interleaved, parser, ratio_text, report

from keras_pde import recipes
from keras_pde.recipes import build
from keras_pde.recipes.augment import Augment
from keras_pde.recipes.batches import Batches

BATCH = 128
BATCHES, STEPS = 300, 10  # a measurement of the pipeline, and of the training step


class InTurn:
    """A training in a thread of its own; a call lets it run until it calls `pause`."""

    def __init__(self, run):
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._error = None
        self._thread = threading.Thread(target=self._run, args=(run,), daemon=True)
        self._thread.start()

    def _run(self, run):
        self._go.acquire()
        try:
            run(self.pause)
        except Exception as error:
            self._error = error
        finally:
            self._back.release()

    def pause(self):
        self._back.release()
        self._go.acquire()

    def __call__(self):
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error


def recipe(path, epochs, validation):
    """Plain training of the images in a file."""
    return recipes.Recipe.of(
        {
            "title": "Recipe engine",
            "data": {"name": str(path), "validation": validation},
            "model": {"name": "small_cnn"},
            "schedule": {"name": "constant", "rate": 0.01},
            "training": {"epochs": epochs, "batch_size": BATCH},
            "validation": {"images": 1, "steps": 1, "select": "val_accuracy"},
        }
    )


def bare(made, loaded, training_part, held_out):
    """The same training by `compile` and `fit`, written by hand."""

    def run(pause):
        model = build.network(made, loaded)
        steps = len(training_part[0]) // BATCH
        model.compile(build.optimizer(made, steps), cross_entropy(), metrics=["accuracy"])
        model.fit(
            *training_part,
            batch_size=BATCH,
            epochs=made.training.epochs,
            validation_data=held_out,
            validation_batch_size=500,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: pause())],
        )

    return run


def by_recipe(made, folder):
    """The training of a recipe."""

    def run(pause):
        def say(line):
            if line.startswith("epoch "):  # said when everything of the epoch is written
                pause()

        recipes.train(made, folder, evaluate=False, say=say)

    return run


def pipeline(x, y):
    """Produces batches with all augmentation, from a new stream."""
    batches = Batches(x, y, BATCH, Augment(crop=4, flip=True, cutout=8))

    def run():
        for images, _ in batches.stream(0, BATCHES):
            last = images
        assert last.shape == (BATCH, *x.shape[1:])

    return run


def training_steps(made, loaded, x, y):
    """Trains on one batch that stays in memory."""
    model = build.network(made, loaded)
    model.compile(build.optimizer(made, 1), cross_entropy())
    model.make_train_function()
    batch = iter(tf.data.Dataset.from_tensors((x[:BATCH], y[:BATCH])).cache().repeat())

    def run():
        for _ in range(STEPS):
            loss = float(model.train_function(batch)["loss"])  # waits for the step
            assert np.isfinite(loss)

    return run


def main():
    command_line = parser(__doc__)
    command_line.add_argument("--images", type=int, default=40 * BATCH + 100)
    options = command_line.parse_args()
    data, source = cifar10(options.data_dir, noise_if_absent=True)
    count = min(options.images, len(data.x_train))
    x, y = data.x_train[:count], data.y_train[:count]
    held_out = count % BATCH + 2 * BATCH  # whole batches are left, so that both see all images

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        np.savez(path, x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
        made = recipe(path, options.rounds + 1, held_out)
        parts = build.dataset(made)
        # In a process without a recipe: what one does to all of the process would slow both.
        alone = {"bare fit, before any recipe": InTurn(bare(made, *parts))}
        before = interleaved(alone, options.rounds)
        trainings = {
            "recipe": InTurn(by_recipe(made, Path(folder) / "run")),
            "bare fit": InTurn(bare(made, *parts)),
        }
        seconds = interleaved(trainings, options.rounds) | before
        for training in (trainings | alone).values():
            training()  # to its end

    loaded, training_part, _ = parts
    more = {
        "pipeline": pipeline(*training_part),
        "training step": training_steps(made, loaded, x, y),
    }
    for name, times in interleaved(more, options.rounds).items():
        each = BATCHES if name == "pipeline" else STEPS
        seconds[f"{name}, a batch"] = [time / each for time in times]

    rate = BATCH / min(seconds["pipeline, a batch"])
    rows = [
        {
            "what": "seconds an epoch, recipe / bare `fit`, small_cnn",
            "target": "<= 1.05",
            "measured": ratio_text(seconds, "recipe", "bare fit"),
        },
        {
            "what": "images a second, crop, flip and cutout / training step of small_cnn",
            "target": ">= 10",
            "measured": ratio_text(seconds, "training step, a batch", "pipeline, a batch"),
        },
    ]
    notes = [
        f"{source}, {len(training_part[0])} training and {held_out} validation images, batch "
        f"{BATCH}, {options.rounds} rounds of one epoch each.",
        f"The pipeline alone gives {rate:,.0f} images a second (crop 4, flip, cutout 8; each "
        f"measurement is a new stream of {BATCHES} batches).",
    ]
    report("recipe_engine", rows, seconds, options, notes)


if __name__ == "__main__":
    main()
