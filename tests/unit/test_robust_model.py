"""RobustModel behaves as the plain model where nothing was asked for, and its terms add up."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from robust_model_cases import (
    CLASSES,
    COUNT,
    EAGER,
    ONE_HOT,
    RNG,
    SHAPE,
    WEIGHT,
    Subclassed,
    WithoutTraining,
    X,
    Y,
    assert_same_weights,
    built,
    cross_entropy,
    dataset,
    fit,
    functional,
    momentum,
    resume,
    robust,
    seeded,
    sequential,
    tensorflow_only,
)

from keras_pde.objectives import (
    Adversarial,
    GradientPenalty,
    MaxGradientPenalty,
    Penalty,
    Plain,
    Tulip,
)


def assert_equals_plain(make, eager=False, **options):
    """A fit with `Plain()` gives the bits of the plain model's own."""
    if eager:
        options = {"epochs": 1, "compile_options": EAGER, **options}
    plain, wrapped = make(), make()
    expected = fit(plain, **options)
    wrapper = robust(Plain(), wrapped)
    received = fit(wrapper, **options)
    assert set(received) == {*expected, "plain"}
    for name, values in expected.items():
        assert received[name] == values, name
    assert_same_weights(wrapped, plain)
    assert wrapper.model is wrapped
    return received


@pytest.mark.parametrize(
    "options",
    [
        {"sample_weight": WEIGHT, "validation_data": (X[:9], Y[:9])},
        {"class_weight": {0: 0.2, 1: 1.0, 2: 3.0}, "validation_split": 0.25, "eager": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_plain_objective_equals_plain_fit(options):
    history = assert_equals_plain(functional, **options)
    assert {"val_loss", "val_accuracy"} < set(history)
    assert not {name for name in history if name.startswith("val_") and "plain" in name}


@pytest.mark.parametrize(
    "make",
    [
        lambda: sequential(),
        lambda: sequential(built=False),
        lambda: built(Subclassed),
        lambda: seeded(Subclassed),
        lambda: built(WithoutTraining),
        lambda: seeded(WithoutTraining),
    ],
    ids=["sequential", "unbuilt", "subclassed", "unbuilt", "without training", "unbuilt"],
)
def test_every_kind_of_model(make):
    assert_equals_plain(make)


@tensorflow_only
def test_datasets():
    assert_equals_plain(sequential, x=dataset(), y=None, validation_data=dataset())


@tensorflow_only
def test_a_dataset_equals_arrays():
    objective = Adversarial("l2", 0.1) + GradientPenalty("l2", 0.1)
    one, other = robust(objective, sequential()), robust(objective, sequential())
    assert fit(one) == fit(other, dataset(), None)
    assert_same_weights(one, other)


def squared(y_true, y_pred):
    return ops.mean(ops.square(y_true - ops.softmax(y_pred)), axis=-1)


class Cubic(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.sum(ops.abs(y_true - y_pred) ** 3, axis=-1)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), ONE_HOT),
        (keras.losses.CategoricalCrossentropy(from_logits=True), 0.7 * ONE_HOT + 0.1),
        ("mean_squared_error", ONE_HOT),
        (keras.losses.KLDivergence(), ONE_HOT),
        (squared, ONE_HOT),
        (Cubic(), ONE_HOT),
        (keras.losses.Huber(reduction="sum"), ONE_HOT),
        (cross_entropy(ignore_class=2), Y),
    ],
    ids=["smoothed", "soft labels", "mse", "kl", "function", "subclass", "sum", "ignore class"],
)
def test_any_loss(loss, y):
    assert_equals_plain(sequential, eager=True, y=y, loss=loss)


@pytest.mark.parametrize("shape", [(COUNT,), (COUNT, 1)])
def test_one_output(shape):
    """Labels of shape (batch,) and (batch, 1) mean the same, also for crafting."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    y = (Y == 1).astype("float32").reshape(shape)
    assert_equals_plain(lambda: sequential(units=1), eager=True, y=y, loss=loss)
    model = robust(Adversarial("l2", 0.1), sequential(units=1))
    model.compile("sgd", loss)
    (z,) = ops.convert_to_numpy(model(X)).T
    w = ops.convert_to_numpy(model.model.layers[-1].kernel)[:, 0]
    # J2 of a linear model: the margin shrinks by epsilon |w|, up to the box.
    sign = 2 * y.reshape(-1) - 1
    reached = np.log1p(np.exp(-sign * z + 0.1 * np.linalg.norm(w))).mean()
    inside = Adversarial("l2", 0.1, bounds=None)
    model = robust(inside, model.model)
    model.compile(keras.optimizers.SGD(0.0), loss)
    logs = model.train_on_batch(X, y, return_dict=True)
    np.testing.assert_allclose(logs["adversarial"], reached, rtol=1e-5)


def test_dense_prediction():
    """One output a pixel: an example's loss is the mean over its pixels."""

    def make():
        keras.utils.set_random_seed(1)
        return keras.Sequential([keras.Input(SHAPE), layers.Conv2D(CLASSES, 1)])

    y = RNG.integers(0, CLASSES, size=(COUNT, 4, 4))
    assert_equals_plain(make, eager=True, y=y)


def test_one_hot_equals_integer_labels():
    objective = Adversarial("linf", 0.1) + GradientPenalty("l1", 0.1)
    sparse, one_hot = robust(objective, sequential()), robust(objective, sequential())
    a = fit(sparse, compile_options=EAGER)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    b = fit(one_hot, y=ONE_HOT, loss=loss, compile_options=EAGER)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    assert_same_weights(sparse, one_hot, 1e-5)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean"])
def test_terms_add_up_to_the_loss(reduction):
    objective = Adversarial("l2", 0.1) + GradientPenalty("l2", 0.1) + MaxGradientPenalty("l2", 0.1)
    model = robust(objective)
    model.compile("sgd", cross_entropy(reduction=reduction), loss_weights=2.0, **EAGER)
    regulariser = float(sum(model.model.losses))
    logs = model.train_on_batch(X, Y, return_dict=True)
    terms = [logs.pop(name) for name in objective.names]
    assert min(terms) > 0
    np.testing.assert_allclose(logs["loss"], sum(terms) + regulariser, rtol=1e-6)


def test_a_penalty_of_ones_own():
    class Constant(Penalty):
        name = "constant"

        def value(self, step):
            return ops.mean(step.weighted(0.0 * step.main.losses + 2.0))

    model = robust(Adversarial("l2", 0.1) + Constant(), sequential())
    model.compile("sgd", cross_entropy(), **EAGER)
    logs = model.train_on_batch(X, Y, return_dict=True)
    np.testing.assert_allclose(logs["constant"], 2.0)
    np.testing.assert_allclose(logs["loss"], logs["adversarial"] + 2.0, rtol=1e-6)


class TestEvaluation:
    @pytest.fixture(scope="class")
    def pair(self):
        """A wrapper after a fit, and the plain model with its weights."""
        wrapper = robust(Tulip(0.1, 0.1))
        fit(wrapper)
        plain = functional()
        plain.set_weights(wrapper.model.get_weights())
        plain.compile(momentum(), cross_entropy(), metrics=["accuracy"])
        return wrapper, plain

    def test_evaluate(self, pair):
        wrapper, plain = pair
        for options in ({"return_dict": True}, {}, {"sample_weight": WEIGHT}):
            received = wrapper.evaluate(X, Y, verbose=0, **options)
            assert received == plain.evaluate(X, Y, verbose=0, **options)
        received = wrapper.test_on_batch(X, Y, return_dict=True)
        assert received == plain.test_on_batch(X, Y, return_dict=True)

    def test_predict(self, pair):
        for received, expected in (
            [m.predict(X, verbose=0) for m in pair],
            [ops.convert_to_numpy(m(X)) for m in pair],
        ):
            np.testing.assert_array_equal(received, expected)

    def test_fit_shows_terms_after_an_evaluation(self, pair):
        wrapper, _ = pair
        history = resume(wrapper, validation_data=(X, Y))
        terms = {"adversarial", "max_gradient_penalty"}
        assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy", *terms}

    def test_shapes_and_weights_are_the_models(self, pair):
        wrapper, plain = pair
        assert wrapper.compute_output_shape((2, *SHAPE)) == (2, CLASSES)
        assert wrapper.count_params() == plain.count_params()
        assert [v.path for v in wrapper.weights] == [v.path for v in wrapper.model.weights]


def test_fit_takes_positional_arguments_as_keras_does():
    model = robust(Plain(), sequential())
    model.compile("sgd", cross_entropy())
    assert len(model.fit(X, Y, 8, 2, 0).history["loss"]) == 2
