"""Trainings by every registered optimizer."""

import keras
import numpy as np
import objective_cases
import pytest
from optimizer_cases import BACKEND, ENTRIES, assert_equal, build, eager, quiet, step, variables
from selection import some

import keras_pde as kp

pytestmark = pytest.mark.filterwarnings("ignore:.*ends within a cycle")
LIKE_ANOTHER = {
    "entropy_sgd": ["fixed_point_hj", "hamilton_jacobi", "heat_sgd"],
    "salr": ["alig", "sps"],
    "sam": ["asam", "lookahead", "stochastic_weight_averaging"],
}
TRAINED = some(ENTRIES, fast=ENTRIES.keys() - {n for names in LIKE_ANOTHER.values() for n in names})
X = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
Y = (X @ [1.0, -1.0, 0.5, 0.0] + 0.1)[:, None].astype("float32")


def network():
    inputs = keras.Input((4,))
    y = keras.layers.Dense(5, "tanh")(inputs)
    y = keras.layers.BatchNormalization()(y)
    return keras.Model(inputs, keras.layers.Dense(1)(y))


def compiled(optimizer, **options):
    """The network with that optimizer; on TensorFlow a few steps are faster than their tracing."""
    keras.utils.set_random_seed(1)
    model = network()
    model.compile(optimizer, "mse", **{"run_eagerly": BACKEND == "tensorflow", **options})
    return model


def fit(model, epochs=1, **options):
    if not model.optimizer.built:  # within the first step it would be traced twice
        model.optimizer.build(model.trainable_variables)
    options = {"batch_size": 6, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, **options).history["loss"]


@pytest.mark.parametrize("name", TRAINED)
class TestTrainings:
    """What needs `fit`, compiled: a base class decides it, so those like another run seldom."""

    @pytest.fixture
    def entry(self, name):
        return ENTRIES[name]

    def test_fit_lowers_the_loss(self, entry):
        model = compiled(eager(entry), run_eagerly=False)
        losses = fit(model, epochs=15)
        assert losses[-1] < 0.8 * losses[0]
        assert fit(model)[0] < losses[0]

    def test_fit_resumes_from_the_middle_of_a_cycle(self, entry, tmp_path):
        """Bit by bit, noise included: eight batches, saved after the fifth by a callback."""

        class Save(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 4:
                    if BACKEND == "jax":
                        self.model.jax_state_sync()
                    self.model.save(tmp_path / "model.keras")

        model = compiled(build(entry), run_eagerly=False)
        fit(model, callbacks=[Save()])
        resumed = keras.models.load_model(tmp_path / "model.keras")
        rest = {"batch_size": 6, "shuffle": False, "verbose": 0}
        resumed.fit(X[30:], Y[30:], **rest)
        assert_equal(model.get_weights(), resumed.get_weights(), rtol=0, atol=0)

    @pytest.mark.skipif(BACKEND == "torch", reason="compiled steps")
    def test_compiled_steps(self, entry):
        """Several steps a call are the single steps."""
        plain = compiled(quiet(entry))
        fit(plain)
        options = {"run_eagerly": False, "steps_per_execution": 4}
        together = compiled(quiet(entry), **options)
        fit(together)
        assert_equal(plain.get_weights(), together.get_weights(), rtol=1e-5, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.skipif(BACKEND == "torch", reason="compiled steps")
    def test_jit_compiled_steps(self, entry):
        plain = compiled(quiet(entry))
        fit(plain)
        jitted = compiled(quiet(entry), run_eagerly=False, jit_compile=True)
        fit(jitted)
        assert_equal(plain.get_weights(), jitted.get_weights(), rtol=1e-3, atol=1e-5)

    @pytest.mark.skipif(BACKEND == "torch", reason="RobustModel")
    def test_robust_training(self, entry):
        """The objectives' own training step hands over loss and gradients as Keras' does."""
        x, y, _ = objective_cases.batch()
        robust = objective_cases.train_with(
            objective_cases.smooth_network(),
            kp.objectives.GradientPenalty("l2", weight=0.1),
            eager(entry),
        )
        losses = robust.fit(x, y, batch_size=3, epochs=20, shuffle=False, verbose=0).history["loss"]
        assert losses[-1] < losses[0]

    @pytest.mark.skipif(
        not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has none yet"
    )
    def test_one_of_several_optimizers(self, entry):
        """Within Keras' MultiOptimizer it is itself, or refused as it does not see the loss."""
        alone = compiled(quiet(entry))
        several = compiled(
            keras.optimizers.MultiOptimizer(
                keras.optimizers.OptimizerMap(keras.optimizers.SGD(), {".*": quiet(entry)})
            )
        )
        if issubclass(entry.component, kp.optimizers.LossAwareOptimizer):
            with pytest.raises(ValueError, match="cannot be part of a `MultiOptimizer`"):
                fit(several)
            return
        fit(alone, epochs=2)
        fit(several, epochs=2)
        assert_equal(alone.get_weights(), several.get_weights(), rtol=1e-6)

    def test_schedule(self, entry):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.4, 4, 0.5)
        if "inner_optimizer" in entry.example:
            optimizer = build(entry, inner_optimizer=keras.optimizers.SGD(schedule))
        else:
            optimizer = build(entry, learning_rate=schedule)
        fit(compiled(optimizer))
        counter = getattr(optimizer, "inner_optimizer", optimizer).iterations
        assert int(counter) == (4 if entry.name in ("sam", "asam") else 8)
        np.testing.assert_allclose(float(optimizer.learning_rate), 0.4 * 0.5 ** (int(counter) / 4))

    def test_moving_average(self, entry):
        """`use_ema` ends with an average of what the training passed, between start and end."""
        if "inner_optimizer" in entry.example:
            pytest.skip("its inner optimizer averages: tests/unit/test_wrappers.py")
        optimizer = quiet(entry, use_ema=True, ema_momentum=0.5)
        weights = variables([1.0])
        for _ in range(12):
            step(optimizer, weights, 1.0, [np.array([1.0])])
        end = float(weights[0][0])
        optimizer.finalize_variable_values(weights)
        assert end < float(weights[0][0]) < 1

        optimizer, weights = quiet(entry, use_ema=True), variables([1.0])
        step(optimizer, weights, 1.0, [np.array([1.0])])
        optimizer.finalize_variable_values(weights)
        assert float(weights[0][0]) > 0.5  # not the zeros that the average begins with

        model = compiled(quiet(entry, use_ema=True))
        fit(model)
        fit(model)  # which Keras' own refuse on JAX
        before = model.get_weights()
        model.fit(X, Y, initial_epoch=2, epochs=2, verbose=0)  # as of a finished training
        assert_equal(model.get_weights(), before, rtol=0)

    def test_batches_of_a_sparse_gradient(self, entry):
        """An embedding's gradient, which TensorFlow gives as slices."""
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((3,), dtype="int32"), keras.layers.Embedding(7, 2), keras.layers.Flatten()]
        )
        model.add(keras.layers.Dense(1))
        model.compile(eager(entry), "mse")
        model.optimizer.build(model.trainable_variables)
        x = np.random.default_rng(0).integers(0, 7, (48, 3))
        losses = model.fit(x, x.sum(1), batch_size=6, epochs=8, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
