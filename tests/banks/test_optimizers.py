"""The bank that every registered optimizer passes."""

import inspect
import json

import keras
import numpy as np
import objective_cases
import pytest
from keras import ops
from optimizer_cases import (
    GOLDEN,
    STARTS,
    averaging,
    build,
    eager,
    minimise,
    parabola,
    quiet,
    rosenbrock,
    step,
    trajectory,
    variables,
)
from selection import some

import keras_pde as kp
from keras_pde import registry

pytestmark = pytest.mark.filterwarnings("ignore:.*ends within a cycle")

BACKEND = keras.backend.backend()
ENTRIES = {entry.name: entry for entry in registry.entries("optimizer")}
OPTIMIZERS = [pytest.param(entry, id=name) for name, entry in ENTRIES.items()]
LIKE_ANOTHER = {
    "entropy_sgd": ["fixed_point_hj", "hamilton_jacobi", "heat_sgd"],
    "salr": ["alig", "sps"],
    "sam": ["asam", "lookahead", "stochastic_weight_averaging"],
}
TRAINED = some(ENTRIES, fast=ENTRIES.keys() - {n for names in LIKE_ANOTHER.values() for n in names})
X = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
Y = (X @ [1.0, -1.0, 0.5, 0.0] + 0.1)[:, None].astype("float32")


def name_of(problem):
    return problem.__name__


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


def arrays(values):
    return [np.array(ops.convert_to_numpy(v)) for v in values]


def assert_equal(first, second, **tolerances):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, **tolerances)


@pytest.mark.parametrize("entry", OPTIMIZERS)
class TestBank:
    def test_config_is_complete(self, entry):
        optimizer = build(entry)
        config = optimizer.get_config()
        for name, parameter in inspect.signature(entry.component).parameters.items():
            if name in ("name", "kwargs"):
                continue
            assert entry.example.get(name, parameter.default) != parameter.default, name
            assert name in config
        again = entry.component.from_config(config)
        assert again.get_config() == config
        assert keras.saving.get_registered_name(entry.component).startswith("keras_pde>")

    def test_golden_trajectory(self, entry):
        golden = json.loads(GOLDEN.read_text())[entry.name]
        np.testing.assert_allclose(trajectory(entry), golden, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("problem", some(STARTS, [parabola, rosenbrock]), ids=name_of)
    def test_convergence(self, entry, problem):
        weights = variables(*STARTS[problem])
        losses = minimise(eager(entry), problem, weights, 300)
        assert min(losses[-10:]) < 0.2 * losses[0]

    def test_convergence_in_mixed_dtypes(self, entry):
        first, second = STARTS[parabola]
        weights = variables(first) + variables(second, dtype="float16")
        losses = minimise(eager(entry), parabola, weights, 300)
        assert min(losses[-10:]) < 0.2 * losses[0]

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
    def test_dtype_is_kept(self, entry, dtype):
        if BACKEND == "jax" and dtype == "float64":
            pytest.skip("JAX has none unless asked")
        weights = variables(*STARTS[parabola], dtype=dtype) + variables([1.0])
        optimizer = build(entry)
        for _ in range(7):
            step(optimizer, weights, 1.0, [np.ones(w.shape) for w in weights])
        assert [keras.backend.standardize_dtype(w.dtype) for w in weights] == [
            dtype,
            dtype,
            "float32",
        ]
        assert all(np.isfinite(w.astype("float64")).all() for w in arrays(weights))

    def test_frozen_variables_and_missing_gradients(self, entry):
        weights = variables([1.0], [2.0], [3.0])
        optimizer = build(entry)
        optimizer.build(weights)
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            for _ in range(4):
                optimizer.scale_loss(ops.convert_to_tensor(1.0))
                optimizer.apply([ops.ones(1), None, ops.ones(1)], weights)
        _, frozen, trained = arrays(weights)
        assert frozen == 2.0
        assert trained < 3.0
        for changes in ({}, {"use_ema": True}):
            if changes and "inner_optimizer" in entry.example:
                continue
            optimizer = build(entry, **changes)
            with pytest.warns(UserWarning, match="Gradients do not exist"):
                for _ in range(5):
                    optimizer.scale_loss(ops.convert_to_tensor(1.0))
                    optimizer.apply([ops.ones(1), None, ops.ones(1)], weights)
            optimizer.finalize_variable_values(weights)
            assert arrays(weights)[1] == 2.0

    def test_learning_rate_is_settable(self, entry):
        optimizer = build(entry)
        optimizer.learning_rate = 0.0625
        assert float(optimizer.learning_rate) == 0.0625
        if "inner_optimizer" not in entry.example:  # Keras refuses integers
            assert float(build(entry, learning_rate=1).learning_rate) == 1

    @pytest.mark.parametrize("averages", [False, True])
    def test_weights_that_were_set_are_respected(self, entry, averages):
        """After `fit`, which ends a cycle, nothing pulls back to where the weights were."""
        optimizer = eager(entry, **(averaging(entry) if averages else {}))
        weights = variables(*STARTS[parabola])
        minimise(optimizer, parabola, weights, 8)
        optimizer.finalize_variable_values(weights)
        for w in weights:
            w.assign(np.full(w.shape, 100.0))
        for _ in range(3):
            step(optimizer, weights, 1.0, [np.zeros(w.shape) for w in weights])
        optimizer.finalize_variable_values(weights)
        for w in arrays(weights):
            np.testing.assert_allclose(w, 100, atol=3)

    def test_decay_leaves_out_what_is_excluded(self, entry):
        if "inner_optimizer" in entry.example:
            pytest.skip("its inner optimizer decays")
        optimizer = quiet(entry, weight_decay=0.1)
        weights = variables([1.0], [1.0])
        optimizer.exclude_from_weight_decay([weights[1]])
        for _ in range(6):
            step(optimizer, weights, 1.0, [np.zeros(1), np.zeros(1)])
        assert 0 < float(weights[0][0]) < 0.999
        assert float(weights[1][0]) == 1

    def test_clipping(self, entry):
        """A gradient of 1000 clipped to 1 is a gradient of 1."""
        found = []
        for size in (1000.0, 1.0):
            if "inner_optimizer" in entry.example:
                optimizer = quiet(
                    entry, inner_optimizer=keras.optimizers.SGD(0.1, global_clipnorm=1.0)
                )
            else:
                optimizer = quiet(entry, global_clipnorm=1.0)
            weights = variables([1.0])
            for _ in range(3):
                step(optimizer, weights, 1.0, [np.array([size])])
            found.append(float(weights[0][0]))
        assert found[0] == pytest.approx(found[1], rel=1e-5)

    def test_constraints_hold(self, entry):
        weight = keras.Variable(np.array([0.5, 0.2]))
        weight.constraint = keras.constraints.NonNeg()
        optimizer = eager(entry)
        for _ in range(6):
            step(optimizer, [weight], 1.0, [np.array([1.0, 1.0])])
            assert (arrays([weight])[0] >= 0).all()

    @pytest.mark.parametrize("mean", [False, True])
    def test_what_ends_fit_satisfies_constraints(self, entry, mean):
        """Of a norm, which means of what satisfies it do not."""
        changes = averaging(entry)
        if mean and len(getattr(entry.component, "evaluation_choices", ())) > 1:
            changes = {"evaluation_weights": "mean"}
        weight = keras.Variable(np.array([1.0, 0.0]))
        weight.constraint = keras.constraints.UnitNorm()
        optimizer = eager(entry, **changes)
        for batches in (7, 6):
            for _ in range(batches):
                step(optimizer, [weight], 1.0, [np.array([0.0, 9.0])])
            optimizer.finalize_variable_values([weight])
            assert np.linalg.norm(arrays([weight])[0]) == pytest.approx(1, rel=1e-5)

    def test_variables_that_are_their_gradients(self, entry):
        """As Keras has them in float8, without slots."""
        weights = variables([1.0], [1.0])
        weights[1].overwrite_with_gradient = True
        optimizer = eager(entry, **averaging(entry))
        for i in range(7):
            step(optimizer, weights, 1.0, [np.ones(1), np.full(1, float(i))])
        optimizer.finalize_variable_values(weights)
        assert float(weights[1][0]) == 6.0
        assert float(weights[0][0]) < 1

    def test_without_a_step_averages_change_nothing(self, entry):
        if "inner_optimizer" in entry.example:
            pytest.skip("its inner optimizer averages: tests/unit/test_wrappers.py")
        optimizer, weights = build(entry, use_ema=True), variables([1.0])
        optimizer.finalize_variable_values(weights)
        optimizer.build(weights)
        optimizer.finalize_variable_values(weights)
        assert float(weights[0][0]) == 1.0


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
