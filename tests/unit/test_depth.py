"""Depth as a dial: refined, projected and shortened models, also within a training."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from selection import some

from keras_pde import RobustModel, callbacks, objectives, optimizers
from keras_pde.layers import ContinuousBlock, batch_norm
from keras_pde.layers.continuous import bases
from keras_pde.models import depth
from keras_pde.optimizers import state

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = np.sin(X.sum(1, keepdims=True))


def network(basis="constant", num_basis=None, steps=2, scheme="euler", norm=True):
    keras.utils.set_random_seed(0)
    rate = keras.Sequential([layers.Dense(6, activation="tanh")] + [batch_norm()] * norm)
    inputs = keras.Input((6,))
    y = ContinuousBlock(rate, steps, scheme, basis, num_basis, name="block")(inputs)
    return keras.Model(inputs, layers.Dense(1)(y))


def moved(*args, **kwargs):
    """The network with weights as after a training: those of the depths differ."""
    model, rng = network(*args, **kwargs), np.random.default_rng(0)
    for weight in model.weights:
        noise = rng.normal(0, 0.1, weight.shape)
        weight.assign(weight + (abs(noise) if "variance" in weight.path else noise))
    return model


def predict(model):
    return ops.convert_to_numpy(model(X))


BASES = [
    ("constant", 2),
    ("hat", 3),
    ("discontinuous_linear", 4),
    ("polynomial", 2),
    ("fourier", 2),
    ("bspline", 4),
]


@pytest.mark.parametrize(("basis", "count"), BASES)
def test_refine_then_project_is_the_identity(basis, count, tmp_path):
    model = moved(basis, count, steps=4)
    fine = depth.refine(model)
    block = fine.get_layer("block")
    assert (block.steps, block.num_basis) == (8, block.basis.refined(count))
    back = depth.shorten(depth.project(fine, num_basis=count), 4)
    for old, new in zip(model.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    np.testing.assert_allclose(predict(back), predict(model), atol=1e-5)
    # Another basis with fewer or more coefficients, saved and loaded.
    other = depth.project(fine, "hat" if basis == "constant" else "constant", 2)
    other.save(tmp_path / "other.keras")
    np.testing.assert_array_equal(
        predict(keras.models.load_model(tmp_path / "other.keras")), predict(other)
    )


def test_refinement_computes_the_same_as_the_grid_gets_finer():
    model = depth.with_solver(moved("constant", 2, norm=False), "rk4", 16)
    # Changed by the error of 16 steps instead of 32.
    np.testing.assert_allclose(predict(depth.refine(model)), predict(model), atol=1e-5)


def test_variances_stay_positive():
    fine = depth.refine(moved("hat", 5, steps=4))
    for count in (2, 3, 4):
        block = depth.project(fine, num_basis=count).get_layer("block")
        _, variance = (ops.convert_to_numpy(c) for c in block.rates[0].cells)
        assert variance.shape[0] == count - 1
        assert variance.min() > 0


def test_the_model_itself_is_left_alone():
    model = moved()
    before = [w.copy() for w in model.get_weights()]
    for change in (
        depth.refine,
        lambda m: depth.project(m, num_basis=1),
        lambda m: depth.shorten(m, 1),
    ):
        change(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_nested_and_sequential_models():
    inner = keras.Sequential([keras.Input((6,)), network().get_layer("block")])
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(1)(inner(inputs)))
    assert [block.steps for block in depth.blocks(depth.refine(model))] == [4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: depth.shorten(m, 4), "expected fewer"),
        (lambda m: depth.shorten(m, 0), "at least 1"),
        (lambda m: depth.project(m), "at least one"),
        (lambda m: depth.project(m, "hatt"), "Did you mean"),
        (lambda m: depth.project(m, "polynomial", 3), "at least as many steps"),
        (lambda m: depth.with_solver(m, "rk44"), "Did you mean"),
    ],
)
def test_changes_that_cannot_be_made_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change(network())


def test_models_without_blocks_are_refused():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="no ContinuousBlock"):
        depth.refine(model)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no ContinuousBlock"):
        model.fit(X, Y, verbose=0, callbacks=[callbacks.RefineDepth([1])])


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.01),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.05),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True),
    # Three epochs of two batches end within a cycle of five.
    "entropy": lambda: optimizers.EntropySGD(1.0, 0.02, 5, 0.1, momentum=0.3, inner_momentum=0.5),
    "sam": lambda: optimizers.SAM(keras.optimizers.Adam(0.01)),
    "lookahead": lambda: optimizers.Lookahead(keras.optimizers.Adam(0.01), 5),
    "averaging": lambda: optimizers.StochasticWeightAveraging(keras.optimizers.Adam(0.01), 2),
    "salr": lambda: optimizers.SALR(0.02, momentum=0.9),
    "sagd": lambda: optimizers.SAGD(0.1, smallest=2, largest=2),
}


@pytest.mark.filterwarnings("ignore:.*ends within a cycle")
@pytest.mark.parametrize("name", some(OPTIMIZERS, fast=["adamw", "ema", "entropy", "lookahead"]))
def test_training_goes_on_through_a_refinement(name):
    model = network(steps=1)
    # On TensorFlow the few steps of the others are faster than three traces each.
    eagerly = keras.backend.backend() == "tensorflow" and name != "adamw"
    model.compile(OPTIMIZERS[name](), "mse", run_eagerly=eagerly)
    refine = callbacks.RefineDepth([3, 4])
    history = model.fit(X, Y, epochs=6, verbose=0, callbacks=[refine], validation_data=(X, Y))
    block = model.get_layer("block")
    assert (block.steps, block.num_basis) == (4, 4)
    assert int(model.optimizer.iterations) == 12
    assert len(model.optimizer.variables) == len(set(map(id, model.optimizer.variables)))
    losses = history.history["loss"]
    assert losses[-1] < losses[2]
    if name != "ema":  # with which Keras cannot fit twice on JAX
        model.fit(X, Y, epochs=1, verbose=0)
    assert predict(model).shape == (64, 1)


@keras.saving.register_keras_serializable("test_depth")
class _Bias(layers.Layer):
    """A rate that does not depend on y."""

    def build(self, shape):
        self.bias = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, y):
        return self.bias + 0 * y


def test_adam_updates_are_continuous_through_a_refinement():
    # Refined steps add up to the coarse ones exactly, and each child's gradient is half of its
    # parent's.
    inputs = keras.Input((6,))

    def grown(refined):
        keras.utils.set_random_seed(0)
        block = ContinuousBlock(_Bias(), 2, "euler", name="block")
        model = keras.Model(inputs, layers.Dense(1)(block(inputs)))
        model.compile(keras.optimizers.Adam(0.01, epsilon=1e-30), "mse")
        chosen = [callbacks.RefineDepth([3])] if refined else []
        return model, model.fit(X, Y, epochs=6, batch_size=64, verbose=0, callbacks=chosen)

    (plain, straight), (fine, through) = grown(False), grown(True)
    np.testing.assert_allclose(through.history["loss"], straight.history["loss"], rtol=1e-5)
    coarse, split = (m.get_layer("block").rates[0].stacks[0] for m in (plain, fine))
    np.testing.assert_allclose(np.repeat(ops.convert_to_numpy(coarse), 2, 0), split, rtol=1e-4)


def test_slots_of_constant_pieces():
    constant = bases.get("constant")
    transfer = bases.slot_transfer(constant, 2, constant, 4)
    pairs = np.kron(np.eye(2), np.ones((2, 1)))
    np.testing.assert_allclose(transfer.weights, pairs, atol=1e-8)
    np.testing.assert_allclose(transfer.gradients, pairs / 2, atol=1e-8)
    np.testing.assert_allclose(transfer.squares, pairs / 4, atol=1e-8)


@pytest.mark.parametrize(("basis", "count"), BASES)
def test_carried_gradients_are_those_of_the_same_function(basis, count):
    # For a loss with L2 gradient g(t), coefficient k has gradient int phi_k g.
    basis = bases.get(basis)
    finer = basis.refined(count)
    transfer = bases.slot_transfer(basis, count, basis, finer)
    coefficients = np.random.default_rng(0).normal(size=count)
    rows, weights = bases.quadrature(basis, count)
    fine_rows, fine_weights = bases.quadrature(basis, finer)
    old = (rows.T * weights) @ rows @ coefficients
    new = (fine_rows.T * fine_weights) @ fine_rows @ (transfer.weights @ coefficients)
    np.testing.assert_allclose(transfer.gradients @ old, new, atol=1e-9)
    assert (transfer.squares >= 0).all()


def test_exclusions_from_decay_are_carried_over():
    model = network()
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay([model.get_layer("block").rates[0].stacks[1]])
    optimizer.build(model.trainable_variables)
    new = state.carried_over(optimizer, model.trainable_variables, {})
    decayed = [new._use_weight_decay(v) for v in model.trainable_variables]
    assert decayed == [i != 1 for i in range(len(decayed))]


def test_exclusions_from_decay_and_frozen_layers_stay_so(tmp_path):
    model = network(norm=False)
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse")
    solved = depth.with_solver(model, steps=4)
    for variable in solved.trainable_variables:
        assert solved.optimizer._use_weight_decay(variable) == ("bias" not in variable.path)

    block = model.get_layer("block")
    block.trainable = False
    model.compile("sgd", "mse")
    model.save(tmp_path / "frozen.keras")
    for copy in (depth.refine(model), keras.models.load_model(tmp_path / "frozen.keras")):
        assert len(copy.trainable_variables) == len(model.trainable_variables)
        copy.get_layer("block").trainable = True
        assert len(copy.trainable_variables) > len(model.trainable_variables)


def test_a_block_that_nested_models_share_is_refused():
    """Keras would make two of it, for which there are the weights of one."""
    block = ContinuousBlock(layers.Dense(6, name="rate"), 2, "euler")
    inputs = x = keras.Input((6,))
    for _ in range(2):
        x = keras.Sequential([keras.Input((6,)), layers.Dense(6), block])(x)
    with pytest.raises(ValueError, match="a layer that several nested models share"):
        depth.refine(keras.Model(inputs, x))


def test_refined_models_are_saved_with_their_optimizer(tmp_path):
    model = network(steps=1)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[callbacks.RefineDepth([1])])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 4
    for one, other in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(one), ops.convert_to_numpy(other), err_msg=one.path
        )
    np.testing.assert_array_equal(predict(loaded), predict(model))


def test_robust_training_with_averages_is_refined_too():
    model = network(steps=1)
    robust = RobustModel(model, objectives.Adversarial("l2", 0.1, bounds=None), average=0.9)
    robust.compile("adam", "mse")
    robust.fit(X, Y, epochs=3, verbose=0, callbacks=[callbacks.RefineDepth([1])])
    assert [block.steps for block in depth.blocks(robust)] == [2, 2]
    assert robust.result.get_layer("block").rates[0].stacks[0].shape[0] == 2


def test_what_was_compiled_stays_so():
    """With an optimizer for the new coefficients, which has not begun."""
    model = network(steps=1)
    assert not depth.refine(model).compiled
    model.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
    model.fit(X, Y, verbose=0)
    finer = depth.refine(model)
    assert finer.optimizer.learning_rate == 0.02 and int(finer.optimizer.iterations) == 0
    assert int(model.optimizer.iterations) == 2
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)
    found = finer.evaluate(X, Y, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=0.2) and "mae" in found
    finer.fit(X, Y, verbose=0)

    def own(y, z):
        return ops.square(y - z)

    model.compile("adam", own)
    with pytest.warns(UserWarning, match="is not compiled, since something"):
        assert not depth.refine(model).compiled

    robust = RobustModel(
        network(steps=1), objectives.Adversarial("l2", 0.1, bounds=None), average=0.9
    )
    robust.compile("adam", "mse")
    shorter = depth.with_solver(robust, steps=2)
    assert shorter.averaged.get_layer("block").steps == 2
    shorter.fit(X, Y, verbose=0)


@pytest.mark.parametrize("epochs", [[], [0], [3, 3], [1.5]])
def test_epochs_that_are_none_are_refused(epochs):
    with pytest.raises(ValueError, match="epoch"):
        callbacks.RefineDepth(epochs)


def test_copies_keep_what_a_normalization_was_adapted_to():
    """Refined ones, and the averaged one of a training."""
    normalize = layers.Normalization()
    normalize.adapt(3 + 2 * X)
    inputs = keras.Input((6,))
    block = ContinuousBlock(layers.Dense(6, "tanh"), 1, "euler")
    model = keras.Model(inputs, layers.Dense(1)(block(normalize(inputs))))
    expected = ops.convert_to_numpy(model(X))
    refined = depth.with_solver(model, steps=1)
    averaged = RobustModel(model, objectives.Plain(), average=0.9).averaged
    for copy in (refined, averaged):
        np.testing.assert_allclose(ops.convert_to_numpy(copy(X)), expected, rtol=1e-5, atol=1e-6)
