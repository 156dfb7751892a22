"""RobustModel(average=...): the average over training steps is a model too."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops
from robust_model_cases import (
    EAGER,
    SHAPE,
    Subclassed,
    X,
    Y,
    arrays,
    assert_same_weights,
    built,
    cross_entropy,
    dataset,
    fit,
    functional,
    momentum,
    resume,
    robust,
    sequential,
    tensorflow_only,
)

from keras_pde import registry
from keras_pde.objectives import Adversarial, Plain


class Recorder(keras.callbacks.Callback):
    """The trained weights after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        # On JAX the weights are handed back at the end of an epoch; here each has one step.
        self.seen.append(arrays(self.model.model))


def averages(start, seen, decay):
    """The recursion of the docstring, in double precision."""
    mean = [w.astype("float64") for w in start]
    for t, weights in enumerate(seen, start=1):
        now = min(decay, (1 + t) / (10 + t))
        mean = [now * m + (1 - now) * w for m, w in zip(mean, weights, strict=True)]
    return mean


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_average_follows_the_recursion(decay):
    """Over weights and BatchNormalization's statistics; 0.3 is reached in the third step."""
    wrapper = robust(Plain(), average=decay)
    start, recorder = arrays(wrapper.model), Recorder()
    fit(wrapper, X[:8], Y[:8], epochs=6, callbacks=[recorder])
    assert len(recorder.seen) == 6
    expected = averages(start, recorder.seen, decay)
    for found, mean, initial in zip(arrays(wrapper.averaged), expected, start, strict=True):
        np.testing.assert_allclose(found, mean, rtol=2e-5, atol=1e-6)
        assert not np.array_equal(found, initial)


def test_averaging_changes_nothing_in_training():
    plain, averaged = robust(Plain()), robust(Plain(), average=0.5)
    found, expected = fit(averaged), fit(plain)
    np.testing.assert_array_equal(found["loss"], expected["loss"])
    assert_same_weights(averaged.model, plain.model)


def test_validation_and_predictions_are_about_the_average():
    wrapper = robust(Plain(), average=0.9)
    history = fit(wrapper, validation_data=(X, Y))
    average = wrapper.averaged
    assert wrapper.result is average
    average.compile(loss=cross_entropy(), metrics=["accuracy"])
    loss, accuracy = average.evaluate(X, Y, verbose=0)
    loss += float(sum(wrapper.model.losses))  # regularisers stay those of the trained weights
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    assert history["val_accuracy"][-1] == pytest.approx(accuracy)
    np.testing.assert_allclose(
        wrapper.predict(X, verbose=0), average.predict(X, verbose=0), rtol=1e-6
    )
    np.testing.assert_allclose(wrapper(X), average(X), rtol=1e-6)
    assert not np.allclose(wrapper(X), wrapper.model(X))


@pytest.mark.parametrize("entry", registry.entries("objective"), ids=lambda entry: entry.name)
def test_every_objective_averages(entry):
    term = entry.component(**entry.example)
    wrapper = robust(term, sequential(), average=0.9)
    before = arrays(wrapper.averaged)
    fit(wrapper, epochs=1, compile_options=EAGER)
    after = arrays(wrapper.averaged)
    assert all(np.isfinite(w).all() for w in after)
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_mixed_precision_averages_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        wrapper = robust(Plain(), functional(), average=0.5)
    finally:
        keras.config.set_dtype_policy("float32")
    start, recorder = arrays(wrapper.model), Recorder()
    fit(wrapper, X[:8], Y[:8], epochs=3, callbacks=[recorder])
    for found, mean in zip(
        arrays(wrapper.averaged), averages(start, recorder.seen, 0.5), strict=True
    ):
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)


# Files


def test_saved_loaded_and_continued(tmp_path):
    objective = Adversarial("linf", 0.1, random_start=True)
    whole, first = (robust(objective, sequential(), average=0.8) for _ in range(2))
    fit(whole, epochs=3)
    fit(first, epochs=2)
    first.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.average == 0.8
    assert_same_weights(loaded.averaged, first.averaged)
    assert_same_weights(loaded.model, first.model)
    resume(loaded)
    assert_same_weights(loaded.averaged, whole.averaged, 1e-6)


def test_weights_files_hold_both_networks(tmp_path):
    """So BackupAndRestore and ModelCheckpoint lose nothing; the plain model says what is wrong."""
    path = tmp_path / "both.weights.h5"
    wrapper = robust(Plain(), average=0.9)
    fit(wrapper, epochs=1)
    wrapper.save_weights(path)
    other = robust(Plain(), average=0.9)
    other.compile(momentum(), cross_entropy())
    other.optimizer.build(other.trainable_variables)
    other.load_weights(path)
    assert_same_weights(other.model, wrapper.model)
    assert_same_weights(other.averaged, wrapper.averaged)
    for a, b in zip(other.optimizer.variables, wrapper.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    silent = keras.__version__.startswith("3.12.")  # newer ones warn first
    warned = contextlib.nullcontext() if silent else pytest.warns(UserWarning)
    with pytest.raises(ValueError, match="could not be loaded"), warned:
        functional().load_weights(path)
    wrapper.averaged.save_weights(tmp_path / "average.weights.h5")
    plain = functional()
    plain.load_weights(tmp_path / "average.weights.h5")
    assert_same_weights(plain, wrapper.averaged)


# Which models


def test_models_that_cannot_be_averaged_are_refused():
    for model in (sequential(built=False), Subclassed()):
        with pytest.raises(ValueError, match="not built; call it on a batch first"):
            robust(Plain(), model, average=0.9)
    with pytest.raises(ValueError, match="Subclassed, which Keras cannot copy"):
        robust(Plain(), built(Subclassed), average=0.9)


class Copyable(keras.Model):
    """Subclassed as Keras wants it: a config, and weights that `build` makes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten, self.head = keras.layers.Flatten(), keras.layers.Dense(3)

    def build(self, input_shape):
        self.head.build((None, int(np.prod(input_shape[1:]))))

    def call(self, x):
        return self.head(self.flatten(x))


def test_subclassed_models_that_keras_can_copy_are_averaged():
    wrapper = robust(Plain(), built(Copyable), average=0.5)
    before = arrays(wrapper.model)
    fit(wrapper, epochs=1)
    mean, last = arrays(wrapper.averaged), arrays(wrapper.model)
    for a, b, c in zip(before, mean, last, strict=True):
        assert not np.array_equal(a, b) and not np.array_equal(b, c)


@pytest.mark.parametrize("average", [0, 1, 1.5, -0.1, float("nan")])
def test_decays_outside_0_1_are_refused(average):
    with pytest.raises(ValueError, match=r"expected a finite number above 0 and below 1"):
        robust(Plain(), average=average)


def test_frozen_layers_keep_their_weights():
    model = functional()
    model.layers[1].trainable = False
    wrapper = robust(Plain(), model, average=0.5)
    kernel = arrays(model.layers[1])[0]
    fit(wrapper, epochs=1)
    np.testing.assert_array_equal(arrays(wrapper.averaged.layers[1])[0], kernel)


@tensorflow_only
def test_steps_per_execution_averages_each_step():
    one, three = robust(Plain(), average=0.5), robust(Plain(), average=0.5)
    fit(one, dataset(), None, epochs=1)
    fit(three, dataset(), None, epochs=1, compile_options={"steps_per_execution": 3})
    assert_same_weights(one.averaged, three.averaged, 1e-6)
    assert one.averaged.input_shape == (None, *SHAPE)
