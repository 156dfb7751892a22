"""Sample weights of positions: sequences, and images with a label for each pixel."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from robust_model_cases import EAGER, cross_entropy

import keras_pde as kp
from keras_pde.attacks.perturbed import Perturbed
from keras_pde.autodiff import value_and_grad
from keras_pde.objectives import Adversarial, GradientPenalty, MaxGradientPenalty
from keras_pde.training.objective_loss import per_example
from keras_pde.training.step import Step

COUNT, LENGTH, CLASSES = 12, 5, 4
RNG = np.random.default_rng(0)
X = RNG.uniform(0.3, 0.7, (COUNT, LENGTH, 3)).astype("float32")
Y = RNG.integers(0, CLASSES, (COUNT, LENGTH))
WEIGHT = RNG.uniform(size=(COUNT, LENGTH)).astype("float32")
WEIGHT[:, 2] = 0  # padding


def network():
    keras.utils.set_random_seed(0)
    stack = [keras.Input((LENGTH, 3)), layers.Dense(6, "tanh"), layers.Dense(CLASSES)]
    return keras.Sequential(stack)


def gradients(model, x=X):
    """Of each example's loss, the weighted mean over its positions, by hand."""

    def total(z):
        log = ops.log_softmax(model(z))
        chosen = ops.sum(ops.one_hot(Y, CLASSES) * log, axis=-1)
        return -ops.sum(WEIGHT * chosen) / LENGTH

    return ops.convert_to_numpy(value_and_grad(total, ops.convert_to_tensor(x))[1])


def norms(slopes):
    return np.sqrt(np.square(slopes).sum(axis=(1, 2)))


def test_crafting_spends_nothing_on_positions_that_do_not_count():
    model = network()
    values = ([v.value for v in model.trainable_variables], [])
    loss = per_example(cross_entropy())
    step = Step(Perturbed(model), loss, *values, ops.convert_to_tensor(X), Y, WEIGHT, 0, 0)
    images = ops.convert_to_numpy(Adversarial("l2", 0.1).images(step))
    slopes = gradients(model)
    np.testing.assert_allclose(images, X + 0.1 * slopes / norms(slopes)[:, None, None], atol=1e-6)
    np.testing.assert_array_equal(images[:, 2], X[:, 2])
    np.testing.assert_allclose(norms(images - X), 0.1, rtol=1e-4)


@pytest.mark.parametrize("weight", [WEIGHT, WEIGHT[..., None]])
@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (GradientPenalty("l2", 1.0), np.mean),
        (GradientPenalty("l2", 1.0, method="finite_difference", step_size=1e-3), np.mean),
        (MaxGradientPenalty("l2", 1.0), np.max),
    ],
)
def test_penalties_are_about_the_weighted_losses(penalty, expected, weight):
    model = network()
    slopes = gradients(model)
    wrapper = kp.RobustModel(model, penalty)
    wrapper.compile(keras.optimizers.SGD(0.0), cross_entropy(), **EAGER)
    logs = wrapper.train_on_batch(X, Y, weight, return_dict=True)
    assert logs[penalty.name] == pytest.approx(expected(norms(slopes)), rel=2e-3)


def test_weights_that_are_neither_of_positions_nor_of_examples_are_refused():
    wrapper = kp.RobustModel(network(), GradientPenalty("l2", 1.0))
    wrapper.compile("sgd", cross_entropy(), **EAGER)
    with pytest.raises(ValueError, match=r"one an example|Incompatible shapes"):
        wrapper.train_on_batch(X, Y, np.ones((COUNT, LENGTH, 3)))
