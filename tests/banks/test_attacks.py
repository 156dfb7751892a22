"""The bank that every registered attack passes, and what else its small network shows."""

import inspect
import itertools
import json

import keras
import numpy as np
import pytest
from attack_cases import JAX, NORMS, classes, fill, length, not_on_jax, other_value
from keras import layers, ops

from keras_pde import attacks, geometry, noise, registry
from keras_pde.attacks import FGSM, PGD, Attack, MinimalDistance, Target

# Radii at which the model of the bank keeps some images and loses some.
RADIUS = {"l1": 0.6, "l2": 0.25, "linf": 0.06}
COUNT = 24


@pytest.fixture(scope="module")
def model():
    """Convolution, BatchNorm with statistics of its own, dropout: what a pass could change."""
    model = keras.Sequential(
        [
            keras.Input((6, 5, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    fill(model.layers[0])
    fill(model.layers[-1], seed=1)
    rng = np.random.default_rng(2)
    gamma, beta, mean, variance = (rng.uniform(0.5, 1.5, 4) for _ in range(4))
    model.layers[1].set_weights([gamma, beta, mean, variance])
    # Every class gets its share of noise images.
    mean_logits = model.predict(uniform(100, 4), verbose=0).mean(axis=0)
    model.layers[-1].set_weights([model.layers[-1].get_weights()[0], -mean_logits])
    return model


def uniform(count, seed):
    return np.random.default_rng(seed).uniform(size=(count, 6, 5, 1)).astype("float32")


@pytest.fixture(scope="module")
def images():
    return uniform(COUNT, 3)


@pytest.fixture(scope="module")
def labels(model, images):
    """What the model says, and three that it gets wrong."""
    labels = classes(model, images)
    labels[:3] = (labels[:3] + 1) % 4
    return labels


@pytest.fixture(scope="module")
def target(model, images):
    return Target(model, images)


def build(entry, norm, **changes):
    """The registered example in another norm, with a radius that fools some."""
    arguments = {**entry.example, "norm": norm}
    if "epsilon" in inspect.signature(entry.component).parameters:
        arguments["epsilon"] = RADIUS[norm]
    return entry.component(**{**arguments, **changes})


BANK = [
    pytest.param((entry, norm), id=f"{entry.name}-{norm}")
    for entry in registry.entries("attack")
    for norm in (["l2"] if JAX else NORMS)
]


@pytest.fixture(scope="module", params=BANK)
def attack(request):
    return build(*request.param)


@pytest.fixture(scope="module")
def result(attack, target, images, labels):
    """Run once; the tests of the bank look at it."""
    return attack(target, images, labels, batch_size=64)


def assert_same(a, b):
    """Equal but for rounding, which moves an image that stands at the boundary."""
    np.testing.assert_array_equal(a.status, b.status)
    np.testing.assert_allclose(a.distance, b.distance, rtol=1e-4)
    np.testing.assert_allclose(a.adversarial, b.adversarial, atol=1e-4)


# The bank


def test_all_attacks_are_public_and_documented():
    for entry in registry.entries("attack"):
        assert entry.component.__name__ in attacks.__all__
        assert entry.component.__doc__
        assert issubclass(entry.component, Attack)


def test_stays_in_ball_and_box(attack, result, images):
    epsilon = np.inf if attack.minimal else attack.epsilon
    assert length(result.adversarial - images, attack.norm).max() <= epsilon + 1e-6
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1
    assert result.adversarial.dtype == "float32"


def test_status_tells_three_cases_apart(attack, result, images, model, labels):
    status, moved = result.status, length(result.adversarial - images, attack.norm) > 0
    wrong = classes(model, images) != labels
    np.testing.assert_array_equal(status == "misclassified", wrong)
    np.testing.assert_array_equal(status == "found", moved)
    np.testing.assert_array_equal(status == "not_found", ~result.success)
    assert set(result.distance[status == "misclassified"]) == {0.0}
    assert np.all(np.isinf(result.distance[status == "not_found"]))
    # A bank in which nothing, or everything, is found would prove little.
    assert np.sum(status == "found") >= 3
    assert isinstance(attack, MinimalDistance) or np.sum(status == "not_found") >= 2
    assert result.robust_accuracy == np.mean(status == "not_found")


def test_found_images_are_misclassified_by_an_independent_prediction(result, model, labels):
    found = result.status == "found"
    predicted = model.predict(result.adversarial, verbose=0).argmax(axis=1)
    assert np.all(predicted[found] != labels[found])


def test_distance_is_the_norm_of_the_difference(attack, result, images):
    found = result.status == "found"
    expected = length(result.adversarial - images, attack.norm)[found]
    np.testing.assert_allclose(result.distance[found], expected, rtol=1e-5)


def test_same_seed_same_result_and_the_model_is_left_alone(
    attack, result, target, model, images, labels
):
    before = [ops.convert_to_numpy(v).copy() for v in model.variables]
    again = attack(target, images, labels, batch_size=64)
    np.testing.assert_array_equal(again.adversarial, result.adversarial)
    np.testing.assert_array_equal(again.distance, result.distance)
    assert again.forward_passes == result.forward_passes
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_does_not_depend_on_batch_size(attack, result, target, images, labels, batch_size):
    """More images than a batch holds: those that are finished make room."""
    if batch_size == 1 and (JAX or attack.norm != "l2"):
        pytest.skip("slow, and every size compiles anew on JAX: one norm, on TensorFlow, will do")
    other = attack(target, images, labels, batch_size=batch_size)
    assert_same(other, result)
    assert other.forward_passes == pytest.approx(result.forward_passes, rel=0.02)


def test_does_not_depend_on_the_other_images(attack, result, target, images, labels):
    others = images.copy()
    others[1::2] = 1 - images[1::2]
    partly = attack(target, others, labels, batch_size=64)
    for name in ("status", "distance", "adversarial"):
        a, b = getattr(partly, name)[::2], getattr(result, name)[::2]
        if name == "status":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_early_exit_changes_the_work_not_the_success(attack, result, target, images, labels):
    full = attack(target, images, labels, batch_size=64, early_exit=False)
    np.testing.assert_array_equal(full.success, result.success)
    assert full.forward_passes >= result.forward_passes
    if attack.stops_when_fooled and getattr(attack, "steps", 1) > 1:
        assert full.forward_passes > result.forward_passes
    assert result.forward_passes > result.backward_passes > 0


def test_targeted(attack, result, target, model, images, labels):
    if attack.norm != "l2":
        pytest.skip("one norm will do: the targeted loss compiles anew")
    targets = (labels + 1) % 4
    found = attack(target, images, labels, targets=targets, batch_size=64)
    predicted = classes(model, found.adversarial)
    np.testing.assert_array_equal(found.success, predicted == targets)
    np.testing.assert_array_equal(
        found.status == "misclassified", classes(model, images) == targets
    )
    assert np.sum(found.status == "found") >= 1
    if attack.stops_when_fooled:
        assert found.success[3:].sum() <= result.success[3:].sum()


@pytest.mark.parametrize("entry", registry.entries("attack"), ids=lambda entry: entry.name)
def test_config_is_complete(entry):
    base = entry.component(**entry.example)
    assert type(base).from_config(base.get_config()) == base
    for name, value in base.get_config().items():
        changed = entry.component(**{**entry.example, name: other_value(name, value)})
        assert changed.get_config()[name] == other_value(name, value) != value
        assert changed != base
        # Through JSON, as in a report: tuples come back as lists.
        copy = type(base).from_config(json.loads(json.dumps(changed.get_config())))
        assert copy == changed and hash(copy) == hash(changed)
    assert entry.component.__name__ in repr(base) and base.label


def test_arguments_of_numpy_and_norm_objects_are_stored_as_plain_values():
    pgd = PGD(geometry.get("l2"), np.float32(0.5), steps=np.int64(3), bounds=[0, 1])
    assert pgd == PGD("l2", 0.5, steps=3)
    assert json.loads(json.dumps(pgd.get_config()))["norm"] == "l2"
    found = MinimalDistance(geometry.get("l1"), steps=np.int32(4))
    assert found == MinimalDistance("l1", steps=4) and json.dumps(found.get_config())


# Stronger settings are not weaker


@not_on_jax
@pytest.mark.parametrize("norm", NORMS)
def test_more_of_anything_is_not_less_successful(target, images, labels, norm):
    def fooled(**changes):
        arguments = {"epsilon": RADIUS[norm], "steps": 20, "loss": "ce", **changes}
        return PGD(norm, **arguments)(target, images, labels, batch_size=64).success

    few, many = fooled(), fooled(restarts=3)
    assert np.all(many >= few), "the first restart is the same run"
    shares = [np.mean(fooled(epsilon=RADIUS[norm] * factor)) for factor in (0, 0.5, 1, 2, 4)]
    assert shares == sorted(shares) and shares[0] == 3 / COUNT < shares[-1]
    # From the clean image with a fixed step, more steps go on where fewer stopped.
    runs = [fooled(random_start=False, step_size=RADIUS[norm] / 5, steps=n) for n in (1, 4, 20)]
    for fewer, more in itertools.pairwise(runs):
        assert np.all(more >= fewer)


def test_noise_differs_between_restarts_seeds_and_images():
    x = ops.convert_to_tensor(np.full((4, 6), 0.5, "float32"))

    def start(seed, restart):
        pgd = PGD("linf", 0.1, seed=seed)
        return ops.convert_to_numpy(pgd.start(x, noise.keys(seed, restart, np.arange(4)))["images"])

    starts = np.concatenate([start(0, 0), start(0, 1), start(1, 0)])
    assert len(np.unique(starts[:, 0])) == 12


def test_fgsm_is_one_step_of_pgd(target, images, labels):
    for norm in NORMS[-1:] if JAX else NORMS:
        one = PGD(norm, RADIUS[norm], steps=1, random_start=False)(target, images, labels)
        fast = FGSM(norm, RADIUS[norm])(target, images, labels)
        np.testing.assert_array_equal(fast.adversarial, one.adversarial)
        np.testing.assert_array_equal(fast.status, one.status)


# Work, progress and input


def test_nothing_is_done_when_all_is_misclassified_or_epsilon_is_zero(target, model, images):
    wrong = (classes(model, images) + 1) % 4
    ticks = []
    found = PGD("linf", 0.1)(target, images, wrong, progress=lambda n, of: ticks.append((n, of)))
    assert (found.forward_passes, found.backward_passes) == (COUNT, 0)
    assert found.robust_accuracy == 0 and set(found.distance) == {0.0}
    assert all(total > 0 for _, total in ticks)
    still = PGD("linf", 0.0, steps=2)(target, images, classes(model, images))
    assert still.robust_accuracy == 1
    np.testing.assert_array_equal(still.adversarial, images)


@not_on_jax
def test_progress_ends_with_all(target, images, labels):
    ticks = []
    PGD("linf", 0.06, steps=12)(
        target, images, labels, batch_size=8, progress=lambda n, of: ticks.append((n, of))
    )
    assert ticks[-1] == (COUNT - 3, COUNT - 3)
    assert ticks == sorted(ticks) and len(ticks) > 3


def test_all_kinds_of_labels_and_images(target, images, labels):
    attack = FGSM("linf", 0.06)
    plain = attack(target, images, labels)
    one_hot = np.eye(4)[labels]
    for y in (
        one_hot,
        labels[:, None],
        labels.astype("float32"),
        labels.astype("uint8"),
        [*labels],
    ):
        np.testing.assert_array_equal(attack(target, images, y).adversarial, plain.adversarial)
    for x in (images.tolist(), ops.convert_to_tensor(images), images.astype("float64")):
        np.testing.assert_array_equal(attack(target, x, labels).adversarial, plain.adversarial)
