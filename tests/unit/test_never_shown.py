"""Loops that never ask for the weights to judge by are warned, others are not."""

import gc
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

import keras_pde as kp
from keras_pde.optimizers import state

BACKEND = keras.backend.backend()
X = np.ones((20, 3), "float32")


def entropy(**options):
    return kp.optimizers.EntropySGD(1.0, 0.01, 4, **options)


def network():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def loop(optimizer, steps=6):
    variables = network().trainable_variables
    optimizer.build(variables)
    for _ in range(steps):
        optimizer.scale_loss(keras.ops.ones(()))
        optimizer.apply([keras.ops.ones(v.shape) for v in variables], variables)
    return variables


@pytest.fixture
def warned(monkeypatch):
    """Function that says whether there is a warning once the optimizers made within are gone."""
    monkeypatch.delattr(sys, "last_value", raising=False)  # of a test that failed

    def of(function):
        gc.collect()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
            gc.collect()
        return any("never shown" in str(w.message) for w in caught)

    return of


@pytest.mark.parametrize(
    "make",
    [
        entropy,
        lambda: entropy(use_ema=True),
        lambda: kp.optimizers.ALIG(use_ema=True),
        lambda: kp.optimizers.ALIG(use_ema=True, ema_overwrite_frequency=4),
        lambda: kp.optimizers.Lookahead("adam"),
        lambda: kp.optimizers.StochasticWeightAveraging("adam"),
        pytest.param(
            lambda: keras.optimizers.LossScaleOptimizer(entropy()),
            marks=pytest.mark.skipif(BACKEND == "jax", reason="Keras' own needs a compiled step"),
        ),
    ],
    ids=["cyclic", "average of cycles", "average", "at times", "wrapper", "mean", "within"],
)
def test_a_loop_that_never_asks_is_warned(make, warned):
    def never():
        loop(make())

    def shows():
        optimizer = make()
        loop(optimizer)
        with kp.optimizers.evaluation_weights(optimizer):
            pass

    def ends():
        optimizer = make()
        optimizer.finalize_variable_values(loop(optimizer))

    assert warned(never)
    assert not warned(shows)
    assert not warned(ends)


@pytest.mark.parametrize(
    "make, steps",
    [
        (kp.optimizers.ALIG, 3),
        (lambda: kp.optimizers.ALIG(use_ema=True, ema_overwrite_frequency=3), 6),
        (entropy, 0),
        (entropy, 8),
        (lambda: entropy(gradient_accumulation_steps=2), 16),
        (lambda: kp.optimizers.Lookahead("adam"), 5),
    ],
    ids=["others", "at times", "none", "whole cycles", "accumulated", "wrapper"],
)
def test_where_the_model_holds_them_nothing_is_said(make, steps, warned):
    assert not warned(lambda: loop(make(), steps))


@pytest.mark.filterwarnings("ignore:.*ends within a cycle")
def test_steps_after_fit_are_meant(warned):
    def fit(more):
        model = network()
        model.compile(entropy(), "mse")
        model.fit(X, X[:, :1], batch_size=10, epochs=3, verbose=0)
        for _ in range(more):
            model.train_on_batch(X[:10], X[:10, :1])

    assert not warned(lambda: fit(0))
    if BACKEND == "tensorflow":  # on JAX the variables have no values meanwhile
        assert warned(lambda: fit(2))


def test_steps_of_another_process_are_not_meant(warned, tmp_path):
    def load():
        model = network()
        model.compile(entropy(), "mse")
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(3)
        model.save(tmp_path / "model.keras")
        keras.saving.load_model(tmp_path / "model.keras")

    assert not warned(load)


def test_one_that_another_goes_on_for_is_not_meant(warned):
    def carry(finish):
        optimizer = entropy()
        variables = loop(optimizer)
        new = state.carried_over(optimizer, variables, {})
        new.apply([keras.ops.ones(v.shape) for v in variables], variables)
        if finish:
            new.finalize_variable_values(variables)

    assert not warned(lambda: carry(True))
    assert warned(lambda: carry(False))


@pytest.mark.filterwarnings("ignore:.*ends within a cycle")
@pytest.mark.skipif(BACKEND != "tensorflow", reason="a train_step of TensorFlow")
@pytest.mark.parametrize("named", [True, False])
def test_a_second_optimizer_within_fit_is_meant(warned, named):
    import tensorflow as tf

    class Two(keras.Model):
        def __init__(self, optimizer):
            super().__init__()
            self.inner, self.second = network(), optimizer
            self.second.build(self.inner.trainable_variables)

        def call(self, x):
            return self.inner(x)

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self.inner(data[0]))
            variables = self.inner.trainable_variables
            self.second.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    def fit():
        model = Two(entropy())
        model.compile("sgd", "mse")
        shown = [kp.callbacks.EvaluationWeights(optimizer=model.second)] * named
        model.fit(X, X[:, :1], batch_size=10, verbose=0, callbacks=shown)

    assert warned(fit) != named


@pytest.mark.parametrize("after, said", [("", True), ("1 / 0", False)])
def test_it_is_said_at_the_end_of_python(after, said):
    script = f"import test_never_shown as t; o = t.entropy(); v = t.loop(o)\n{after}"
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ("EntropySGD has made 6 steps, but" in found.stderr) == said, found.stderr
