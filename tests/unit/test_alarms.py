"""Every alarm of an evaluation, tripped and quiet."""

import keras
import numpy as np
import pytest
from evaluation_cases import (
    JAX,
    SIZE,
    classes,
    honest_images,
    honest_labels,
    honest_report,
    honest_target,
    linear,
)
from keras import layers, ops

import keras_pde as kp
from keras_pde.attacks import FGSM, PGD, IteratedAttack, MinimalDistance
from keras_pde.evaluation import Report, alarms


@pytest.fixture(scope="module")
def x():
    return honest_images()


@pytest.fixture(scope="module")
def y():
    return honest_labels()


@pytest.fixture(scope="module")
def target():
    return honest_target()


@pytest.fixture(scope="module")
def report():
    return honest_report()


def test_an_honest_model_raises_no_alarm(report):
    assert report.alarms == ()


@pytest.mark.skipif(JAX, reason="one norm will do on JAX")
@pytest.mark.parametrize("norm", ["linf", pytest.param("l1", marks=pytest.mark.slow)])
def test_an_honest_model_raises_no_alarm_in_other_norms(target, x, y, norm):
    epsilons = {"linf": [0.02, 0.1], "l1": [0.1, 0.4]}[norm]
    assert kp.evaluate(target, x, y, norm=norm, epsilons=epsilons).alarms == ()


def alarms_of(model, x, y, **settings):
    settings = {"norm": "l2", "epsilons": 0.2, "attacks": [FGSM("l2", 0)], **settings}
    return kp.evaluate(model, x, y, **settings).alarms


class Noisy(keras.Model):
    """Noise at inference."""

    def __init__(self):
        super().__init__()
        self.inner = linear()
        self.generator = keras.random.SeedGenerator(0)

    def call(self, x):
        return self.inner(x + keras.random.normal(ops.shape(x), stddev=0.1, seed=self.generator))


def test_alarm_random_outputs(x, y):
    assert any("outputs are random" in alarm for alarm in alarms_of(Noisy(), x, y))


@pytest.mark.parametrize(("head", "formula"), [("softmax", "log p,"), ("sigmoid", "log(p / (1")])
def test_alarm_probabilities(x, y, head, formula):
    (found,) = alarms_of(linear(head=layers.Activation(head)), x, y)
    assert f"returns probabilities: attacked through {formula}" in found


def test_alarm_zero_gradients(x, y):
    right = classes(linear(), x)
    huge = alarms_of(linear(scale=1e6), x, right)
    assert any("vanishes at 100 %" in alarm for alarm in huge)
    saturated = alarms_of(linear(scale=1e6, head=layers.Softmax()), x, right)
    assert any("vanishes at 100 %" in alarm for alarm in saturated)
    assert any("returns probabilities" in alarm for alarm in saturated)


def test_alarm_gradients_that_are_not_finite(x):
    """A root has slope infinity at black pixels."""
    inputs = keras.Input((SIZE,))
    base = linear()
    model = keras.Model(inputs, base(ops.sqrt(inputs)))
    black = x.copy()
    black[:, 0] = 0
    found = alarms_of(model, black, classes(model, black))
    assert any("NaN or infinite" in alarm for alarm in found)
    assert not any("NaN or infinite" in alarm for alarm in alarms_of(model, x, classes(model, x)))


def run_of(accuracy, epsilon=0.2, kind=PGD, **config):
    return kind("l2", epsilon, **config), accuracy


def test_alarm_accuracy_grows_with_epsilon():
    up = [run_of(0.50, 0.1, steps=10), run_of(0.60, 0.2, steps=10)]
    assert "more accuracy at epsilon 0.2 (60.0 %)" in alarms.grows_with_epsilon(up)
    assert alarms.grows_with_epsilon(up[::-1])
    quiet = [
        [run_of(0.60, 0.1, steps=10), run_of(0.50, 0.2, steps=10)],
        [run_of(0.50, 0.1, steps=10), run_of(0.51, 0.2, steps=10)],  # an image more or less
        [run_of(0.50, 0.1, FGSM), run_of(0.60, 0.2, FGSM)],  # overshoots
        [run_of(0.50, 0.1, steps=1), run_of(0.60, 0.2, steps=1)],  # overshoots
        [run_of(0.50, 0.1, steps=10), run_of(0.60, 0.2, steps=20)],  # another attack
        [run_of(0.50, 0.1, steps=10, seed=0), run_of(0.60, 0.1, steps=10, seed=1)],
        [(MinimalDistance("l2"), 0.50), (MinimalDistance("l2"), 0.60)],
    ]
    for runs in quiet:
        assert alarms.grows_with_epsilon(runs) is None


class Better(IteratedAttack):
    """Another attack than PGD, with steps."""

    steps = 10


def test_alarm_fewer_steps_are_stronger():
    for few in (run_of(0.50, steps=10), run_of(0.50, kind=FGSM)):
        assert "less accuracy (50.0 %)" in alarms.falls_with_fewer_steps(
            [few, run_of(0.60, steps=20)]
        )
    quiet = [
        [run_of(0.60, steps=10), run_of(0.50, steps=20)],
        [run_of(0.50, steps=10), run_of(0.51, steps=20)],
        [run_of(0.50, 0.3, steps=10), run_of(0.60, 0.2, steps=20)],  # another epsilon
        [run_of(0.50, steps=10, loss="dlr"), run_of(0.60, steps=20)],  # another loss
        [run_of(0.50, steps=10, restarts=9), run_of(0.60, steps=20)],  # more runs
        [run_of(0.50, kind=Better), run_of(0.60, steps=20)],  # another attack
        [(MinimalDistance("l2", steps=10), 0.50), (MinimalDistance("l2", steps=20), 0.60)],
    ]
    for runs in quiet:
        assert alarms.falls_with_fewer_steps(runs) is None


class Masked(keras.Model):
    """The logits of `linear` with gradients of another size, or sign: away from the boundary."""

    def __init__(self, slope):
        super().__init__()
        self.inner, self.slope = linear(), slope

    def call(self, x):
        z = self.inner(x)
        return ops.stop_gradient(z) + self.slope * (z - ops.stop_gradient(z))


def test_alarm_survives_everything(x):
    model = Masked(slope=-1.0)
    found = alarms_of(model, x, classes(model, x))
    assert any("where every image can be reached" in alarm for alarm in found)
    assert alarms_of(Masked(slope=1.0), x, classes(model, x)) == ()


class Turning(keras.Model):
    """Gradients are right at the clean images, which lie on a grid, and wrong everywhere else."""

    def __init__(self):
        super().__init__()
        self.inner = linear()

    def call(self, x):
        z = self.inner(x)
        on_grid = ops.all(ops.equal(64.0 * x, ops.round(64.0 * x)), axis=-1, keepdims=True)
        slope = ops.where(on_grid, 1.0, -1.0)
        return ops.stop_gradient(z) + slope * (z - ops.stop_gradient(z))


def test_masked_gradients_trip_alarms_the_whole_way(x):
    grid = np.round(64 * x) / 64
    model = Turning()
    y = classes(model, grid)
    attacks = [FGSM("l2", 0), PGD("l2", 0, steps=5, random_start=False)]
    found = alarms_of(model, grid, y, attacks=attacks, epsilons=[0.05, 0.3])
    assert any("FGSM-ce leaves less accuracy" in alarm for alarm in found)
    honest = alarms_of(linear(), grid, y, attacks=attacks, epsilons=[0.05, 0.3])
    assert honest == ()


def test_alarm_foreign_bounds(x):
    base = linear()
    inputs = keras.Input((SIZE,))
    model = keras.Model(inputs, base(inputs / 255.0))
    y = classes(model, 255 * x)
    found = alarms_of(
        model, 255 * x, y, bounds=(0, 255), attacks=[FGSM("l2", 0, bounds=(0, 255))], epsilons=51
    )
    assert found == ()  # of examples that are no images: their units are their own
    images = keras.Sequential([keras.Input((SIZE, 1, 1)), layers.Flatten(), model])
    report = kp.evaluate(
        images,
        255 * x[..., None, None],
        y,
        norm="l2",
        bounds=(0, 255),
        attacks=[FGSM("l2", 0, bounds=(0, 255))],
        epsilons=51,
    )
    (note,) = report.notes
    assert report.alarms == () and "images lie in [0, 255]" in note
    assert f"NOTE: {note}" in report.table()


def test_a_constant_model_is_noted(x):
    """It is robust, and no attack is to blame."""
    model = linear()
    kernel, bias = model.get_weights()
    model.set_weights([0 * kernel, np.arange(len(bias))])
    y = classes(model, x)
    report = kp.evaluate(model, x, y, epsilons=0.2, attacks=[FGSM("linf")])
    assert not any("can be reached" in alarm for alarm in report.alarms)
    assert any("does not look at them" in note for note in report.notes)


def test_accuracy_under_noise(x, y):
    """Of a linear model, against noise of NumPy's."""
    model = linear()
    amounts = [("gaussian", 0.5), ("gaussian", 1e-6), ("uniform", 0.5), ("salt_and_pepper", 0.3)]
    x, y = np.repeat(x, 50, axis=0), np.repeat(y, 50)
    settings = {"attacks": [FGSM("l2", bounds=None)], "epsilons": 0.1, "norm": "l2"}
    free = kp.evaluate(model, x, y, bounds=None, noise=amounts[:2], **settings)
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    noisy = x + np.random.default_rng(0).normal(0, 0.5, (20, *x.shape))
    expected = np.mean((noisy @ kernel + bias).argmax(axis=-1) == y)
    assert abs(free.noise[0].accuracy - expected) < 4 * np.sqrt(0.25 / len(x))
    assert free.noise[1].accuracy == free.clean_accuracy
    settings["attacks"] = [FGSM("l2")]
    boxed = [kp.evaluate(model, x, y, noise=amounts, batch_size=n, **settings) for n in (64, 33)]
    assert boxed[0].noise == boxed[1].noise and "salt_and_pepper" in boxed[0].table()
    assert kp.Report.from_json(boxed[0].to_json()) == boxed[0]
    for noise, message in (
        ([("gauss", 0.1)], "kind of noise"),
        (["gaussian"], "pairs of a kind"),
        ([("uniform", -1)], "above 0"),
        ([("salt_and_pepper", 2)], "at most 1"),
    ):
        with pytest.raises(ValueError, match=message):
            kp.evaluate(model, x, y, noise=noise, **settings)
    with pytest.raises(ValueError, match="without bounds"):
        kp.evaluate(model, x, y, bounds=None, noise=amounts[3:], epsilons=0.1)


def test_alarms_are_in_the_table(x, y):
    report = kp.evaluate(
        linear(head=layers.Softmax()), x, y, norm="l2", epsilons=0.2, attacks=[FGSM("l2", 0)]
    )
    assert "ALARM: the model returns probabilities" in report.table()


class Bare(IteratedAttack):
    """An attack with a config as small as may be; it does nothing."""

    loss, label, steps, minimal = "ce", "bare", 3, True

    def __init__(self, norm, bounds=(0.0, 1.0)):
        super().__init__(norm, bounds=bounds)

    def start(self, x, keys):
        return {"images": x}

    def advance(self, state, evaluated, x):
        return {"done": ops.ones_like(state["fooled"])}


def test_attacks_of_users_need_no_more_than_norm_and_bounds(target, x, y):
    attacks = (attack for attack in (Bare("l2"), FGSM("l2", 0)))
    report = kp.evaluate(target, x, y, norm="l2", epsilons=0.2, attacks=attacks)
    assert [run.attack for run in report.runs] == ["bare", "FGSM-ce"]
    assert Report.from_json(report.to_json()) == report
