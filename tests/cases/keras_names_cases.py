"""What the tests of Keras' private names share: images, and a nested model."""

import keras
import numpy as np
from keras import layers

X, Y = np.ones((4, 3), "float32"), np.zeros(4, "int32")


def model():
    """A nested model with a layer that is called twice."""
    shared = layers.Dense(3)
    inner = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5), layers.Dense(3)])
    inputs = keras.Input((3,))
    return keras.Model(inputs, inner(shared(shared(inputs))))
