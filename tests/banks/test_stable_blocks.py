"""The stable blocks: their equations, and what they promise."""

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from keras.src.saving import serialization_lib
from stable_cases import jacobian, normal, run, small

from keras_pde import autodiff, integrators, layers, models

BACKEND = keras.backend.backend()
BLOCKS = (
    layers.AntisymmetricBlock,
    layers.ParabolicBlock,
    layers.HamiltonianBlock,
    layers.SecondOrderBlock,
)


def steps_of(block, y):
    """The states of a dense block with one coefficient, by NumPy: y, and the other half."""
    weights = [[ops.convert_to_numpy(s)[0] for s in rate.stacks] for rate in block.rates]
    h = block.step_size

    def F(part, x):
        K, b = weights[part]
        return np.tanh(x @ K + b) @ K.T

    return h, F


@pytest.fixture
def dense():
    def make(kind, steps=5, width=4, **kwargs):
        kwargs = {"activation": "tanh", "num_basis": 1, "horizon": 1.5, "seed": 3, **kwargs}
        block = kind(steps, kernel_initializer=small(0.4), dtype="float64", **kwargs)
        block.build((None, width))
        for rate in block.rates:
            for stack in rate.stacks:
                stack.assign(ops.convert_to_tensor(stack) + 0.1)
        return block

    return make


class TestBlocks:
    x = normal(3, 4, seed=7)

    def test_antisymmetric_is_the_integrator_on_its_equation(self, dense, float64):
        for scheme in ("rk4", "two_step_midpoint"):
            block = dense(layers.AntisymmetricBlock, scheme=scheme)
            K, b = (ops.convert_to_numpy(s)[0] for s in block.rates[0].stacks)
            h, before, y = block.step_size, self.x, self.x

            def f(stage, y, K=K, b=b):
                return np.tanh(y @ (K - K.T) + b)

            if scheme == "two_step_midpoint":
                y = before + h * f(0, before)
                for _ in range(4):
                    before, y = y, before + 2 * h * f(0, y)
            else:
                for _ in range(5):
                    (y,) = integrators.get(scheme).step(f, (y,), h)
            np.testing.assert_allclose(run(block, self.x), y, rtol=1e-9)

    def test_parabolic(self, dense, float64):
        block, y = dense(layers.ParabolicBlock), self.x
        h, F = steps_of(block, y)
        for _ in range(5):
            y = y - h * F(0, y)
        np.testing.assert_allclose(run(block, self.x), y, rtol=1e-9)

    def test_two_solutions_of_the_heat_flow_do_not_move_apart(self, dense, float64):
        block = dense(layers.ParabolicBlock, steps=8)
        other = self.x + normal(3, 4, seed=8)
        after = np.linalg.norm(run(block, self.x) - run(block, other), axis=-1)
        assert np.all(after < np.linalg.norm(self.x - other, axis=-1))

    def test_second_order_is_the_three_term_recursion(self, dense, float64):
        block, before, y = dense(layers.SecondOrderBlock), self.x, self.x
        h, F = steps_of(block, y)
        for _ in range(5):
            before, y = y, 2 * y - before - h**2 * F(0, y)
        np.testing.assert_allclose(run(block, self.x), y, rtol=1e-9)

    def test_hamiltonian(self, dense, float64):
        block = dense(layers.HamiltonianBlock)
        h, F = steps_of(block, self.x)
        y, z = np.split(self.x, 2, axis=-1)
        for _ in range(5):
            y = y - h * F(0, z)
            z = z + h * F(1, y)
        np.testing.assert_allclose(run(block, self.x), np.concatenate([y, z], -1), rtol=1e-9)

    def test_verlet_keeps_the_energy_over_ten_thousand_steps(self, dense, float64):
        block = dense(layers.HamiltonianBlock, steps=40, horizon=4.0, scheme="verlet")
        (K1, b1), (K2, b2) = (
            [ops.convert_to_numpy(s)[0] for s in rate.stacks] for rate in block.rates
        )

        def energy(state):
            y, z = state
            return np.sum(np.log(np.cosh(y @ K2 + b2)) + np.log(np.cosh(z @ K1 + b1)), axis=-1)

        _, F = steps_of(block, self.x)

        def field(stage, x):
            part = block.scheme.parts[stage]
            return (2 * part - 1) * F(part, x)

        state, energies = tuple(np.split(self.x, 2, axis=-1)), []
        for n in range(10_000):
            energies.append(energy(state))
            state = block.scheme.step(field, state, block.step_size)
            if n == 39:
                np.testing.assert_allclose(run(block, self.x), np.concatenate(state, -1), rtol=1e-8)
        errors = abs(np.array(energies) / energies[0] - 1)
        assert errors[5000:].max() == pytest.approx(errors[:5000].max(), rel=0.05)
        assert errors.max() < 5e-3

    @pytest.mark.parametrize("kind", BLOCKS)
    def test_spectrum_encloses_that_of_the_jacobian(self, kind, dense, float64):
        block = dense(kind, num_basis=2, basis="hat", steps=4)
        stage = [[ops.convert_to_numpy(s)[1] for s in rate.stacks] for rate in block.rates]
        parts = []
        for rate, weights in zip(block.rates, stage, strict=True):
            if weights:
                rate.template.layer.set_weights(weights)
                width = weights[0].shape[0]
                parts.append(jacobian(rate.template.layer, normal(width, seed=2)))
        zero, one = np.zeros_like(parts[0]), np.eye(len(parts[0]))
        matrix = parts[0]
        if kind is layers.HamiltonianBlock:
            matrix = np.block([[zero, parts[0]], [parts[1], zero]])
        elif kind is layers.SecondOrderBlock:
            matrix = np.block([[zero, parts[0]], [one, zero]])
        found, spectrum = np.linalg.eigvals(matrix), block.spectrum()
        assert abs(found).max() <= abs(spectrum).max() * (1 + 1e-6)
        # Not only trivially: within a factor of what is possible.
        assert abs(found).max() > 0.05 * abs(spectrum).max()
        assert found.real.max() < 1e-6 and spectrum.real.max() <= 0
        if kind is not layers.AntisymmetricBlock:
            axis = "real" if kind is layers.ParabolicBlock else "imag"
            np.testing.assert_allclose(
                found, getattr(found, axis) * (1 if axis == "real" else 1j), atol=1e-6
            )

    def test_spectrum_is_the_largest_over_the_stages(self, dense, float64):
        block = dense(layers.ParabolicBlock, basis="hat", num_basis=3, steps=4)
        (kernels,) = (s for s in block.rates[0].stacks if len(s.shape) == 3)
        kernels.assign(np.stack([k * np.eye(4) for k in (1.0, 2.0, 4.0)]))
        # Euler's stages are at 0, 1/4, 1/2 and 3/4, where theta is 1, 1.5, 2 and 3.
        assert abs(block.spectrum()).max() == pytest.approx(9, rel=1e-5)

    def test_images_and_vectors(self):
        block = layers.HamiltonianBlock(2, seed=1, kernel_initializer=small(0.1))
        for shape in ((2, 4), (2, 5, 4), (2, 6, 5, 4)):
            fresh = layers.HamiltonianBlock.from_config(block.get_config())
            assert run(fresh, normal(*shape)).shape == shape
            rank = len(fresh.rates[0].stacks[0].shape)
            assert rank == (5 if len(shape) == 4 else 3)

    def test_dense_file_round_trip(self, tmp_path):
        x = normal(3, 4).astype("float32")
        stack = [
            kind(4, kernel_initializer=small(0.1), gamma=0.1)
            if kind is BLOCKS[0]
            else kind(4, kernel_initializer=small(0.1), normalization="batch")
            for kind in BLOCKS
        ]
        model = keras.Sequential([keras.Input((4,)), *stack])
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(run(loaded, x), run(model, x))

    def test_files_hold_the_weights_and_no_others(self, tmp_path):
        model = keras.Sequential([keras.Input((4,)), layers.ParabolicBlock(4, seed=1)])
        model.save_weights(tmp_path / "a.weights.h5")
        sizes = []
        with h5py.File(tmp_path / "a.weights.h5") as file:
            file.visititems(lambda _, item: sizes.append(getattr(item, "size", 0)))
        assert sum(sizes) == model.count_params()

    def test_load_where_keras_sees_one_id_twice(self, tmp_path, monkeypatch):
        x = normal(3, 4).astype("float32")
        blocks = [kind(4, kernel_initializer=small(0.1), num_basis=2) for kind in BLOCKS]
        model = keras.Sequential([keras.Input((4,)), *blocks])
        model.save(tmp_path / "model.keras")
        # What happens when a template is freed, and the next takes its place in memory.
        monkeypatch.setattr(serialization_lib, "id", lambda obj: 1, raising=False)
        loaded = keras.models.load_model(tmp_path / "model.keras")
        monkeypatch.undo()
        np.testing.assert_array_equal(run(loaded, x), run(model, x))
        assert [b.get_config() for b in loaded.layers] == [b.get_config() for b in blocks]


class TestSeeds:
    @pytest.mark.parametrize("own", [False, True])
    def test_seed_fixes_the_weights_and_all_kernels_differ(self, own):
        def kernels(seed):
            initializer = keras.initializers.RandomNormal(0, 0.1, seed=seed if own else None)
            seed = None if own else seed
            block = layers.HamiltonianBlock(3, kernel_initializer=initializer, seed=seed)
            block.build((None, 8))
            stacks = [ops.convert_to_numpy(rate.stacks[0]) for rate in block.rates]
            return np.concatenate(stacks).reshape(6, -1)

        first = kernels(4)
        np.testing.assert_array_equal(first, kernels(4))
        assert len({k.tobytes() for k in [*first, *kernels(5)]}) == 12

    def test_none_draws_others(self):
        outputs = [run(layers.ParabolicBlock(8), np.ones((1, 4))) for _ in range(2)]
        assert not np.allclose(*outputs)


def compiled(function):
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    return function


def gradients(block, x):
    fixed = [v.value for v in block.non_trainable_variables]

    def loss(point):
        output, _ = block.stateless_call(point[:-1], fixed, point[-1], training=True)
        return ops.sum(ops.square(output) * np.linspace(0.5, 1, x.shape[-1], dtype="float32"))

    point = [v.value for v in block.trainable_variables] + [ops.convert_to_tensor(x)]
    slopes = compiled(lambda point: autodiff.value_and_grad(loss, point)[1])(point)
    return [ops.convert_to_numpy(slope) for slope in slopes]


class TestMemory:
    def test_hundred_hamiltonian_steps_have_one_gradient(self):
        x, found = normal(6, 8).astype("float32"), {}
        for memory in ("store", "remat", "checkpoint", "reversible"):
            block = layers.HamiltonianBlock(
                100, horizon=20.0, activation="tanh", basis="hat", num_basis=5, memory=memory,
                seed=2, kernel_initializer=small(0.3),
            )  # fmt: skip
            block.build(x.shape)
            found[memory] = gradients(block, x)
        for memory, other in found.items():
            for exact, gradient in zip(found["store"], other, strict=True):
                error = np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
                assert error < 1e-4, memory

    def test_reversible_with_batch_normalization(self):
        x, found = normal(16, 4).astype("float32"), []
        for memory in ("store", "reversible"):
            block = layers.HamiltonianBlock(
                2, normalization="batch", memory=memory, seed=2, kernel_initializer=small(0.2)
            )
            block.build(x.shape)
            found.append(gradients(block, x))
        for exact, gradient in zip(*found, strict=True):
            np.testing.assert_allclose(gradient, exact, rtol=2e-3, atol=1e-4 * abs(exact).max())


class TestPrecision:
    @pytest.mark.parametrize("kind", BLOCKS)
    def test_bfloat16_accumulates_in_float32(self, kind):
        # 100 increments, each less than a sum in bfloat16 would notice, 1 / 256.
        x = 1 + 0.1 * normal(2, 4).astype("float32")
        outputs = []
        for policy in ("float32", "mixed_bfloat16"):
            settings = {"activation": "tanh", "num_basis": 1, "seed": 1, "dtype": policy}
            block = kind(100, horizon=0.5, kernel_initializer=small(0.6), **settings)
            model = keras.Sequential([keras.Input((4,)), block])
            outputs.append(model.predict(x, verbose=0))
            assert str(outputs[-1].dtype) == policy.removeprefix("mixed_")
        exact, rough = (y.astype("float32") for y in outputs)
        assert np.linalg.norm(exact - x) > 0.05
        assert np.linalg.norm(rough - exact) < 0.01 * np.linalg.norm(exact)
        assert np.linalg.norm(rough - exact) < 0.3 * np.linalg.norm(exact - x)

    @pytest.mark.parametrize(("jit", "count"), [(False, 6), (True, 8)])
    def test_training_in_batches_of_four(self, jit, count):
        if BACKEND == "torch" and jit:
            pytest.skip("Keras compiles on TensorFlow and JAX")
        inputs = keras.Input((4,))
        x = layers.AntisymmetricBlock(2, "ssp_rk3", kernel_initializer=small(0.2))(inputs)
        x = layers.CayleyDense()(layers.HamiltonianBlock(2, kernel_initializer=small(0.2))(x))
        model = keras.Model(inputs, keras.layers.Dense(1)(x))
        model.compile("sgd", "mse", jit_compile=jit)
        data = normal(count, 4).astype("float32")
        history = model.fit(data, data[:, :1] ** 2, batch_size=4, epochs=2, verbose=0)
        assert history.history["loss"][1] < history.history["loss"][0]


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: layers.AntisymmetricBlock(2, kernel_size=2), "odd number"),
            (lambda: layers.ParabolicBlock(2, normalization="layer"), "unknown normalization"),
            (lambda: layers.HamiltonianBlock(2).build((None, 5)), "even number of channels"),
            (lambda: layers.HamiltonianBlock(2, scheme="rk4").build((None, 4)), "for 1 fields"),
            (lambda: layers.ParabolicBlock(2, scheme="verlet").build((None, 4)), "for 2 fields"),
            (lambda: layers.ParabolicBlock(2).spectrum(), "expected a layer that is built"),
            (lambda: models.parabolic_net(widths=()), "integers of at least 1"),
            (lambda: models.second_order_net(steps=0), "steps=0; expected an integer"),
            (lambda: models.hamiltonian_net(widths=(4, 3)), "even number of channels"),
        ],
    )
    def test_refusals(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    @pytest.mark.parametrize("kind", BLOCKS)
    def test_steps_outside_the_limit_are_announced(self, kind):
        block = kind(2, horizon=20.0, kernel_initializer=small(1))
        with pytest.warns(UserWarning, match="can grow by a factor of .*; use more steps"):
            block.build((None, 8))

    def test_euler_on_an_antisymmetric_equation_is_announced(self):
        with pytest.warns(UserWarning, match="'euler' with h = 0.1 can grow by a factor of 1.0"):
            layers.AntisymmetricBlock(10, scheme="euler", seed=1).build((None, 8))
