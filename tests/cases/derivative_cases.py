"""What the tests of second derivatives share: the shape of images, and where they run."""

import keras
import pytest

IMAGES = (8, 8, 3)
ON_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the others' are right"
)
