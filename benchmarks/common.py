"""What the benchmarks share: network, images, interleaved timing, and where results go.

Absolute times of a shared machine mean little, so everything that is compared runs in one process
and in turn. Two summaries are given, and should agree: the ratio of the fastest runs, and the
median of the ratios within a round.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

from keras_pde import RobustModel, data, environment
from keras_pde.layers import batch_norm

HERE = Path(__file__).parent
_NOT_RECORDED = ("data_dir", "publish", "runs")  # paths of a machine
MIN_ROUNDS = 5  # fewer are for trying a script out, not for publishing


def parser(description, rounds=MIN_ROUNDS):
    """Command line of every script."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--rounds", type=int, default=rounds, help="timed rounds after a warm-up")
    result.add_argument(
        "--publish", action="store_true", help="write results/ and this script's part of README.md"
    )
    result.add_argument("--data-dir", help="folder of TensorFlow Datasets (default: TFDS_DATA_DIR)")
    return result


# What is measured on


def resnet20_like(norm=batch_norm, seed=0):
    """Residual network for 32x32x3 images: 16-32-64 channels, 3 blocks a stage, logits.

    About 0.27 million parameters and 41 million multiply-adds, as ResNet-20 (He et al., 2016); the
    shortcuts that change size are 1x1 convolutions.
    """
    seeds = iter(range(1000 * seed, 1000 * seed + 1000))

    def conv(x, filters, size, stride=1):
        initializer = keras.initializers.HeNormal(seed=next(seeds))
        convolution = layers.Conv2D(
            filters,
            size,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer=initializer,
        )
        return norm()(convolution(x))

    inputs = keras.Input((32, 32, 3))
    x = layers.Normalization(mean=(0.491, 0.482, 0.447), variance=(0.061, 0.059, 0.068))(inputs)
    x = layers.ReLU()(conv(x, 16, 3))
    for filters, first_stride in ((16, 1), (32, 2), (64, 2)):
        for stride in (first_stride, 1, 1):
            shortcut = x if stride == 1 else conv(x, filters, 1, stride)
            x = layers.ReLU()(conv(x, filters, 3, stride))
            x = layers.ReLU()(layers.Add()([conv(x, filters, 3), shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    initializer = keras.initializers.GlorotUniform(seed=next(seeds))
    return keras.Model(inputs, layers.Dense(10, kernel_initializer=initializer)(x))


def stepped(rate, batches):
    """A learning rate that is divided by 10 after a half and after three quarters."""
    boundaries = [batches // 2, batches * 3 // 4]
    rates = [rate, rate / 10, rate / 100]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)


def cross_entropy():
    """The loss of models that return logits, for integer labels."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def cifar10(data_dir, noise_if_absent=False):
    """CIFAR-10 and a word on what it is. Noise will do where only time is measured."""
    try:
        return data.load("cifar10", data_dir=data_dir), "CIFAR-10 images"
    except (FileNotFoundError, ImportError) as error:
        if not noise_if_absent:
            raise SystemExit(str(error)) from error
        print(f"NOISE instead of CIFAR-10: {error}")
    rng = np.random.default_rng(0)
    x = rng.random((1024, 32, 32, 3), "float32")
    y = rng.integers(0, 10, 1024)
    names = tuple(map(str, range(10)))
    return data.Dataset("noise", x, y, x, y, names), "noise images"


def trained(name, model, objective, x, y, steps):
    """The model after a short training; its weights are kept in the temporary folder.

    Args:
        name: of the weights file, with `steps`; another training needs another name.
        model: built Keras model.
        objective: from `keras_pde.objectives`.
        x, y: training images and labels.
        steps: number of batches of 128.
    """
    folder = Path(tempfile.gettempdir()) / "keras_pde_benchmarks"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}_{steps}.weights.h5"
    if path.exists():
        print(f"Weights from {path}; delete it to train again.")
        model.load_weights(path)
        return model
    keras.utils.set_random_seed(0)
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    robust = RobustModel(model, objective)
    robust.compile(keras.optimizers.Adam(schedule), cross_entropy(), metrics=["accuracy"])
    epoch = len(x) // 128
    order = np.concatenate(
        [
            np.random.default_rng(i).permutation(len(x))[: epoch * 128]
            for i in range(-(-steps // epoch))
        ]
    )
    order = order[: 128 * steps]
    robust.fit(x[order], y[order], batch_size=128, shuffle=False, verbose=2)
    model.save_weights(path)
    return model


# Timing


def interleaved(callables, rounds, repeats=1):
    """Runs the callables in turn and returns name -> seconds a call, one number a round.

    The order is reversed every other round, so that nobody always runs after the same one.

    Args:
        callables: name -> function without arguments, which returns when its work is done.
        rounds: number of rounds, after one that does not count (tracing, caches).
        repeats: calls a measurement; their mean counts.
    """
    seconds = {name: [] for name in callables}
    for number in range(rounds + 1):
        order = list(callables) if number % 2 else list(reversed(callables))
        for name in order:
            began = time.perf_counter()
            for _ in range(repeats):
                callables[name]()
            taken = (time.perf_counter() - began) / repeats
            if number > 0:
                seconds[name].append(taken)
        print(f"round {number} of {rounds} done", flush=True)
    return seconds


def ratios(seconds, numerator, denominator):
    """(ratio of the minima, median of the ratios within a round)."""
    a, b = seconds[numerator], seconds[denominator]
    return min(a) / min(b), statistics.median(p / q for p, q in zip(a, b, strict=True))


def ratio_text(seconds, numerator, denominator):
    """Both ratios for a table."""
    return "{:.2f} (median of pairs {:.2f})".format(*ratios(seconds, numerator, denominator))


# Results


def report(name, rows, seconds, options, notes=()):
    """Prints the results and, with `--publish`, writes them to results/ and README.md.

    Args:
        name: of the script.
        rows: dicts with the keys what, target and measured; `where` for what others measured.
        seconds: name -> seconds a call, one number a round.
        options: the parsed command line.
        notes: sentences that say what was measured.
    """
    machine = environment.describe()
    backend = {"tensorflow": "TensorFlow", "jax": "JAX"}[machine["backend"]]
    version = machine[machine["backend"]]
    hardware = "{processor}, {cores} cores, {0} {1}, {date}".format(backend, version, **machine)
    lines = ["| what | target | measured | hardware, date |", "|---|---|---|---|"]
    lines += [
        "| {what} | {target} | {measured} | {where} |".format(**{"where": hardware, **row})
        for row in rows
    ]
    lines += ["", *(f"- {note}" for note in notes)]
    times = [
        f"| {k} | {min(v):.4g} | {statistics.median(v):.4g} |" for k, v in seconds.items() if v
    ]
    if times:
        lines += ["", "| seconds | minimum | median |", "|---|---|---|", *times]
    text = "\n".join(lines)
    print(f"\n{text}")
    load = os.getloadavg()[0]
    if load > machine["cores"] + 0.5:
        print(f"\nWARNING: the load average is {load:.1f}; these figures are not worth keeping.")
    if not options.publish:
        return
    if options.rounds < MIN_ROUNDS:
        raise SystemExit(f"Not published: {options.rounds} rounds, expected {MIN_ROUNDS} or more.")
    record = {
        "environment": machine,
        "load_average": load,
        "options": {k: v for k, v in vars(options).items() if k not in _NOT_RECORDED},
        "rows": rows,
        "notes": list(notes),
        "seconds": seconds,
    }
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    _replace_section(HERE / "README.md", name, text)


def _replace_section(path, name, text):
    """Puts the text between the markers of that name."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    head, _, rest = path.read_text().partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"No markers {begin} ... {end} in {path}.")
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
