"""What the tests of the weights to judge by share: data, a network, and a callback that looks."""

import keras
import numpy as np

import keras_pde as kp

X = np.random.default_rng(0).normal(2.0, 3.0, size=(50, 4)).astype("float32")
Y = X.sum(1)[:, None]


def network(*layers):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])


class Seen(keras.callbacks.Callback):
    """The weights at the end of each epoch, and those of each validation."""

    def __init__(self):
        super().__init__()
        self.epochs, self.validations, self.batches = [], [], []

    def _weights(self):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        return self.model.get_weights()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self._weights())

    def on_test_begin(self, logs=None):
        self.validations.append(self._weights())

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(self._weights())


def run(optimizer, *callbacks, epochs=2):
    """Five batches an epoch."""
    model, seen = network(), Seen()
    model.compile(optimizer, "mse")
    options = {"batch_size": 10, "shuffle": False, "verbose": 0, "epochs": epochs}
    model.fit(X, Y, validation_data=(X, Y), callbacks=[*callbacks, seen], **options)
    return model, seen


def entropy(**arguments):
    return kp.optimizers.EntropySGD(0.5, 0.001, 3, 0.1, **arguments)
