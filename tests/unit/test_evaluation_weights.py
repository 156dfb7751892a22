"""Weights to judge by in loops of one's own, counts that are skipped to, and what is logged."""

import keras
import numpy as np
import pytest
from evaluation_weights_cases import X, Y, entropy, network, run
from keras import ops
from optimizer_cases import assert_equal

import keras_pde as kp
from keras_pde.optimizers import state

pytestmark = pytest.mark.filterwarnings("ignore:.*ends within a cycle")


@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [
        (entropy(), True),
        (
            kp.optimizers.Lookahead(keras.optimizers.SGD(0.001, use_ema=True, ema_momentum=0.5)),
            True,
        ),
        (keras.optimizers.Adam(use_ema=True), True),
        pytest.param(
            keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(use_ema=True)),
            True,
            marks=pytest.mark.skipif(
                keras.backend.backend() == "jax", reason="Keras has its steps in `fit` only"
            ),
        ),
        (kp.optimizers.SALR(0.01, use_ema=False), False),
        (keras.optimizers.Adam(), False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_loop_of_ones_own_is_judged_as_fit_is(optimizer, changes):
    """Within the context the weights are those with which `fit` would end here."""
    model = network()
    with kp.optimizers.evaluation_weights(optimizer):
        pass  # before the first step
    optimizer.build(model.trainable_variables)
    for gradient in np.random.default_rng(0).normal(size=(5, 5)).astype("float32"):
        gradients = [ops.convert_to_tensor(g) for g in (gradient[:4, None], gradient[4:])]
        optimizer.scale_loss(ops.convert_to_tensor(1.0))
        optimizer.apply(gradients, model.trainable_variables)
    training = model.get_weights()
    with kp.optimizers.evaluation_weights(optimizer):
        judged = model.get_weights()
    assert_equal(model.get_weights(), training, rtol=0)
    with pytest.raises(ZeroDivisionError), kp.optimizers.evaluation_weights(optimizer):
        raise ZeroDivisionError
    assert_equal(model.get_weights(), training, rtol=0)
    assert (abs(judged[0] - training[0]).max() > 1e-7) == changes
    optimizer.finalize_variable_values(model.trainable_variables)
    inside = getattr(optimizer, "inner_optimizer", None)
    if inside and not isinstance(optimizer, kp.optimizers.WrapperOptimizer):
        inside.finalize_variable_values(model.trainable_variables)  # Keras' forgets it
    assert_equal(judged, model.get_weights(), rtol=0)


def test_what_fails_on_the_way_changes_nothing():
    class Half(keras.optimizers.SGD):
        def evaluation_pairs(self):
            first, second = self._trainable_variables
            return [(first, ops.zeros(first.shape)), (second, ops.zeros((99,)))]

    model, optimizer = network(), Half()
    optimizer.build(model.trainable_variables)
    before = model.get_weights()
    with pytest.raises(ValueError, match="shape"), kp.optimizers.evaluation_weights(optimizer):
        pass
    assert_equal(model.get_weights(), before, rtol=0)
    model, _ = run(entropy())
    shown = kp.optimizers.evaluation_weights(model.optimizer)
    with shown, pytest.raises(ValueError, match="is entered already"), shown:
        pass


def test_weights_without_values_are_refused():
    with pytest.raises(ValueError, match=r"expected a keras\.optimizers\.Optimizer"):
        kp.optimizers.evaluation_weights(network())
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    for optimizer in (entropy(), keras.optimizers.SGD(use_ema=True)):
        model, _ = run(optimizer)

        @tf.function
        def judged(model=model):
            with kp.optimizers.evaluation_weights(model.optimizer):
                return model(X)

        with pytest.raises(ValueError, match="outside of it"):
            judged()


@pytest.mark.parametrize(
    "optimizer", [kp.optimizers.SALR(), entropy(use_ema=True), keras.optimizers.Adam(use_ema=True)]
)
def test_a_count_that_was_skipped_to_begins_an_average(optimizer):
    model = network()
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    model.set_weights([w + 1 for w in model.get_weights()])
    state.skip(optimizer, 6)
    before = model.get_weights()
    model.fit(X[:10], Y[:10], verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05)


@pytest.mark.parametrize("optimizer", [entropy(), kp.optimizers.SAM("sgd")])
def test_a_count_that_was_skipped_to_begins_a_cycle(optimizer):
    """As Keras Tuner's Hyperband needs, which goes on with the weights of another trial."""
    model = network()
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    state.skip(optimizer, 7)
    before = model.get_weights()
    model.train_on_batch(X[:10], Y[:10])
    assert int(optimizer.iterations) == 8
    if hasattr(optimizer, "inner_optimizer"):
        assert int(optimizer.inner_optimizer.iterations) == 3  # it has climbed
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=0.3)
    assert_equal(optimizer.evaluation_values(), before)


@pytest.mark.parametrize("optimizer", [kp.optimizers.SALR(), entropy(), kp.optimizers.Lookahead()])
def test_errors_of_a_second_fit_are_seen(optimizer):
    """On JAX, `fit` ends with variables that have no values."""
    model, _ = run(optimizer)
    with pytest.raises(Exception, match=r"(?i)shape|dimension|broadcast"):
        model.fit(X, np.zeros((50, 7, 3)), verbose=0)


def test_other_optimizers_are_refused():
    with pytest.raises(ValueError, match=r"Leave the callback out"):
        run("sgd", kp.callbacks.OptimizerLogger())


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (kp.optimizers.SALR(0.01), {"last_rate", "skipped"}),
        (kp.optimizers.Lookahead(kp.optimizers.SPS(0.01)), {"last_rate", "skipped"}),
        (kp.optimizers.SAGD(0.01), {"batches", "steps", "skipped"}),
        (entropy(scope_growth=1.0), {"scope"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_optimizers_decide_is_logged(optimizer, names):
    model, _ = run(optimizer, kp.callbacks.OptimizerLogger(), epochs=3)
    history = model.history.history
    assert names == history.keys() - {"loss", "val_loss"}
    if "scope" in names:  # 5, 10, 15 batches are 1, 3, 5 whole cycles of 3
        assert history["scope"] == pytest.approx([0.2, 0.8, 3.2])
    else:
        assert all(history[name][-1] == 0 for name in names & {"skipped"})
        assert all(value > 0 for name in names - {"skipped"} for value in history[name])
