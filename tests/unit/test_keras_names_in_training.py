"""What is private in Keras' trainings and optimizers: each assumption about it still holds."""

import keras
import numpy as np
import pytest
from keras import ops
from keras_names_cases import X, Y, model

from keras_pde import _keras

BACKEND = keras.backend.backend()


def compiled(optimizer="sgd"):
    one = model()
    one.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return one


def test_replace_optimizer(tmp_path):
    one = compiled()
    one.fit(X, Y, verbose=0)
    _keras.replace_optimizer(one, keras.optimizers.Adam(0.25))
    one.optimizer.build(one.trainable_variables)
    one.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, keras.optimizers.Adam)


def test_regularisers():
    one = compiled()
    plain = float(one.compute_loss(X, Y, one(X), None))
    with _keras.regularisers(one, [ops.convert_to_tensor(2.0)]):
        more = float(one.compute_loss(X, Y, one(X), None))
    assert more - plain == pytest.approx(2.0, rel=1e-5)
    assert float(_keras.as_added(one, ops.convert_to_tensor(2.0))) == 2.0
    assert float(one.compute_loss(X, Y, one(X), None)) == pytest.approx(plain, rel=1e-6)


def test_track_loss():
    if BACKEND != "tensorflow":
        pytest.skip("of `train_step` on TensorFlow")
    one = compiled()
    _keras.track_loss(one, 3.0, 1)
    _keras.track_loss(one, 6.0, 2)
    assert float(one.metrics[0].result()) == 5.0 and one.metrics[0].name == "loss"


def test_put_back():
    if BACKEND != "jax":
        pytest.skip("on JAX alone `fit` takes the values out of the variables")
    one = compiled("adam")

    def train_function(state, iterator):
        _keras.put_back(one, state)
        raise KeyboardInterrupt

    one.train_function = train_function
    before = one.get_weights()
    with pytest.raises(KeyboardInterrupt):
        one.fit(X, Y, verbose=0)
    for a, b in zip(before, one.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def built(optimizer, **gradients):
    variables = [keras.Variable(np.ones(2), name="a"), keras.Variable(np.ones(3), name="b")]
    optimizer.build(variables)
    return optimizer, variables


def test_optimizers():
    optimizer = keras.optimizers.Adam(0.1, use_ema=True, weight_decay=0.1)
    assert not _keras.holds_values(optimizer)
    optimizer.exclude_from_weight_decay(var_names=["b"])
    optimizer, (a, b) = built(optimizer)
    assert _keras.holds_values(optimizer)
    assert all(v is w for v, w in zip(_keras.trained_by(optimizer), (a, b), strict=True))
    assert (_keras.place(optimizer, a), _keras.place(optimizer, b)) == (0, 1)
    assert (_keras.decays(optimizer, a), _keras.decays(optimizer, b)) == (True, False)
    _keras.leave_undecayed(optimizer, [a])  # though it is built
    assert not _keras.decays(optimizer, a)
    optimizer.apply([ops.ones(2), ops.ones(3)])
    assert int(_keras.batches_of(optimizer)) == 1
    averages = _keras.moving_averages(optimizer)
    np.testing.assert_allclose(ops.convert_to_numpy(averages[0]), ops.convert_to_numpy(a))
    assert {v.path for v in _keras.own_variables(optimizer)} == {
        v.path for v in optimizer.variables
    }


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (lambda: keras.optimizers.SGD(momentum=0.9), {"momentums": "gradients"}),
        (lambda: keras.optimizers.Adam(amsgrad=True), {"_momentums", "_velocities"}),
        (lambda: keras.optimizers.RMSprop(), {"_velocities": "squares"}),
        (lambda: keras.optimizers.Adagrad(), {"_accumulators": "squares"}),
        (lambda: keras.optimizers.Adamax(), {"_m": "gradients"}),
        (lambda: keras.optimizers.SGD(use_ema=True), {"_model_variables_moving_average"}),
        (lambda: keras.optimizers.SGD(gradient_accumulation_steps=2), {"_accumulated_gradients"}),
    ],
)
def test_slots(optimizer, names):
    found = _keras.slots_of(built(optimizer())[0])
    assert set(names) <= set(found), "the names that Keras gives its slots have changed"
    assert set(names) <= set(_keras.SLOT_KINDS)
    assert not {"_variables", "_trainable_variables"} & set(found)


def test_strategies():
    if BACKEND != "tensorflow":
        pytest.skip("of TensorFlow")
    import tensorflow as tf

    optimizer, variables = built(keras.optimizers.SGD(0.1))
    pairs = [(tf.ones(v.shape), v.value) for v in variables]
    summed = _keras.summed_over_replicas(optimizer, pairs)
    assert [float(g[0]) for g, _ in summed] == [1.0, 1.0]
    assert hasattr(_keras.strategy_of(optimizer), "num_replicas_in_sync")


class Recorder(_keras.Optimizer):
    """Notes what Keras calls."""

    def __init__(self, **kwargs):
        super().__init__(0.1, **kwargs)
        self.calls = []

    def with_gradients(self, gradients, variables):
        self.calls.append("with_gradients")
        return super().with_gradients(gradients, variables)

    def clip_all(self, gradients):
        self.calls.append("clip_all")
        return super().clip_all(gradients)

    def decay_weights(self, variables):
        self.calls.append("decay_weights")
        super().decay_weights(variables)

    def update_all(self, gradients, variables, learning_rate):
        self.calls.append("update_all")
        super().update_all(gradients, variables, learning_rate)

    def update_averages(self, variables):
        self.calls.append("update_averages")
        super().update_averages(variables)

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, learning_rate * gradient)


def test_what_subclasses_take_over():
    optimizer, (a, b) = built(Recorder(clipvalue=0.5, use_ema=True))
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([ops.ones(2), None])
    assert optimizer.calls == [
        "with_gradients",
        "clip_all",
        "decay_weights",
        "update_all",
        "update_averages",
    ]
    np.testing.assert_allclose(ops.convert_to_numpy(a), 0.95)
    np.testing.assert_allclose(ops.convert_to_numpy(b), 1.0)
    gradients, variables = optimizer.without_overwritten([ops.ones(2)], [a])
    assert len(gradients) == len(variables) == 1
    assert optimizer.place(b) == 1 and optimizer.trained[1] is b
