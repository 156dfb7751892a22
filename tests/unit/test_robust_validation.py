"""RobustValidation logs what its attack finds, after each epoch that it is asked for."""

import copy

import keras
import numpy as np
import pytest
from robust_model_cases import EAGER, X, Y, cross_entropy, fit, robust, sequential

from keras_pde.attacks import FGSM, PGD, MinimalDistance
from keras_pde.callbacks import RefineDepth, RobustValidation
from keras_pde.layers import ContinuousBlock
from keras_pde.objectives import Plain

ATTACK = PGD("linf", epsilon=0.02, steps=3)
NAME = "val_robust_accuracy"


class Direct(keras.callbacks.Callback):
    """The attack called by hand after each epoch."""

    def __init__(self, attack=ATTACK, y=Y):
        super().__init__()
        self.attack, self.y, self.found = attack, y, []

    def on_epoch_end(self, epoch, logs=None):
        model = getattr(self.model, "result", self.model)
        self.found.append(self.attack(model, X, self.y).robust_accuracy)


def test_a_refined_network_is_attacked_anew():
    keras.utils.set_random_seed(0)
    inputs = keras.Input(X.shape[1:])
    rate = keras.layers.Dense(6, activation="tanh", name="rate")
    x = keras.layers.Dense(6)(keras.layers.Flatten()(inputs))
    x = ContinuousBlock(rate, 1, "euler", horizon=4.0)(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    model.compile(keras.optimizers.Adam(0.05), cross_entropy(), **EAGER)
    y = (3 * X[:, 0, 0, 0]).astype("int32")
    direct = Direct(y=y)
    callbacks = [RefineDepth([1]), RobustValidation(X, y, ATTACK), direct]
    options = {"epochs": 6, "batch_size": 4, "verbose": 0, "callbacks": callbacks}
    assert model.fit(X, y, **options).history[NAME] == direct.found
    assert len(set(direct.found[1:])) > 1, "the network does not change"


@pytest.mark.parametrize(
    "make",
    [
        sequential,
        lambda: robust(Plain(), sequential()),
        lambda: robust(Plain(), sequential(), average=0.9),
    ],
    ids=["keras.Model", "RobustModel", "averaged"],
)
def test_the_logged_value_is_the_attacks(make):
    direct = Direct()
    callbacks = [RobustValidation(X, Y, ATTACK, batch_size=7), direct]
    history = fit(make(), epochs=4, callbacks=callbacks, compile_options=EAGER)
    assert history[NAME] == direct.found
    assert len(set(direct.found)) > 1


@pytest.mark.parametrize(
    ("every", "measured"), [(1, [1, 2, 3, 4, 5]), (2, [1, 2, 4, 5]), (9, [1, 5])]
)
def test_every(every, measured, monkeypatch):
    """Between two attacks the log repeats the last value; the last epoch has its own."""
    validation = RobustValidation(X, Y, ATTACK, every=every)
    calls = iter(range(100))
    monkeypatch.setattr(validation, "measure", lambda: next(calls) / 100)
    history = fit(sequential(), epochs=5, callbacks=[validation], compile_options=EAGER)
    expected = [sum(e <= epoch for e in measured) - 1 for epoch in range(1, 6)]
    np.testing.assert_allclose(history[NAME], np.array(expected) / 100)


def test_the_clean_accuracy_is_of_the_same_images():
    validation, found = RobustValidation(X[:5], Y[:5], ATTACK), []
    model = sequential()

    class Seen(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            predicted = np.argmax(keras.ops.convert_to_numpy(model(X[:5])), axis=1)
            found.append(np.mean(predicted == Y[:5]))

    history = fit(model, epochs=3, callbacks=[validation, Seen()], compile_options=EAGER)
    np.testing.assert_allclose(history["val_clean_accuracy"], found)
    assert np.all(np.array(history[NAME]) <= found)
    assert RobustValidation(X, Y, ATTACK, name="val_pgd").clean_name == "val_pgd_clean"


@pytest.mark.parametrize(
    "shape", [lambda y: y[:, None], lambda y: np.eye(3)[y], list], ids=["column", "one-hot", "list"]
)
def test_labels_of_other_shapes(shape):
    model = sequential()
    y = np.argmax(model.predict(X, verbose=0), axis=1)
    callback = RobustValidation(X, shape(y), ATTACK)
    callback.set_model(model)
    callback.set_params({"epochs": 1})
    logs = {}
    callback.on_epoch_end(0, logs)
    assert logs["val_clean_accuracy"] == 1.0 >= logs[NAME]


def test_other_callbacks_go_by_it(tmp_path):
    path = tmp_path / "best.weights.h5"
    best = keras.callbacks.ModelCheckpoint(
        path, NAME, mode="max", save_best_only=True, save_weights_only=True
    )
    stop = keras.callbacks.EarlyStopping(NAME, mode="max", patience=1)
    validation = RobustValidation(X, Y, ATTACK)
    values = iter([0.1, 0.5, 0.3, 0.2])
    validation.measure = lambda: next(values)
    model, weights = sequential(), []
    seen = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.append(model.get_weights())
    )
    fit(model, epochs=4, callbacks=[validation, best, stop, seen], compile_options=EAGER)
    assert len(weights) == 3
    model.load_weights(path)
    for a, b in zip(model.get_weights(), weights[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_copy_starts_anew():
    """Keras Tuner copies callbacks for each trial."""
    validation = RobustValidation(X, Y, ATTACK, every=3, batch_size=5, name="val_pgd")
    fit(sequential(), epochs=1, callbacks=[validation], compile_options=EAGER)
    other = copy.deepcopy(validation)
    assert other.last is None and validation.last is not None
    kept = ("x", "y", "attack", "every", "batch_size", "name")
    assert all(getattr(other, name) is getattr(validation, name) for name in kept)
    history = fit(sequential(), epochs=1, callbacks=[other], compile_options=EAGER)
    assert history["val_pgd"] == [validation.last]


def test_any_attack_with_a_radius_will_do():
    history = fit(
        sequential(),
        epochs=1,
        callbacks=[RobustValidation(X, Y, FGSM("l2", 0.1), name="a"), RobustValidation(X, Y)],
        compile_options=EAGER,
    )
    assert {"a", NAME} < set(history)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attack": "pgd"}, "attack='pgd'; expected an attack"),
        ({"attack": MinimalDistance("l2")}, "has no epsilon"),
        ({"every": 0}, "every=0; expected at least 1"),
        ({"every": 1.5}, "every=1.5; expected at least 1"),
        ({"x": X * 255}, "the units of epsilon"),
        ({"x": X[:0], "y": Y[:0]}, "at least one example"),
        ({"y": Y[:3]}, "3 labels for 24 images"),
    ],
)
def test_bad_input_is_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        RobustValidation(**{"x": X, "y": Y, "attack": ATTACK, **arguments})
