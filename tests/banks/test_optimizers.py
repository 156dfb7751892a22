"""The bank that every registered optimizer passes."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops
from optimizer_cases import (
    BACKEND,
    ENTRIES,
    GOLDEN,
    STARTS,
    arrays,
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

pytestmark = pytest.mark.filterwarnings("ignore:.*ends within a cycle")
OPTIMIZERS = [pytest.param(entry, id=name) for name, entry in ENTRIES.items()]


def name_of(problem):
    return problem.__name__


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
