"""What RobustModel refuses, and why: models, losses, images and labels."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from robust_model_cases import (
    CLASSES,
    EAGER,
    ONE_HOT,
    SHAPE,
    Subclassed,
    X,
    Y,
    arrays,
    built,
    cross_entropy,
    dataset,
    functional,
    robust,
    sequential,
)

import keras_pde as kp
from keras_pde.objectives import (
    Adversarial,
    GradientPenalty,
    MaxGradientPenalty,
    Plain,
    Tikhonov,
)


def multi_output():
    inputs = keras.Input(SHAPE)
    x = layers.Flatten()(inputs)
    return keras.Model(inputs, [layers.Dense(CLASSES)(x), layers.Dense(CLASSES)(x)])


def nested(head):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, sequential(head)(inputs))


def softmax_layer():
    return keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(3), layers.Softmax()]
    )


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (lambda: functional("softmax"), cross_entropy(), "from_logits=True .*'softmax'"),
        (lambda: sequential("sigmoid"), cross_entropy(), "from_logits=True .*'sigmoid'"),
        (softmax_layer, cross_entropy(), "Remove the activation"),
        (lambda: nested("softmax"), cross_entropy(), "Remove the activation"),
        (functional, "sparse_categorical_crossentropy", "from_logits=False .*linear"),
        (sequential, keras.losses.sparse_categorical_crossentropy, "from_logits=False .*linear"),
        (sequential, keras.losses.CategoricalCrossentropy(), "logits, not probabilities"),
        (sequential, None, "expected one loss"),
        (sequential, ["mse", "mse"], "expected one loss"),
        (sequential, {"a": "mse"}, "expected one loss"),
    ],
)
def test_compile_refuses(model, loss, message):
    wrapper = robust(Plain(), model())
    with pytest.raises(ValueError, match=message):
        wrapper.compile("sgd", loss)


def own_crossentropy(y, z):
    return keras.losses.sparse_categorical_crossentropy(y, z, from_logits=True)


class OwnCrossentropy(keras.losses.Loss):
    def call(self, y, z):
        return own_crossentropy(y, z)


def test_a_head_or_loss_that_cannot_be_told_is_not_refused():
    for loss in (cross_entropy(), "sparse_categorical_crossentropy"):
        robust(Plain(), built(Subclassed)).compile("sgd", loss)
    for loss in (own_crossentropy, OwnCrossentropy()):
        robust(Plain(), sequential()).compile("sgd", loss)


@pytest.mark.parametrize("name", ["plain", "gradient_penalty", "images_outside_bounds"])
def test_names_of_terms_are_taken(name):
    wrapper = robust(Plain() + GradientPenalty("l2", 0.1), sequential())
    metric = keras.metrics.SparseCategoricalAccuracy(name=name)
    with pytest.raises(ValueError, match=f"a metric named '{name}'"):
        wrapper.compile("sgd", cross_entropy(), metrics=["accuracy", metric])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: x, Plain()), "expected a `keras.Model`"),
        ((sequential(), "tulip"), "expected a term"),
        ((multi_output(), Plain()), "one output"),
    ],
)
def test_constructor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        kp.RobustModel(*arguments)


def spoiled(x, value):
    x = x.copy()
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (255 * X, Y, "divide by 255"),
        (2 * X - 1, Y, r"expected \[0, 1\]"),
        (spoiled(X, np.nan), Y, "NaN"),
        (spoiled(X, np.inf), Y, "infinite"),
        (X[:0], Y[:0], "at least one example"),
        (X, Y + 1, "Do the classes start at 1"),
        (X, Y - 1, "from -1"),
        (X, Y + 0.5, "fractions"),
        (X, ONE_HOT, "CategoricalCrossentropy for one-hot"),
        (X, Y[:5], "5 labels for 24 images"),
        ({"image": X}, Y, "x as a dict"),
        ([X, X], Y, "x as a list"),
        (X, {"label": Y}, "y as a dict"),
        (X, None, "y as None"),
    ],
)
def test_fit_refuses(x, y, message):
    wrapper = robust(Adversarial("l2", 0.1), sequential())
    before = arrays(wrapper)
    wrapper.compile("sgd", cross_entropy(), **EAGER)
    with pytest.raises(ValueError, match=message):
        wrapper.fit(x, y, verbose=0)
    for a, b in zip(before, arrays(wrapper), strict=True):
        np.testing.assert_array_equal(a, b)


# What is in units of the images: a perturbation, and the gradient that a penalty measures.
IN_UNITS = {"adversarial": Adversarial("l2", 0.1), "penalty": Tikhonov("l2", 0.1)}


@pytest.mark.parametrize("objective", IN_UNITS.values(), ids=IN_UNITS)
@pytest.mark.parametrize("x", [255 * X, spoiled(X, np.nan)], ids=["scale", "nan"])
def test_a_dataset_on_another_scale_is_refused_and_changes_nothing(objective, x):
    wrapper = robust(objective, sequential())
    wrapper.compile("sgd", cross_entropy())
    before = arrays(wrapper)
    with pytest.raises(ValueError, match=r"^Received (images outside|x in|x with NaN)"):
        wrapper.fit(dataset(x), verbose=0, shuffle=False)
    for a, b in zip(before, arrays(wrapper), strict=True):
        np.testing.assert_array_equal(a, b)
    history = wrapper.fit(dataset(X), epochs=2, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all() and "outside" not in history


@pytest.mark.parametrize("settings", [{}, {"jit_compile": True}, EAGER], ids=["", "jit", "eager"])
def test_a_later_batch_on_another_scale_ends_the_epoch(settings):
    wrapper = robust(Adversarial("l2", 0.1), sequential())
    wrapper.compile("sgd", cross_entropy(), **settings)
    late = X.copy()
    late[20:] *= 255
    checkpoints = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: pytest.fail("too late"))
    with pytest.raises(ValueError, match=r"^Received images outside .*divide by 255"):
        wrapper.fit(
            dataset(late),
            validation_data=(X, Y),
            callbacks=[checkpoints],
            verbose=0,
            shuffle=False,
        )


@pytest.mark.parametrize("objective", IN_UNITS.values(), ids=IN_UNITS)
def test_single_batches_on_another_scale_are_refused(objective):
    wrapper = robust(objective, sequential())
    wrapper.compile("sgd", cross_entropy())
    with pytest.raises(ValueError, match=r"^Received x in .*divide by 255"):
        wrapper.train_on_batch(255 * X, Y)
    assert np.isfinite(wrapper.train_on_batch(X, Y)[0])


def test_a_plain_loss_has_no_units():
    wrapper = robust(Plain(), sequential())
    wrapper.compile("sgd", cross_entropy())
    wrapper.fit(dataset(255 * X), verbose=0, shuffle=False)
    penalised = robust(Tikhonov("l2", 0.1, bounds=None), sequential())
    penalised.compile("sgd", cross_entropy())
    penalised.fit(dataset(255 * X), verbose=0, shuffle=False)


@pytest.mark.parametrize(
    ("bounds", "images", "message"),
    [
        ((0, 255), 255 * X + 1e-4, None),  # a rounding of this range
        ((0, 5e-6), 2e-5 * X, r"images outside|expected \[0, 5e-06\]"),
        (None, X * np.nan, "with NaN or infinite"),
        (([0.0] * 3, [1.0] * 3), X, "bounds that broadcast to one example"),
        ((np.zeros((8, 4, 4, 1)), np.ones((8, 4, 4, 1))), X, "bounds that broadcast to one"),
    ],
)
def test_batches_are_judged_as_arrays_are(bounds, images, message):
    """Of a dataset, in the step."""
    wrapper = robust(Adversarial("l2", 1e-6, bounds=bounds), sequential())
    wrapper.compile("sgd", cross_entropy(), **EAGER)
    with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
        wrapper.fit(dataset(images.astype("float32")), shuffle=False, verbose=0)


def test_the_range_of_an_objective_is_that_of_its_terms():
    penalty = GradientPenalty("l2", 0.1, bounds=(0, 255))
    assert (Plain() + penalty).image_range == (0.0, 255.0)
    assert (Adversarial("l2", 0.1) + penalty).image_range == (0.0, 1.0)
    assert (Adversarial("l2", 0.1, bounds=None) + penalty).image_range is None
    assert Plain().__add__(GradientPenalty("l2", 0.1, bounds=None)).image_range is None
    with pytest.raises(ValueError, match=r"penalties for images in \[0, 255\] and in \[0, 1\]"):
        penalty + MaxGradientPenalty("l2", 0.1)


def test_integer_images_and_other_bounds():
    images = np.round(255 * X).astype("uint8")
    wrapper = robust(Adversarial("l2", 10.0, bounds=(0, 255)), sequential())
    wrapper.compile("sgd", cross_entropy(), **EAGER)
    assert np.isfinite(wrapper.fit(images, Y, verbose=0).history["loss"][0])


def test_a_loss_of_one_number_is_refused():
    wrapper = robust(Plain(), sequential())
    wrapper.compile("sgd", lambda y, z: ops.mean(ops.square(y - z)))
    with pytest.raises(ValueError, match="do not average over the batch"):
        wrapper.fit(X, ONE_HOT, verbose=0)


def test_two_data_terms_are_refused():
    with pytest.raises(ValueError, match="one data term plus penalties"):
        robust(Tikhonov("l2", 0.1) + Plain() + Adversarial("l2", 0.1))


# Models without an input gradient


class Rounded(layers.Layer):
    def call(self, x):
        return ops.round(4 * x)


def text_model():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(9, 4, name="tokens")(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def rounding():
    inputs = keras.Input(SHAPE)
    x = layers.Flatten()(layers.Conv2D(2, 3)(inputs))
    x = keras.Sequential([keras.Input((8,)), layers.Dense(4), Rounded(name="steps")])(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


TOKENS = np.random.default_rng(0).integers(0, 9, (len(X), 5))


@pytest.mark.parametrize("kind", ["arrays", "dataset", "train_on_batch"])
@pytest.mark.parametrize(
    ("make", "x", "layer"), [(text_model, TOKENS, "tokens"), (rounding, X, "steps")]
)
@pytest.mark.parametrize(
    "objective", [Adversarial("l2", 0.1, bounds=None), GradientPenalty("l2", 0.1, bounds=None)]
)
def test_what_has_no_input_gradient_is_not_trained_plainly(make, x, layer, kind, objective):
    wrapper = robust(objective, make())
    wrapper.compile("sgd", cross_entropy(), **EAGER)
    before = arrays(wrapper.model)
    with pytest.raises(ValueError, match=rf"ends at the layer '{layer}' \((Embedding|Rounded)\)"):
        if kind == "train_on_batch":
            wrapper.train_on_batch(x, Y)
        else:
            data = (x, Y) if kind == "arrays" else (dataset(x, Y),)
            wrapper.fit(*data, shuffle=False, verbose=0)
    for old, new in zip(before, arrays(wrapper.model), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("end", [layers.UnitNormalization(), layers.Rescaling(1e4)])
def test_constant_sums_and_saturated_probabilities_are_no_lack_of_a_gradient(end):
    """Of squares, or of probabilities, that are all 0 or 1 before the first step."""
    inputs = keras.Input(SHAPE)
    x = end(layers.Dense(CLASSES)(layers.Flatten()(inputs)))
    x = layers.Softmax()(x) if isinstance(end, layers.Rescaling) else x
    wrapper = robust(Adversarial("l2", 0.1), keras.Model(inputs, x))
    wrapper.compile("sgd", "mse", **EAGER)
    wrapper.fit(X, ONE_HOT, verbose=0)


def test_layers_without_a_gradient_in_training_alone_are_seen():
    inputs = keras.Input(SHAPE)
    x = layers.RandomPosterization(3, value_range=(0, 1), name="few")(inputs)
    model = keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))
    wrapper = robust(GradientPenalty("l2", 0.1), model)
    wrapper.compile("sgd", cross_entropy(), **EAGER)
    with pytest.raises(ValueError, match=r"ends at the layer 'few'"):
        wrapper.fit(X, Y, verbose=0)


def test_without_an_input_gradient_plain_training_is_fine():
    wrapper = robust(Plain(), text_model())
    wrapper.compile("sgd", cross_entropy(), **EAGER)
    assert wrapper.fit(TOKENS, Y, verbose=0).history["loss"][0] > 0


def test_an_attack_names_the_layer_too():
    with pytest.raises(ValueError, match=r"ends at the layer 'steps' \(Rounded\)"):
        kp.attacks.PGD("l2", 0.1)(rounding(), X, Y)
