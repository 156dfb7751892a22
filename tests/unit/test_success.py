"""Rules of success: binary classifiers, several labels, positions, regressions, functions."""

import keras
import numpy as np
import pytest
from attack_cases import fill
from keras import layers, ops
from scipy.optimize import linprog

import keras_pde as kp
from keras_pde.attacks import FGSM, PGD, MinimalDistance, Target

RNG = np.random.default_rng(0)
COUNT = 12
Y = np.zeros(COUNT)
X = RNG.uniform(0.3, 0.7, size=(COUNT, 6)).astype("float32")


def model_of(head=None, units=1, shape=(6,), reshape=None, kernel=None):
    """Linear, with an activation at its end."""
    dense = layers.Dense(units)
    inputs = keras.Input(shape)
    z = dense(inputs)
    if reshape:
        z = layers.Reshape(reshape)(z)
    model = keras.Model(inputs, layers.Activation(head)(z) if head else z)
    fill(dense)
    if kernel is not None:
        dense.set_weights([kernel, np.zeros(units)])
    return model


def outputs(model, x):
    return ops.convert_to_numpy(model(x))


# Binary classifiers


@pytest.mark.parametrize("head", [None, "sigmoid"])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_one_logit_or_sigmoid(head, norm):
    """The distance of a linear classifier: |w x + b| over the dual norm of w."""
    model = model_of(head)
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    z = X @ kernel[:, 0] + bias
    dual = {"l1": np.inf, "l2": 2, "linf": 1}[norm]
    expected = np.abs(z) / np.linalg.norm(kernel[:, 0], dual)
    y = (z > 0).astype(int)
    y[0] = 1 - y[0]
    unlimited = MinimalDistance(norm, steps=60, tolerance=1e-3, bounds=None)
    found = unlimited(model, X, y[:, None])
    assert found.distance[0] == 0
    np.testing.assert_allclose(found.distance[1:], expected[1:], rtol=0.05)
    assert np.all(found.distance[1:] > expected[1:] * (1 - 1e-3))
    flipped = outputs(model, found.adversarial)[:, 0] > (0.5 if head else 0)
    np.testing.assert_array_equal(flipped[1:], y[1:] == 0)


def test_report_of_a_binary_classifier():
    model = model_of("sigmoid", kernel=np.array([[1.0], [-1.0]] * 3))
    y = (outputs(model, X)[:, 0] > 0.5).astype(int)
    report = kp.evaluate(model, X, y, epsilons=[0.02, 0.2])
    assert report.clean_accuracy == 1 > report.robust_accuracy(0.02) > report.robust_accuracy(0.2)
    (alarm,) = report.alarms
    assert "log(p / (1 - p))" in alarm
    with pytest.raises(ValueError, match="expected 0 to 1"):
        kp.evaluate(model, X, y + 1, epsilons=[0.1])


# Several labels


def test_any_label_flips():
    """Independent labels of a linear model: the nearest of the boundaries."""
    model = model_of(units=3)
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    z = X @ kernel + bias
    y = (z > 0).astype(int)
    expected = (np.abs(z) / np.linalg.norm(kernel, axis=0)).min(axis=1)
    attack = MinimalDistance("l2", steps=60, loss="margin", tolerance=1e-3, bounds=None)
    found = attack(model, X, y, success="any label flips")
    assert np.all(found.distance > expected * (1 - 1e-3))
    steepest = np.abs(z).argmin(axis=1) == (np.abs(z) / np.linalg.norm(kernel, axis=0)).argmin(1)
    assert steepest.sum() > 5  # the label that an attack pursues is the nearest
    np.testing.assert_allclose(found.distance[steepest], expected[steepest], rtol=0.02)
    squashed = model_of("sigmoid", units=3)
    squashed.set_weights(model.get_weights())
    again = attack(squashed, X, y, success="any label flips")
    np.testing.assert_allclose(again.distance, found.distance, rtol=0.02)
    report = kp.evaluate(model, X, y, norm="l2", epsilons=[0.3], success="any label flips")
    assert report.success == "any label flips" and report.robust_accuracy(0.3) < 1
    assert "any label flips" in report.table()


PIXELS = RNG.uniform(size=(COUNT, 4, 4, 1)).astype("float32")


def segmentation(head=None, classes=3):
    inputs = keras.Input((4, 4, 1))
    conv = layers.Conv2D(classes, 3, padding="same")
    z = conv(inputs)
    model = keras.Model(inputs, layers.Activation(head)(z) if head else z)
    fill(conv)
    return model


def test_accuracy_below_a_share_of_pixels():
    model, softmax = segmentation(), segmentation("softmax")
    labels = outputs(model, PIXELS).argmax(axis=-1)
    attack = PGD("linf", 0.05, steps=10)
    shares = []
    for network in (model, softmax):
        found = attack(network, PIXELS, labels, success="accuracy below 0.8")
        now = outputs(network, found.adversarial).argmax(axis=-1)
        shares.append((now == labels).reshape(COUNT, -1).mean(axis=1))
        np.testing.assert_array_equal(found.success, shares[-1] < 0.8)
    np.testing.assert_allclose(*shares, atol=1e-6)
    assert found.success.mean() > 0
    easier = attack(model, PIXELS, labels, success="accuracy below 0.95")
    assert np.all(easier.success >= found.success) and easier.success.sum() > found.success.sum()
    one = attack(model, PIXELS, labels, success="any label flips")
    assert one.success.sum() >= easier.success.sum()


def test_pixels_of_one_sigmoid():
    model = segmentation("sigmoid", 1)
    labels = outputs(model, PIXELS)[..., 0] > 0.5
    for y in (labels, labels[..., None].astype("float32")):
        found = FGSM("linf", 0.1)(model, PIXELS, y, success="accuracy below 0.9")
        wrong = (outputs(model, found.adversarial)[..., 0] > 0.5) != labels
        np.testing.assert_array_equal(found.success, wrong.reshape(COUNT, -1).mean(axis=1) > 0.1)
    assert found.success.any()


# Regressions


@pytest.mark.parametrize("units", [1, 2])
def test_error_above_a_length(units):
    """Of a linear map in a box: a linear program for each output and sign."""
    model = model_of(units=units)
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    y = (X @ kernel + bias + RNG.normal(0, 0.02, (COUNT, units))).astype("float32")
    epsilon, length = 0.1, 0.12
    worst = np.zeros(COUNT)
    for i in range(COUNT):
        box = [(max(v - epsilon, 0), min(v + epsilon, 1)) for v in X[i].astype("float64")]
        for k in range(units):
            for sign in (1, -1):
                found = linprog(-sign * kernel[:, k], bounds=box)
                error = abs(-sign * found.fun * sign * sign + bias[k] - y[i, k])
                worst[i] = max(worst[i], error)
    rule = f"error above {length}"
    found = PGD("linf", epsilon, steps=40, loss="margin", restarts=10)(model, X, y, success=rule)
    np.testing.assert_array_equal(found.success, worst > length)
    flat = y[:, 0] if units == 1 else y
    report = kp.evaluate(model, X, flat, epsilons=[epsilon], success=rule)
    assert report.robust_accuracy(epsilon) >= np.mean(worst <= length)
    labels = [run.attack for run in report.runs]
    assert len(set(labels)) == len(labels), "with one loss, no attack comes twice"


def test_functions():
    """Of numbers, which are maximised, or of bools."""
    model = model_of(units=2)
    y = outputs(model, X)

    def off(labels, z):
        return ops.max(ops.abs(labels - z), axis=-1) - 0.2

    def is_off(labels, z):
        return ops.max(ops.abs(labels - z), axis=-1) > 0.2

    attack = PGD("linf", 0.15, steps=20, loss="margin")
    named = attack(model, X, y, success="error above 0.2")
    found = attack(model, X, y, success=off)
    np.testing.assert_array_equal(found.success, named.success)
    found = attack(model, X, y, success=is_off)  # by the sum of errors, not the largest
    assert np.all(found.success <= named.success) and found.success.any()
    report = kp.evaluate(model, X, y, epsilons=[0.1], success=off)
    assert report.success == "off" and report.clean_accuracy == 1


# Refusals


@pytest.mark.parametrize(
    ("settings", "y", "message"),
    [
        ({"success": "any label"}, np.zeros((COUNT, 2)), "'any label flips'.*'error above 0.1'"),
        ({"success": "error above -1"}, np.zeros((COUNT, 2)), "error above"),
        ({"success": "error above x"}, np.zeros((COUNT, 2)), "error above"),
        ({"success": "any label flips"}, np.full((COUNT, 2), 0.5), "not all integers from 0 to 1"),
        ({"success": "any label flips"}, np.zeros((COUNT, 3)), r"shape \(12, 3\)"),
        ({"success": "error above 1"}, np.zeros((COUNT, 3)), r"shape \(12, 3\)"),
        ({"success": "error above 1"}, np.full((COUNT, 2), np.nan), "NaN"),
        ({"success": lambda y, z: ops.sum(z)}, np.zeros((COUNT, 2)), "number or bool for each"),
        ({"success": lambda y, z: z[:, 0] > y[:, 0]}, np.zeros((COUNT, 1)), "no error to maximise"),
        (
            {"success": "any label flips", "targets": Y},
            np.ones((COUNT, 2)),
            "targets",
        ),
        ({}, np.full((COUNT, 2), 1), "not one-hot.*any label flips"),
    ],
)
def test_refused(settings, y, message):
    with pytest.raises(ValueError, match=message):
        PGD("linf", 0.1, loss="margin")(model_of(units=2), X, y, **settings)


def test_losses_belong_to_the_rule():
    with pytest.raises(ValueError, match=r"loss .* for success='error above 1'.*'ce'"):
        PGD("linf", 0.1)(model_of(), X, X[:, :1], success="error above 1")
    softmax = model_of("softmax", units=3)
    with pytest.raises(ValueError, match=r"softmax.*any label flips"):
        Target(softmax, X, success="any label flips")


# Whose outputs are probabilities, where the last layer does not say it


class Hidden(keras.Model):
    def __init__(self, head, weight, bias):
        super().__init__()
        self.dense = layers.Dense(1, head)
        self(np.zeros((1, 1), "float32"))
        self.dense.set_weights([np.array([[weight]]), np.array([bias])])

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (("sigmoid", 20.0, -10.0), [*np.linspace(0.95, 0.8, 20), *np.linspace(0, 0.4, 20)]),
        ((None, 1.0, -0.5), [*np.linspace(0.6, 0.9, 8), *np.linspace(0, 0.4, 8)]),
        (("sigmoid", 2.0, -1.0), [0.2]),
        ((None, 2.0, -0.2), [0.3]),
    ],
)
def test_heads_are_told_beyond_the_first_images(model, x):
    """Sorted by class, in [0, 1] by chance, or a single example."""
    head, x = model[0], np.array(x, "float32")[:, None]
    network = Hidden(*model)
    y = (outputs(network, x)[:, 0] > (0.5 if head else 0)).astype(int)
    assert Target(network, x).probabilities == head
    assert FGSM("linf", 1e-4)(network, x, y).robust_accuracy == 1


def test_the_head_of_one_output_of_several():
    inputs = keras.Input((6,))
    linear, squashed = layers.Dense(1, name="linear")(inputs), layers.Dense(1, "sigmoid")(inputs)
    model = keras.Model(inputs, {"linear": linear, "squashed": squashed})
    heads = {name: Target(model, X, output=name).probabilities for name in ("linear", "squashed")}
    assert heads == {"linear": None, "squashed": "sigmoid"}


def test_one_hot_labels_of_positions_are_classes():
    model = segmentation("softmax")
    labels = outputs(model, PIXELS).argmax(axis=-1)
    rule = {"success": "accuracy below 0.9"}
    expected = FGSM("linf", 0.02)(model, PIXELS, labels, **rule)
    for y in (np.eye(3)[labels], labels[..., None]):
        found = FGSM("linf", 0.02)(model, PIXELS, y, **rule)
        np.testing.assert_array_equal(found.status, expected.status)
    assert (expected.distance > 0).all()


def test_lambdas_are_not_compared():
    model, y = model_of(units=2), RNG.normal(size=(COUNT, 2))
    reports = [
        kp.evaluate(
            model, X, y, epsilons=[0.1], success=lambda a, b, s=s: ops.max(abs(a - b), -1) - s
        )
        for s in (0.1, 5.0)
    ]
    with pytest.raises(ValueError, match="lambdas"):
        reports[0].compare(reports[1])
