"""What attacks take, and what they refuse and why: images, labels, models, arguments."""

import keras
import numpy as np
import pytest
from attack_cases import classes, fill, functional, kernel_of, linear, vectors
from keras import layers, ops

from keras_pde import registry
from keras_pde.attacks import FGSM, PGD, MinimalDistance, Target


def test_unsigned_bytes_with_bounds_of_their_own():
    model = functional(lambda z, x: z)
    x = (255 * vectors()).astype("uint8")
    found = FGSM("linf", 40, bounds=(0, 255))(model, x, classes(model, x.astype("float32")))
    assert found.adversarial.dtype == "float32" and found.success.any()
    assert found.adversarial.max() <= 255


def test_one_class():
    """All labels equal."""
    model, x = functional(lambda z, x: z), vectors()
    for label in range(3):
        found = FGSM("l2", 0.5)(model, x, np.full(8, label))
        assert found.success.shape == (8,)


# Bad input


X = vectors()
Y = np.zeros(8, "int32")
PLAIN = FGSM("linf", 0.1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y - 1, "labels from -1 to -1; expected 0 to 2"),
        (X, Y + 3, "labels from 3 to 3; expected 0 to 2.*start at 1"),
        (X, Y + 0.5, "fractions"),
        (X, Y * np.nan, "fractions or NaN"),
        (X, Y[:5], "5 labels for 8 images"),
        (X, np.full((8, 3), 1 / 3), "not one-hot.*argmax"),
        (X, np.ones((8, 4)), r"labels of shape \(8, 4\)"),
        (X, np.array(["cat"] * 8), "labels of type"),
        (np.where(X > 0.9, np.nan, X), Y, "NaN"),
        (255 * X, Y, "divide by 255"),
        ((255 * X).astype("uint8"), Y, "divide by 255"),
        (4 * X - 2, Y, "put the normalisation into the model"),
        (X[:0], Y[:0], "at least one"),
        (X[0], Y[:1], r"images of shape \(6,\).*expects \(None, 6\).*batch axis"),
        (X[:, :5], Y, r"images of shape \(8, 5\).*expects \(None, 6\)"),
        (np.array(["a", "b"]), Y, "array of numbers"),
        (0.5, Y, "at least one"),
    ],
)
def test_bad_images_and_labels(x, y, message):
    model = functional(lambda z, x: z)
    with pytest.raises(ValueError, match=f"Received.*{message}"):
        PLAIN(model, x, y)


def test_bad_targets_and_bad_target():
    model = functional(lambda z, x: z)
    with pytest.raises(ValueError, match="equal the true label"):
        PLAIN(model, X, Y, targets=Y)
    with pytest.raises(ValueError, match="labels from 3"):
        PLAIN(model, X, Y, targets=Y + 3)
    target = Target(model, X)
    with pytest.raises(ValueError, match=r"shape \(8, 5\); this Target was made for \(None, 6\)"):
        PLAIN(target, X[:, :5], Y)


def nan_model():
    model = functional(lambda z, x: z)
    model.layers[-1].set_weights([np.full((6, 3), np.nan), np.zeros(3)])
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: functional(lambda z, x: [z, z]), "outputs are a list.*output="),
        (lambda: functional(lambda z, x: {"a": z, "b": z}), "outputs are a dict.*output="),
        (lambda: functional(lambda z, x: layers.Reshape((3, 1))(z)), r"\(None, 3, 1\).*success="),
        (nan_model, "returns NaN"),
        (lambda: lambda x: x, "type function; expected a `keras.Model`"),
        (lambda: layers.Dense(3), "type Dense; expected a `keras.Model`"),
        (lambda: None, "type NoneType"),
    ],
)
def test_bad_models(make, message):
    with pytest.raises(ValueError, match=f"Received.*{message}"):
        PLAIN(make(), X, Y)


STEPS = {
    "round": lambda x: ops.round(4.0 * x) / 4.0,
    "cast": lambda x: ops.cast(ops.cast(8.0 * x, "int32"), "float32"),
    "compare": lambda x: ops.where(x > 0.5, 1.0, 0.0),
    "argmax": lambda x: ops.one_hot(ops.argmax(x, axis=-1), 6),
    "stop_gradient": lambda x: ops.stop_gradient(x),
}


class Stepped(keras.Model):
    """Something without a derivative, then a dense layer."""

    def __init__(self, step, activation=None):
        super().__init__()
        self.step = STEPS[step]
        self.dense = layers.Dense(3, activation)
        self.dense.build((None, 6))
        fill(self.dense)

    def call(self, x):  # takes no `training`, as models may
        return self.dense(self.step(x))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_model_without_input_gradient_is_refused(step, activation):
    with pytest.raises(ValueError, match=r"gradient of exactly zero.*not differentiable \(round"):
        PLAIN(Stepped(step, activation), X, Y)
    with pytest.raises(ValueError, match="not differentiable"):
        MinimalDistance("l2")(Stepped(step, activation), X[:1], Y[:1])


def test_a_saturated_model_is_not_refused():
    steep = linear(1e4 * kernel_of(3, 6))
    soft = keras.Sequential([steep, layers.Softmax()])
    y = classes(steep, X)
    outputs = soft.predict(X, verbose=0)
    assert np.minimum(outputs, 1 - outputs).max() < 1e-6  # some processors round 1 down
    for model in (steep, soft):
        assert FGSM("linf", 0.1)(model, X, y).success.shape == (8,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD("l3", 0.1), r"norm 'l3'; expected one of \['l1', 'l2', 'linf'\]"),
        (lambda: PGD("Linf", 0.1), "Did you mean 'linf'"),
        (lambda: PGD("l2", 0.1, loss="dl"), "attack loss 'dl'.*Did you mean 'dlr'"),
        (lambda: PGD("l2", -0.1), "epsilon=-0.1"),
        (lambda: PGD("l2", float("nan")), "epsilon=nan"),
        (lambda: PGD("l2", float("inf")), "epsilon=inf"),
        (lambda: PGD("l2", 0.1, steps=0), "steps=0; expected an integer, at least 1"),
        (lambda: PGD("l2", 0.1, steps=2.5), "steps=2.5"),
        (lambda: PGD("l2", 0.1, step_size=0), "step_size=0"),
        (lambda: PGD("l2", 0.1, restarts=0), "restarts=0"),
        (lambda: PGD("l2", 0.1, restarts=2, random_start=False), "all runs would be equal"),
        (lambda: PGD("l2", 0.1, bounds=(1, 0)), r"bounds=\(1, 0\).*low < high"),
        (lambda: PGD("l2", 0.1, bounds=(0, 1, 2)), r"bounds=\(0, 1, 2\)"),
        (lambda: FGSM("l2", -1), "epsilon=-1"),
        (lambda: MinimalDistance("l7"), "norm 'l7'"),
        (lambda: MinimalDistance("l2", steps=0), "steps=0"),
        (lambda: MinimalDistance("l2", bisections=-1), "bisections=-1"),
        (lambda: MinimalDistance("l2", tolerance=1), "tolerance=1"),
        (lambda: MinimalDistance("l2", initial_radius=0), "initial_radius=0"),
        (lambda: MinimalDistance("l2", loss="cee"), "Did you mean 'ce'"),
        (lambda: MinimalDistance("l2", bounds=(2, 2)), "low < high"),
        (lambda: registry.get("attack", "pdg"), "attack 'pdg'.*Did you mean 'pgd'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=f"Received.*{message}"):
        make()
