"""RefineDepth beside callbacks that put weights back, which may be of another depth."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_pde as kp

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = X[:, :1]


def network():
    inputs = keras.Input((3,))
    rate = layers.Dense(3, "tanh")
    block = kp.layers.ContinuousBlock(rate, 1, "euler", num_basis=1)
    model = keras.Model(inputs, layers.Dense(1)(block(inputs)))
    model.compile("adam", "mse")
    return model


class Scores(keras.callbacks.Callback):
    """Logs given scores, and keeps what the model gives after each epoch."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.outputs, self.steps = scores, [], []

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = self.scores[epoch]
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.outputs.append(ops.convert_to_numpy(self.model(X)))
        self.steps.append(self.model.layers[1].steps)


@pytest.mark.parametrize("best", [0, 1, 3])
@pytest.mark.parametrize("first", [True, False])
def test_the_best_weights_are_restored_at_their_depth(best, first):
    model, seen = network(), Scores([float(n == best) for n in range(4)])
    refine = kp.callbacks.RefineDepth([1, 2])
    stop = keras.callbacks.EarlyStopping("score", mode="max", restore_best_weights=True, patience=9)
    callbacks = [refine, seen, stop] if first else [seen, stop, refine]
    model.fit(X, Y, epochs=4, verbose=0, callbacks=callbacks)
    assert seen.steps == [1, 2, 4, 4] and model.layers[1].steps == seen.steps[best]
    np.testing.assert_allclose(ops.convert_to_numpy(model(X)), seen.outputs[best], atol=1e-6)
    np.testing.assert_allclose(model.predict(X, verbose=0), seen.outputs[best], atol=1e-6)
    model.fit(X, Y, verbose=0)  # goes on from there


@pytest.mark.parametrize("first", [True, False])
def test_a_backup_is_resumed_at_its_depth(first, tmp_path):
    def callbacks(*more):
        refine = kp.callbacks.RefineDepth([1, 2])
        backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
        return [*([refine, backup] if first else [backup, refine]), *more]

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    settings = {"shuffle": False, "verbose": 0, "epochs": 4}
    whole = network()
    start = whole.get_weights()
    whole.fit(X, Y, callbacks=[kp.callbacks.RefineDepth([1, 2])], **settings)
    killed = network()
    killed.set_weights(start)
    with pytest.raises(KeyboardInterrupt):
        killed.fit(X, Y, callbacks=callbacks(Killed()), **settings)
    resumed = network()
    seen = Scores([0.0] * 4)
    resumed.fit(X, Y, callbacks=callbacks(seen), **settings)
    assert seen.steps == [4] and resumed.layers[1].steps == 4
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Skipping")
def test_after_training_weights_of_another_network_change_nothing(tmp_path):
    model = network()
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[kp.callbacks.RefineDepth([1])])
    other = keras.Sequential([keras.Input((3,)), layers.Dense(7)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError):
        model.load_weights(tmp_path / "other.weights.h5")
    assert model.layers[1].steps == 2
