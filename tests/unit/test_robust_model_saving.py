"""RobustModel saved, loaded and continued, and the callbacks that do so."""

import keras
import numpy as np
import pytest
from robust_model_cases import (
    X,
    Y,
    assert_same_weights,
    cross_entropy,
    fit,
    functional,
    momentum,
    resume,
    robust,
    sequential,
)

from keras_pde.objectives import Adversarial, GradientPenalty, Plain


def test_saved_and_continued_equals_uninterrupted(tmp_path):
    """Momentum and the noise of random starts survive a `.keras` file (not dropout, in Keras)."""
    objective = Adversarial("linf", 0.1, random_start=True) + GradientPenalty("l2", 0.1)
    straight, broken = (robust(objective, sequential(), seed=5) for _ in range(2))
    expected = fit(straight, epochs=3)
    fit(broken, epochs=2)
    broken.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.objective == objective
    assert loaded.seed == 5
    history = resume(loaded)
    for name, values in history.items():
        np.testing.assert_allclose(values[0], expected[name][2], rtol=1e-6, err_msg=name)
    assert_same_weights(loaded, straight, 1e-6)


def test_weight_files_are_the_plain_models(tmp_path):
    wrapper = robust(Plain())
    best = keras.callbacks.ModelCheckpoint(tmp_path / "c.weights.h5", save_weights_only=True)
    fit(wrapper, epochs=1, callbacks=[best])
    wrapper.save_weights(tmp_path / "w.weights.h5")
    for name in ("c", "w"):
        plain = functional()
        plain.load_weights(tmp_path / f"{name}.weights.h5")
        assert_same_weights(plain, wrapper.model)
    other = robust(Plain())
    other.load_weights(tmp_path / "w.weights.h5")
    assert_same_weights(other, wrapper)


def test_backup_and_restore_continues_the_optimizer(tmp_path):
    """Momentum, and the step number, which is what noise and schedules are functions of."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def make():
        return robust(Adversarial("linf", 0.1, random_start=True), sequential())

    straight, broken, resumed = make(), make(), make()
    expected = fit(straight, epochs=3)
    backup = [keras.callbacks.BackupAndRestore(tmp_path / "backup")]
    with pytest.raises(KeyboardInterrupt):
        fit(broken, epochs=3, callbacks=[*backup, Stop()])
    history = fit(resumed, epochs=3, callbacks=backup)
    np.testing.assert_allclose(history["loss"], expected["loss"][2:], rtol=1e-6)
    assert_same_weights(resumed, straight, 1e-6)
    assert resumed.model.optimizer is None


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")  # as plain Keras
def test_weight_files_with_and_without_optimizer_can_be_loaded(tmp_path):
    """By the wrapper and by the plain model, compiled or not."""
    plain, wrapper = sequential(), robust(Plain(), sequential())
    files = [tmp_path / f"{i}.weights.h5" for i in range(3)]
    plain.save_weights(files[0])
    for model, file in ((plain, files[1]), (wrapper, files[2])):
        fit(model, epochs=1)
        model.save_weights(file)
    for file in files:
        expected = sequential()
        expected.load_weights(file)
        for model in (robust(Plain(), sequential()), sequential()):
            model.load_weights(file)
            assert_same_weights(model, expected)
            model.compile(momentum(), cross_entropy())
            model.set_weights([0 * w for w in model.get_weights()])
            model.load_weights(file)
            assert_same_weights(model, expected)


def test_callbacks(tmp_path):
    wrapper = robust(Adversarial("l2", 0.1), sequential())
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=0, restore_best_weights=True),
        keras.callbacks.LearningRateScheduler(lambda epoch: -1.0),  # training makes it worse
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", save_best_only=True),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = fit(wrapper, epochs=5, validation_data=(X, Y), callbacks=callbacks)
    assert len(history["loss"]) < 5
    assert (tmp_path / "log.csv").read_text().startswith("epoch,accuracy,adversarial,")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_weights(loaded, wrapper)
