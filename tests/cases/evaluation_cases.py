"""What the tests of evaluations share: an honest linear model, its report, and made-up reports.

What is costly is made once, whichever files run: nothing compiles twice.
"""

import functools

import keras
import numpy as np
from keras import layers, ops

import keras_pde as kp
from keras_pde.attacks import Target
from keras_pde.evaluation import AttackRun, Report

JAX = keras.backend.backend() == "jax"
COUNT, SIZE = 40, 6
EPSILONS = (0.05, 0.2)


def linear(seed=0, scale=1.0, head=None):
    """Logits W^T x of three classes, balanced over the unit box; `head` is put on top of them."""
    kernel = np.random.default_rng(seed).normal(size=(SIZE, 3))
    inputs = keras.Input((SIZE,))
    dense = layers.Dense(3)
    outputs = dense(inputs)
    model = keras.Model(inputs, outputs if head is None else head(outputs), name=f"model_{seed}")
    dense.set_weights([scale * kernel, -scale * kernel.sum(axis=0) / 2])
    return model


def classes(model, x):
    return ops.convert_to_numpy(model(x, training=False)).argmax(axis=1)


@functools.cache
def honest_model():
    return linear()


@functools.cache
def honest_images():
    return np.random.default_rng(1).uniform(size=(COUNT, SIZE)).astype("float32")


@functools.cache
def honest_labels():
    """What the model says but for the first four."""
    y = classes(honest_model(), honest_images())
    y[:4] = (y[:4] + 1) % 3
    return y


@functools.cache
def honest_target():
    return Target(honest_model(), honest_images())


@functools.cache
def honest_report():
    """The default evaluation of an honest model."""
    x, y = honest_images(), honest_labels()
    return kp.evaluate(honest_target(), x, y, norm="l2", epsilons=EPSILONS)


def synthetic(distance, name="synthetic", norm="l2", epsilons=(0.2,), digest="d" * 64):
    config = {"class": "PGD", "norm": norm, "bounds": (0.0, 1.0), "epsilon": 0.2, "loss": "ce"}
    return Report(
        name=name,
        norm=norm,
        bounds=(0.0, 1.0),
        epsilons=tuple(epsilons),
        distance=np.asarray(distance, "float64"),
        runs=(AttackRun("PGD-5-ce", config, 0.2, 0.5, 123, 45, 1.25),),
        alarms=("something is odd",),
        digest=digest,
        environment={"keras": "3", "cores": 2},
    )
