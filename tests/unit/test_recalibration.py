"""Batch normalization with statistics that are recalibrated."""

import keras
import numpy as np
import pytest
from evaluation_weights_cases import Seen, X, Y, network, run
from optimizer_cases import arrays, assert_equal

import keras_pde as kp


def test_recalibrated_statistics_are_those_of_the_data():
    """Of the layer's input, with dropout off; the moving averages have hardly begun."""
    normalization = keras.layers.BatchNormalization(momentum=0.999)
    model = network(keras.layers.Dropout(0.5), normalization)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    recalibrate = kp.callbacks.RecalibrateBatchNorm(X, batch_size=25)
    model.fit(X, Y, batch_size=25, verbose=0, callbacks=[recalibrate])
    mean, variance = arrays([normalization.moving_mean, normalization.moving_variance])
    halves = X.reshape(2, 25, 4)
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, halves.var(1).mean(0), rtol=1e-4)
    assert normalization.momentum == 0.999


def test_recalibration_comes_before_validation_and_makes_it_right():
    model = network(keras.layers.BatchNormalization(momentum=0.999))
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    found = {}
    for name, callbacks in {
        "lagging": [],
        "right": [kp.callbacks.RecalibrateBatchNorm(X, batch_size=25)],
    }.items():
        options = {"batch_size": 25, "verbose": 0, "validation_data": (X, Y)}
        found[name] = model.fit(X, Y, callbacks=callbacks, **options).history
    assert found["right"]["val_loss"][0] < found["lagging"]["val_loss"][0]
    assert found["right"]["val_loss"][0] == pytest.approx(found["right"]["loss"][0], rel=0.1)


def test_without_validation_the_end_of_an_epoch_is_recalibrated():
    """From batches of a dataset: what can be iterated over, with labels or without."""
    batches = X.reshape(2, 25, 4)
    found = []
    for data in (X, [(x, None) for x in batches], list(batches)):
        normalization = keras.layers.BatchNormalization(momentum=0.999)
        model = network(normalization)
        model.compile(keras.optimizers.SGD(1e-3), "mse")
        seen = Seen()
        recalibrate = kp.callbacks.RecalibrateBatchNorm(data, batch_size=25)
        model.fit(X, Y, batch_size=25, verbose=0, callbacks=[recalibrate, seen])
        found.append(seen.epochs[0])
        (position,) = (i for i, w in enumerate(model.weights) if w is normalization.moving_mean)
        np.testing.assert_allclose(seen.epochs[0][position], X.mean(0), rtol=1e-5)
    assert_equal(found[0], found[1], rtol=1e-6)
    assert_equal(found[0], found[2], rtol=1e-6)


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_statistics_of_a_model_of_several_inputs(kind):
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    normalization = keras.layers.BatchNormalization(momentum=0.999)
    z = normalization(keras.layers.Concatenate()([first, second]))
    inputs = [first, second] if kind == "list" else {"first": first, "second": second}
    model = keras.Model(inputs, keras.layers.Dense(3)(z))
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    x = [X, 2 * X] if kind == "list" else {"first": X, "second": 2 * X}
    recalibrate = kp.callbacks.RecalibrateBatchNorm(x, batch_size=25)
    model.fit(x, Y, batch_size=25, verbose=0, callbacks=[recalibrate])
    expected = np.concatenate([X, 2 * X], axis=1).mean(0)
    np.testing.assert_allclose(normalization.moving_mean, expected, rtol=1e-5)


def test_blocks_keep_one_set_of_statistics_for_each_element():
    rate = keras.Sequential([kp.layers.batch_norm(momentum=0.999), keras.layers.Dense(4, "tanh")])
    block = kp.layers.ContinuousBlock(rate, 2, "euler")
    model = network(block)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    recalibrate = kp.callbacks.RecalibrateBatchNorm(X, batch_size=25)
    model.fit(X, Y, batch_size=25, verbose=0, callbacks=[recalibrate])
    (mean,) = (v for v in block.non_trainable_variables if "moving_mean" in v.path)
    np.testing.assert_allclose(arrays([mean])[0][0], X.mean(0), rtol=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="no BatchNormalization"):
        run("sgd", kp.callbacks.RecalibrateBatchNorm(X, batch_size=25))
    with pytest.raises(ValueError, match="at least one batch"):
        kp.callbacks.RecalibrateBatchNorm(X, batch_size=64)
    model = network(keras.layers.BatchNormalization())
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="gives no batch"):
        model.fit(X, Y, verbose=0, callbacks=[kp.callbacks.RecalibrateBatchNorm([])])


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="RobustModel trains elsewhere")
def test_several_inputs_under_a_robust_model():
    inputs = [keras.Input((2,)), keras.Input((2,))]
    normalization = keras.layers.BatchNormalization(momentum=0.999)
    x = normalization(keras.layers.Concatenate()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    objective = kp.objectives.Adversarial("l2", 0.1, bounds=None)
    robust = kp.RobustModel(model, objective, perturb=0)
    robust.compile(keras.optimizers.SGD(0.0), "mse")
    arrays_in = [X[:, :2], X[:, 2:]]
    recalibrate = kp.callbacks.RecalibrateBatchNorm(arrays_in, batch_size=25)
    robust.fit(arrays_in, Y, batch_size=25, verbose=0, callbacks=[recalibrate])
    np.testing.assert_allclose(arrays([normalization.moving_mean])[0], X.mean(0), rtol=1e-5)
