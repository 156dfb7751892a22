"""With which statistics of BatchNormalization adversarial training crafts its images."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from robust_model_cases import CLASSES, SHAPE, Subclassed, X, Y, cross_entropy, dataset, seeded

import keras_pde as kp
from keras_pde import geometry
from keras_pde.attacks import FGSM
from keras_pde.attacks.perturbed import Perturbed
from keras_pde.autodiff import value_and_grad
from keras_pde.objectives import Adversarial, MaxGradientPenalty, Plain, Tulip
from keras_pde.training.lagging import outputs
from keras_pde.training.objective_loss import per_example
from keras_pde.training.step import Step

EPSILON = 0.2
LOSS = per_example(cross_entropy())


def normalized(momentum=0.99, twice=False):
    """Statistics that have seen no batch."""
    keras.utils.set_random_seed(1)
    normalization = layers.BatchNormalization(momentum=momentum)
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(2, 3, activation="tanh", padding="same")(inputs)
    x = normalization(x)
    if twice:
        x = normalization(layers.Conv2D(2, 3, activation="tanh", padding="same")(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))


def continuous():
    """A rate with a normalization, whose statistics are a stack over depth."""
    keras.utils.set_random_seed(1)
    rate = [layers.Conv2D(2, 3, padding="same", activation="tanh"), layers.BatchNormalization()]
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(2, 1)(inputs)
    x = kp.layers.ContinuousBlock(keras.Sequential(rate), 2, "euler", num_basis=2)(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))


def step_of(model, data, seed=0):
    values = ([v.value for v in v_list] for v_list in _variables(model))
    x, y = ops.convert_to_tensor(X), ops.convert_to_tensor(Y)
    return Step(Perturbed(model), LOSS, *values, x, y, None, seed, 0, data.statistics)


def _variables(model):
    return model.trainable_variables, model.non_trainable_variables


def slope(model, x, training):
    """The gradient of the plain model's loss, whose moving statistics change in training mode."""
    values = [[v.value for v in some] for some in _variables(model)]

    def total(z):
        return ops.sum(LOSS(Y, model.stateless_call(*values, z, training=training)[0]))

    gradient = value_and_grad(total, ops.convert_to_tensor(x))[1]
    model(x, training=training)
    return gradient


def by_hand(model, norm, steps):
    """The first gradient in training mode, the others with the batch statistics that it saw."""
    for layer in _normalizations(model):
        layer.momentum = 0.0
    norm, x = geometry.get(norm), X
    for k in range(steps):
        moved = x + EPSILON / steps * norm.steepest(slope(model, x, training=k == 0))
        x = np.clip(ops.convert_to_numpy(moved), 0, 1)
    return x


def _normalizations(model):
    blocks = [layer for layer in model.layers if isinstance(layer, kp.layers.ContinuousBlock)]
    roots = [model, *(rate.template.layer for block in blocks for rate in block.rates)]
    found = [layer for root in roots for layer in root.layers]
    return [layer for layer in found if isinstance(layer, layers.BatchNormalization)]


@pytest.mark.parametrize("make", [normalized, continuous])
@pytest.mark.parametrize(("norm", "steps"), [("l2", 1), ("linf", 2)])
def test_batch_statistics_are_those_of_the_first_images(make, norm, steps):
    model = make()
    before = model.get_weights()
    data = Adversarial(norm, EPSILON, steps, EPSILON / steps)
    found = ops.convert_to_numpy(data.images(step_of(model, data)))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)  # crafting trains nothing
    expected = by_hand(model, norm, steps)
    agrees = np.isclose(found, expected, atol=1e-5)
    assert agrees.all() if norm == "l2" else agrees.mean() > 0.99  # signs of what is nearly zero


def test_inference_is_a_choice_and_what_models_without_statistics_do():
    model = normalized()
    data = Adversarial("l2", EPSILON, statistics="inference")
    found = ops.convert_to_numpy(data.images(step_of(model, data)))
    moved = X + EPSILON * geometry.get("l2").steepest(slope(model, X, training=False))
    np.testing.assert_allclose(found, np.clip(ops.convert_to_numpy(moved), 0, 1), atol=1e-5)
    for frozen in (normalized(momentum=1.0), normalized()):
        if frozen.layers[2].momentum < 1:
            frozen.layers[2].trainable = False
        step = step_of(frozen, Adversarial("l2", EPSILON))
        expected = slope(frozen, X, training=False)
        np.testing.assert_allclose(step.clean.gradient, expected, atol=1e-6)
    dropping = seeded(Subclassed)
    dropping(X)
    step = step_of(dropping, Adversarial("l2", EPSILON))
    np.testing.assert_allclose(step.clean.gradient, slope(dropping, X, False), atol=1e-6)


def test_statistics_of_a_layer_that_is_called_twice_are_a_mean():
    """As its moving ones are: after zero, (1 - m) (m a + b) of weight 1 - m^2."""
    model = normalized(momentum=0.9, twice=True)
    first = keras.Model(model.input, model.layers[1].output)
    step = step_of(model, Adversarial("l2", EPSILON))
    assert step.clean.writes[:2] == [2, 2]
    a = ops.convert_to_numpy(first(X)).mean((0, 1, 2))
    model.layers[2].momentum = 0.0
    model(X, training=True)
    b = ops.convert_to_numpy(model.layers[2].moving_mean.value)  # of the second call
    state = ops.convert_to_numpy(step._crafting_state[0])
    np.testing.assert_allclose(state, (0.9 * a + b) / 1.9, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "statistics"),
    [
        (Adversarial("l2", 0.1), "batch"),
        (Tulip(0.1, 0.1), "batch"),
        (Tulip.paper2018(), "inference"),
        (Plain() + MaxGradientPenalty("l2", 0.1), "inference"),
    ],
)
def test_the_data_term_decides(objective, statistics):
    robust = kp.RobustModel(normalized(), objective)
    robust.compile("sgd", cross_entropy(), run_eagerly=True)
    assert robust.objective.data.statistics == statistics
    steps = []
    make = robust.objective_loss.step
    robust.objective_loss.step = lambda *args: steps.append(make(*args)) or steps[-1]
    if keras.backend.backend() == "tensorflow":
        robust.train_on_batch(X, Y)
        own = steps[0]._crafting_state is steps[0].non_trainable
        assert own == (statistics == "inference")


# Moving statistics that lag


def bright(count=64):
    """Images whose classes differ in brightness, and statistics far from a start at 0 and 1."""
    y = np.arange(count) % CLASSES
    noise = np.random.default_rng(0).uniform(size=(count, *SHAPE))
    return (0.1 * noise + 0.3 * y[:, None, None, None]).astype("float32"), y


def scaled(momentum):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = layers.BatchNormalization(momentum=momentum)(layers.Rescaling(20.0)(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))


def trained(model, data, **options):
    robust = kp.RobustModel(model, Plain())
    eager = keras.backend.backend() == "tensorflow"
    robust.compile(keras.optimizers.Adam(0.05), cross_entropy(), run_eagerly=eager)
    robust.fit(*data, epochs=20, verbose=0, shuffle=False, **options)
    return robust


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_statistics_that_lag_are_told_after_fit_and_in_a_report(kind):
    x, y = bright()
    data = (x, y) if kind == "arrays" else (dataset(x, y, 64),)
    with pytest.warns(UserWarning, match=r"the loss is .* these lag behind the weights"):
        robust = trained(scaled(0.999), data)
    found = kp.evaluate(robust.model, x, y, epsilons=0.1, attacks=FGSM("linf"))
    (alarm,) = (alarm for alarm in found.alarms if "lag behind" in alarm)
    moving, batch = outputs(robust.perturbed, x)
    loss = [float(ops.mean(LOSS(y, z))) for z in (batch, moving)]
    assert f"{loss[0]:.2f} with their own statistics and {loss[1]:.2f} with the moving" in alarm
    # By hand: with momentum 0 a pass in training mode leaves the batch's.
    robust.model.layers[2].momentum = 0.0
    robust.model(x, training=True)
    np.testing.assert_allclose(batch, robust.model.predict(x, verbose=0), rtol=1e-4, atol=1e-4)


def test_statistics_that_do_not_lag_are_not_told():
    x, y = bright()
    recalibrate = kp.callbacks.RecalibrateBatchNorm(x, batch_size=32)
    for model, callbacks in ((scaled(0.5), []), (scaled(0.999), [recalibrate])):
        robust = trained(model, (x, y), callbacks=callbacks)
        report = kp.evaluate(robust.model, x, y, epsilons=0.1, attacks=FGSM("linf"))
        assert not any("lag behind" in alarm for alarm in report.alarms)
    assert outputs(Perturbed(scaled(0.9)), x[:31]) is None  # too few to say
    trained(scaled(0.999), (x[:31], y[:31]))
