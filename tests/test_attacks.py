"""The bank that every registered attack passes, then closed forms, the engine, and bad input."""

import inspect
import itertools
import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_pde import attacks, geometry, registry
from keras_pde.attacks import FGSM, PGD, Attack, MinimalDistance, Target, losses
from keras_pde.autodiff import value_and_grad

JAX = keras.backend.backend() == "jax"
NORMS = geometry.names()
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}
DUAL = {"l1": np.inf, "l2": 2, "linf": 1}
# Radii at which the model of the bank keeps some images and loses some.
RADIUS = {"l1": 0.6, "l2": 0.25, "linf": 0.06}
COUNT = 24


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


not_on_jax = pytest.mark.skipif(JAX, reason="the same code on JAX, where it compiles for long")


def length(delta, norm):
    """Length of each example in float64."""
    flat = np.asarray(delta, "float64").reshape(len(delta), -1)
    return np.linalg.norm(flat, ORDER[norm], axis=1)


def linear(kernel, bias=None):
    """z = W^T x + b."""
    kernel = np.asarray(kernel, keras.config.floatx())
    bias = np.zeros(kernel.shape[1]) if bias is None else np.asarray(bias)
    model = keras.Sequential([keras.Input(kernel.shape[:1]), layers.Dense(kernel.shape[1])])
    model.layers[0].set_weights([kernel, bias])
    return model


def functional(head, shape=(6,), classes=3):
    """A model whose output is `head(z, x)`, z being the logits of a dense layer."""
    inputs = keras.Input(shape)
    dense = layers.Dense(classes)
    model = keras.Model(inputs, head(dense(inputs), inputs))
    fill(dense)
    return model


def fill(layer, seed=0):
    """Weights that are the same on every backend."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.get_weights()])


def vectors(count=8, size=6, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, size)).astype("float32")


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


def classes(model, images):
    """Predicted classes by a plain call, a road that attacks do not use."""
    return ops.convert_to_numpy(model(images, training=False)).argmax(axis=1)


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
    epsilon = getattr(attack, "epsilon", np.inf)
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


def other_value(name, value):
    """A value of the same kind as the given one, and not the same."""
    if name == "norm":
        return next(norm for norm in NORMS if norm != value)
    if name == "loss":
        return next(loss for loss in losses.names() if loss != value)
    if name == "bounds":
        return (-1.0, 2.5)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 3
    return 0.125 if value is None else value / 2 + 0.125


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
    from keras_pde import noise

    def start(seed, restart):
        pgd = PGD("linf", 0.1, seed=seed)
        return ops.convert_to_numpy(pgd.start(x, noise.keys(seed, restart, np.arange(4)))["images"])

    starts = np.concatenate([start(0, 0), start(0, 1), start(1, 0)])
    assert len(np.unique(starts[:, 0])) == 12


# Closed forms: linear models


def equidistant(kernel, norm, distance, count=12):
    """Images of a linear model without bias, and labels, all at that distance of the boundary."""
    x = np.random.default_rng(0).normal(size=(count, len(kernel)))
    z = x @ kernel
    y = z.argmax(axis=1)
    x *= (distance / boundary(kernel, norm, x, y))[:, None]
    return x.astype("float32"), y


def boundary(kernel, norm, x, y):
    """Analytic distance: min over k of (z_y - z_k) / |w_k - w_y|_dual."""
    z = x @ kernel
    distances = np.full(z.shape, np.inf)
    for i, label in enumerate(y):
        for k in range(z.shape[1]):
            if k != label:
                w = kernel[:, k] - kernel[:, label]
                distances[i, k] = (z[i, label] - z[i, k]) / np.linalg.norm(w, DUAL[norm])
    return distances.min(axis=1)


def kernel_of(classes, size=7):
    return np.random.default_rng(1).normal(size=(size, classes))


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_reaches_the_worst_case_of_a_linear_model(norm):
    kernel = kernel_of(2)
    x, y = equidistant(kernel, norm, 1.0)
    target = Target(linear(kernel), x)
    for random_start in (False, True):
        for epsilon, share in ((0.999, 0.0), (1.001, 1.0)):
            # From a random point the path slides along the sphere and only nears the corner.
            if random_start and epsilon > 1:
                epsilon = {"linf": 1.001, "l2": 1.1, "l1": 1.02}[norm]
            pgd = PGD(norm, epsilon, steps=40, random_start=random_start, bounds=None)
            assert np.mean(pgd(target, x, y).success) == share
    # Beyond the boundary the margin itself: margin(x) + epsilon |w|_dual.
    pgd = PGD(norm, 2.0, steps=40, random_start=False, bounds=None)
    found = pgd(target, x, y, early_exit=False)
    slope = np.linalg.norm(kernel[:, 0] - kernel[:, 1], DUAL[norm])
    margins = margin_of(kernel, x, y) + 2.0 * slope
    np.testing.assert_allclose(margin_of(kernel, found.adversarial, y), margins, rtol=1e-4)


def margin_of(kernel, x, y):
    z = np.asarray(x, "float64") @ kernel
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, y] = -np.inf
    return others.max(axis=1) - z[rows, y]


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_pgd_reaches_the_worst_case_in_the_box(norm):
    """The optimum: every pixel as far as it may (linf), the steepest pixels first (l1)."""
    kernel = kernel_of(2, size=9)
    x, y = vectors(12, 9, seed=4), np.zeros(12, "int32")
    # A bias that leaves some images correct, and all of them wrong within the ball.
    bias = np.array([-margin_of(kernel, x, y).min(), 0.0])
    z = x @ kernel + bias
    x, y = x[z.argmax(axis=1) == 0], y[z.argmax(axis=1) == 0]
    assert len(x) >= 3
    w = kernel[:, 1] - kernel[:, 0]
    epsilon = {"linf": 0.6, "l1": 3.0}[norm]
    room = np.where(w > 0, 1 - x, x).astype("float64")
    if norm == "linf":
        best = np.minimum(room, epsilon) @ np.abs(w)
    else:
        best, left = np.zeros(len(x)), np.full(len(x), epsilon)
        for i in np.argsort(-np.abs(w)):
            used = np.minimum(room[:, i], left)
            best, left = best + used * abs(w[i]), left - used
    pgd = PGD(norm, epsilon, steps=100, random_start=False)
    found = pgd(linear(kernel, bias), x, y, early_exit=False)
    gained = (found.adversarial.astype("float64") - x) @ w
    assert np.all(found.status == "found")
    assert np.all(gained <= best * (1 + 1e-6))
    np.testing.assert_allclose(gained, best, rtol=1e-5 if norm == "linf" else 0.02)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [10] if JAX else [2, 10])
def test_minimal_distance_of_a_linear_model(norm, classes):
    # With unit kernels all boundaries are the same slope apart: the nearest is the runner-up's.
    kernel = kernel_of(2) if classes == 2 else np.eye(10)
    x, y = equidistant(kernel, norm, 0.5)
    x *= np.linspace(0.2, 5, len(x), dtype="float32")[:, None]
    attack = MinimalDistance(norm, tolerance=1e-4, loss="margin", bounds=None)
    found = attack(linear(kernel), x, y)
    expected = boundary(kernel, norm, x, y)
    np.testing.assert_allclose(found.distance, expected, rtol=1e-3)
    assert np.all(found.distance >= expected * (1 - 1e-5))


@not_on_jax
@pytest.mark.parametrize("norm", [slow("l1"), "l2", slow("linf")])
def test_minimal_distance_is_an_upper_bound_with_many_classes(norm):
    kernel = kernel_of(10)
    x, y = equidistant(kernel, norm, 1.0, count=40)
    attack = MinimalDistance(norm, tolerance=1e-3, loss="margin", bounds=None)
    found = attack(linear(kernel), x, y)
    assert np.all(found.distance >= 1 - 1e-4)
    assert np.mean(found.distance < 1.01) > 0.5, "mostly the nearest class"
    assert np.median(found.distance) < 1.05


def test_fgsm_is_one_step_of_pgd(target, images, labels):
    for norm in NORMS[-1:] if JAX else NORMS:
        one = PGD(norm, RADIUS[norm], steps=1, random_start=False)(target, images, labels)
        fast = FGSM(norm, RADIUS[norm])(target, images, labels)
        np.testing.assert_array_equal(fast.adversarial, one.adversarial)
        np.testing.assert_array_equal(fast.status, one.status)


def test_fgsm_moves_every_pixel_by_epsilon():
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "linf", 0.5)
    found = FGSM("linf", 0.75, bounds=None)(linear(kernel), x, y)
    w = kernel[:, 1] - kernel[:, 0]
    expected = x + 0.75 * np.sign(w) * np.where(y == 0, 1, -1)[:, None]
    np.testing.assert_allclose(found.adversarial, expected, atol=1e-6)


def test_unreachable_boundary_is_infinitely_far():
    x = vectors()
    y = np.zeros(8, "int32")
    attack = MinimalDistance("l2", steps=2)
    flat = linear(np.zeros((6, 2)), [1.0, 0.0])
    far = linear(np.stack([np.zeros(6), np.full(6, 1e-3)], axis=1), [1.0, 0.0])
    for model in (flat, far):
        found = attack(model, x, y)
        assert np.all(np.isinf(found.distance)) and set(found.status) == {"not_found"}
        np.testing.assert_array_equal(found.adversarial, x)


@not_on_jax
def test_minimal_distance_settings():
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 0.5)
    target = Target(linear(kernel), x)

    def run(**settings):
        return MinimalDistance("l2", **{"loss": "margin", "bounds": None, **settings})(target, x, y)

    np.testing.assert_allclose(run(tolerance=0.0, bisections=20).distance, 0.5, rtol=1e-5)
    coarse = run(bisections=0, initial_radius=0.42)
    # 0.42 fails; 0.63 succeeds at its fifth step of 0.105, which is the first beyond 0.5.
    np.testing.assert_allclose(coarse.distance, 0.525, rtol=1e-5)
    far = run(initial_radius=1e-3)
    np.testing.assert_allclose(far.distance, 0.5, rtol=0.011)
    fine = run(tolerance=1e-3)
    assert fine.forward_passes > run(tolerance=0.1).forward_passes
    # More than 20 enlargements by 1.5 are not tried.
    assert set(run(initial_radius=1e-5).status) == {"not_found"}


@not_on_jax
def test_paper2018_preset():
    attack = MinimalDistance.paper2018("linf")
    assert attack == MinimalDistance("linf", steps=10, bisections=20, tolerance=0.0, loss="ce")
    kernel = kernel_of(2, size=12)
    x, y = equidistant(kernel, "linf", 0.01)
    x = x - x.min() + 0.1
    # The shift would change the class: the bias takes it back.
    bias = -(x - equidistant(kernel, "linf", 0.01)[0])[0] @ kernel
    inside = np.all((x > 0.02) & (x < 0.98), axis=1)
    assert inside.sum() >= 4
    found = attack(linear(kernel, bias), x[inside], y[inside])
    np.testing.assert_allclose(found.distance, 0.01, rtol=1e-3)


@not_on_jax
def test_a_success_below_an_earlier_failure_reopens_the_bracket():
    """A pit in front of the boundary: trials of 0.45 fall in, so that 0.3 failed bounds nothing."""
    attack = MinimalDistance("l2", tolerance=0.0, bisections=3)
    x = ops.zeros((1, 1))
    state = {
        **attack.start(x, None),
        "images": ops.full((1, 1), 0.3),
        "best": x,
        "fooled": ops.zeros((1,), dtype="bool"),
        "k": ops.full((1,), 4, dtype="int32"),
        "radius": ops.full((1,), 0.45),
        "low": ops.full((1,), 0.35),
    }
    evaluated = attacks.attack.Evaluated(ops.ones((1, 1)), ops.ones((1,), dtype="bool"))
    new = attack.advance(state, evaluated, x)
    assert float(new["high"][0]) == pytest.approx(0.3)
    assert float(new["low"][0]) == 0.0
    assert float(new["radius"][0]) == pytest.approx(0.15)
    assert not bool(new["done"][0])


# Losses


Z = np.array([[2.0, 1.0, -1.0, 0.5], [0.1, 3.0, 0.2, 2.5], [-1.0, 4.0, 1.5, 1.0]], "float32")
LABELS = np.array([0, 3, 2], "int32")  # right, second, second but one


def test_losses_are_their_formulas():
    ce, margin, dlr = (
        ops.convert_to_numpy(losses.get(name)(ops.convert_to_tensor(Z), LABELS))
        for name in ("ce", "margin", "dlr")
    )
    z = Z.astype("float64")
    expected = np.log(np.exp(z).sum(axis=1)) - z[np.arange(3), LABELS]
    np.testing.assert_allclose(ce, expected, rtol=1e-6)
    np.testing.assert_allclose(margin, [-1.0, 0.5, 2.5], rtol=1e-6)
    np.testing.assert_allclose(dlr, [-1.0 / 1.5, 0.5 / 2.8, 2.5 / 3.0], rtol=1e-6)


def test_dlr_does_not_see_scale_and_shift():
    for scale, shift in ((10.0, 0.0), (0.01, 3.0), (1e4, -7.0)):
        z = ops.convert_to_tensor(scale * Z + shift)
        dlr = ops.convert_to_numpy(losses.dlr(z, LABELS))
        plain = ops.convert_to_numpy(losses.dlr(ops.convert_to_tensor(Z), LABELS))
        np.testing.assert_allclose(dlr, plain, rtol=1e-4)


def test_dlr_and_margin_of_two_classes_are_the_margin():
    z = ops.convert_to_tensor(Z[:, :2])
    y = np.array([0, 1, 0], "int32")
    np.testing.assert_allclose(ops.convert_to_numpy(losses.dlr(z, y)), [-1.0, -2.9, 5.0], rtol=1e-6)


def test_targeted_losses_have_the_other_sign():
    z = ops.convert_to_tensor(Z)
    for name in losses.names():
        plain, towards = (losses.get(name, targeted)(z, LABELS) for targeted in (False, True))
        np.testing.assert_array_equal(
            ops.convert_to_numpy(towards), -ops.convert_to_numpy(plain), err_msg=name
        )


@pytest.mark.parametrize("name", losses.names())
def test_gradients_of_losses_against_finite_differences(name):
    """Misclassified rows too, where libraries have got DLR wrong."""
    loss = losses.get(name)
    gradient = value_and_grad(lambda z: ops.sum(loss(z, LABELS)), ops.convert_to_tensor(Z))[1]
    step, numeric = 2.0**-7, np.zeros(Z.shape)
    for index in np.ndindex(*Z.shape):
        up, down = Z.copy(), Z.copy()
        up[index] += step
        down[index] -= step
        values = [ops.convert_to_numpy(loss(ops.convert_to_tensor(z), LABELS)) for z in (up, down)]
        numeric[index] = (values[0].astype("float64").sum() - values[1].sum()) / (2 * step)
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), numeric, atol=2e-4)


def test_unknown_loss_names_the_nearest():
    with pytest.raises(ValueError, match=r"'margn'.*Did you mean 'margin'"):
        losses.get("margn")


# The engine


def count_traces(target):
    """How often the model is traced from now on: compiled programs do not run this."""
    calls, logits = [], target.logits

    def counted(*arguments):
        calls.append(1)
        return logits(*arguments)

    target.logits = counted
    return calls


def test_one_target_serves_many_attacks_without_new_traces():
    model, x = linear(kernel_of(3)), vectors(8, 7)
    y = classes(model, x)
    shared = Target(model, x)
    variants = [
        PGD("l2", 0.3, steps=5, seed=1),
        PGD("l2", 0.1, steps=9, seed=2, step_size=0.02),
        PGD("l2", 0.9, steps=3, restarts=2, random_start=True),
        FGSM("l2", 0.2),
    ]
    results = [variants[0](shared, x, y)]
    traces = count_traces(shared)
    results += [attack(shared, x, y) for attack in variants[1:]]
    assert len(traces) == 0
    for attack, result in list(zip(variants, results, strict=True))[-2 if JAX else 0 :]:
        fresh = attack(model, x, y)
        np.testing.assert_array_equal(fresh.adversarial, result.adversarial)
        np.testing.assert_array_equal(fresh.status, result.status)


@not_on_jax
def test_one_target_keeps_other_bounds_losses_and_norms_apart():
    model, x = linear(kernel_of(3)), 0.5 + vectors(8, 7) / 10
    y = classes(model, x)
    shared = Target(model, x)
    for bounds in ((0.4, 0.7), None):
        attack = PGD("linf", 0.3, steps=5, bounds=bounds, random_start=False)
        a, b = attack(shared, x, y), attack(model, x, y)
        np.testing.assert_array_equal(a.adversarial, b.adversarial)
    for attack in (PGD("linf", 0.3, steps=5, loss="dlr"), PGD("l1", 0.3, steps=5)):
        np.testing.assert_array_equal(
            attack(shared, x, y).adversarial, attack(model, x, y).adversarial
        )


def test_new_weights_are_seen():
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 1.0)
    model = linear(kernel)
    target = Target(model, x)
    attack = PGD("l2", 1.5, bounds=None, random_start=False)
    assert attack(target, x, y).success.all()
    model.layers[0].set_weights([-kernel, np.zeros(2)])
    assert set(attack(target, x, y).status) == {"misclassified"}
    model.layers[0].set_weights([kernel, np.where([True, False], 100.0, 0.0)])
    zeros = np.zeros(len(x), "int32")
    assert set(attack(target, x, zeros).status) == {"not_found"}


def test_passes_are_counted():
    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 1.0, count=10)
    y[0] = 1 - y[0]  # wrong from the start: one prediction, nothing else
    target = Target(linear(kernel), x)
    attack = PGD("l2", 3.0, steps=20, step_size=0.3, random_start=False, bounds=None)
    # Steps of 0.3 are across at the fourth: images 0 to 4 are evaluated, the rest saved.
    short = attack(target, x, y, batch_size=4)
    assert (short.forward_passes, short.backward_passes) == (10 + 9 * 5 + 9, 9 * 5)
    full = attack(target, x, y, batch_size=4, early_exit=False)
    assert (full.forward_passes, full.backward_passes) == (10 + 9 * 20 + 9, 9 * 20)
    np.testing.assert_allclose(short.distance[1:], 1.2, rtol=1e-5)
    assert short.seconds > 0


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


class Liar(Attack):
    """Claims that every image is fooled, by an image that is not one."""

    program = (*Attack.program, "lie")
    loss = "margin"
    label = "liar"

    def __init__(self, norm, lie, epsilon=0.1, bounds=(0.0, 1.0)):
        self.norm, self.lie, self.epsilon, self.bounds = norm, lie, epsilon, bounds

    def start(self, x, keys):
        return {"images": x}

    def advance(self, state, evaluated, x):
        yes = ops.ones_like(state["fooled"])
        if self.lie == "far":
            best = x + 50.0
        elif self.lie == "nan":
            best = x * float("nan")
        elif self.lie == "one nan":
            index = ops.arange(x.shape[1])
            best = ops.where(index == 0, x * float("nan"), x + 0.01)
        elif self.lie == "infinite":
            best = x + float("inf")
        else:
            best = x
        return {"images": best, "best": best, "fooled": yes, "done": yes}


@pytest.mark.parametrize(
    ("norm", "lie"),
    [(norm, lie) for norm in NORMS for lie in ("far", "one nan")]
    + [("linf", "nan"), ("l2", "infinite"), ("linf", "infinite"), ("l1", "clean")],
)
def test_the_engine_corrects_a_lying_attack(norm, lie):
    kernel = np.stack([np.zeros(6), np.ones(6)], axis=1)
    model = linear(kernel, [3.2, 0.0])
    x = np.full((4, 6), 0.5, "float32")  # margin -0.2; 0.1 a pixel is enough, 0.1 in all is not
    y = np.zeros(4, "int32")
    found = Liar(norm, lie)(model, x, y)
    assert np.isfinite(found.adversarial).all()
    assert length(found.adversarial - x, norm).max() <= 0.1 + 1e-6
    wrong = classes(model, found.adversarial) != y
    np.testing.assert_array_equal(found.success, wrong)
    # Brought back to the ball, the far image is an honest one where the ball is large enough.
    honest = (norm, lie) in {("linf", "far"), ("linf", "infinite"), ("l2", "far")}
    assert set(found.status) == {"found" if honest else "not_found"}


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 1e-4), ("linf", 1e-3), ("l2", 1e-4), ("l1", 1e-3)]
)
def test_rounding_at_the_surface_of_a_small_ball_loses_nothing(norm, epsilon):
    """Near 1 the grid of float32 is 6e-8 wide: more than 1e-5 of a small epsilon."""
    size = 64
    w = np.where(np.arange(size) % 2, 1.0, -1.0)
    x = np.random.default_rng(1).uniform(0.75, 0.95, size=(20, size))
    x = (x - np.outer(x @ w, w) / size).astype("float32")  # now x @ w = 0
    # All have the same margin, which takes 95 % of the radius.
    gain = {"linf": size, "l2": np.sqrt(size), "l1": 1.0}[norm] * epsilon
    model = linear(np.stack([np.zeros(size), w], axis=1), [0.95 * gain, 0.0])
    y = np.zeros(20, "int32")
    found = PGD(norm, epsilon, steps=5, random_start=False, bounds=None)(model, x, y)
    assert set(found.status) == {"found"}
    exact = length(found.adversarial.astype("float64") - x, norm)
    assert exact.min() > 0.94 * epsilon and exact.max() <= epsilon * (1 + 1e-5)


def test_clean_images_at_the_boundary_still_have_to_move():
    """A tie by rounding must not end the search with the clean image."""

    class Moody(PGD):
        def advance(self, state, evaluated, x):
            new = super().advance(state, evaluated, x)
            clean = ops.all(ops.equal(state["images"], x), axis=1)
            return {**new, "seen": state["seen"] | (clean & evaluated.fooled)}

        def start(self, x, keys):
            return {**super().start(x, keys), "seen": ops.zeros((x.shape[0],), dtype="bool")}

    kernel = kernel_of(2)
    x, y = equidistant(kernel, "l2", 1.0)
    search = attacks.attack.Search
    target = Target(linear(kernel), x)
    goal = attacks.attack.Goal(1 - y, False)  # labels that make every clean image look fooled
    attack = Moody("l2", 0.5, steps=3, random_start=False, bounds=None)
    run = search(attack, target, goal, x, np.arange(len(x)), 0)
    images = run.run(64, True, None)
    assert np.all(length(images - x, "l2") > 0)


def test_outputs_in_half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = functional(lambda z, x: keras.layers.Softmax()(z))
    finally:
        keras.config.set_dtype_policy("float32")
    x = vectors()
    target = Target(model, x)
    assert target.probabilities, "three digits, whose sum is not 1"
    y = target.predict(x)
    outputs = target.outputs(x)
    assert outputs.dtype == "float32" and np.isfinite(outputs).all()
    assert PGD("linf", 0.5, steps=5)(target, x, y).success.any()


def test_float64(float64):
    """Images of float32 are widened; ball and distances are then exact to float64."""
    model = linear(kernel_of(2))
    x, y = equidistant(kernel_of(2), "l2", 1.0)
    found = PGD("l2", 1.001, bounds=None, random_start=False)(model, x, y)
    assert found.success.all() and found.adversarial.dtype == "float64"
    assert length(found.adversarial - x, "l2").max() <= 1.001 + 1e-12
    found = MinimalDistance("linf", tolerance=0.0, bounds=None)(model, x, y)
    expected = boundary(model.get_weights()[0].astype("float64"), "linf", x, y)
    np.testing.assert_allclose(found.distance, expected, rtol=2e-6)


def test_probabilities_are_attacked_through_their_logarithm():
    plain = functional(lambda z, x: z)
    soft = keras.Sequential([plain, layers.Softmax()])
    x = vectors()
    y = classes(plain, x)
    attack = PGD("l2", 0.4, steps=10, random_start=False)
    a, b = attack(plain, x, y), attack(soft, x, y)
    np.testing.assert_array_equal(a.status, b.status)
    np.testing.assert_allclose(a.adversarial, b.adversarial, atol=1e-3)


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
        (lambda: functional(lambda z, x: z, classes=1), "single output.*zeros_like.*two units"),
        (lambda: functional(lambda z, x: [z, z]), "not one tensor of shape"),
        (lambda: functional(lambda z, x: {"a": z, "b": z}), "not one tensor of shape"),
        (lambda: functional(lambda z, x: layers.Reshape((3, 1))(z)), "not one tensor of shape"),
        (nan_model, "returns NaN"),
        (lambda: lambda x: x, "type function; expected a `keras.Model`"),
        (lambda: layers.Dense(3), "type Dense; expected a `keras.Model`"),
        (lambda: None, "type NoneType"),
    ],
)
def test_bad_models(make, message):
    with pytest.raises(ValueError, match=f"Received.*{message}"):
        PLAIN(make(), X, Y)


def test_the_fix_for_a_single_output_works():
    inputs = keras.Input((6,))
    dense = layers.Dense(1)
    z = dense(inputs)
    binary = keras.Model(inputs, layers.Activation("sigmoid")(z))
    dense.set_weights([np.array([[1.0], [-1.0]] * 3), np.zeros(1)])
    with pytest.raises(ValueError, match="single output"):
        PLAIN(binary, X, Y)
    fixed = keras.Model(binary.input, keras.layers.Concatenate()([keras.ops.zeros_like(z), z]))
    y = (binary.predict(X, verbose=0)[:, 0] > 0.5).astype("int32")
    found = PGD("linf", 1.0)(fixed, X, y)
    assert found.success.all()
    assert np.all((binary.predict(found.adversarial, verbose=0)[:, 0] > 0.5) != y)


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
    assert set(np.unique(soft.predict(X, verbose=0))) == {0, 1}
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
