"""What every source of data comes to: checked images, labels and class names."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images (float32, NHWC, in [0, 1]) and labels (int64) of a classification task.

    Attributes:
        name: of the set.
        x_train, y_train: images `(n, height, width, channels)` and labels `(n,)` to train with.
        x_test, y_test: likewise, to measure with.
        class_names: of the labels, in order.
    """

    name: str
    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    class_names: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all images and labels: which data they are, whatever they are called."""
        found = hashlib.sha256()
        for key in KEYS:
            array = np.ascontiguousarray(getattr(self, key))
            found.update(f"{key} {array.dtype} {array.shape}".encode())
            found.update(array)
        return found.hexdigest()

    def split_validation(self, size, seed=0):
        """Part of the training set to select with, so that the test set never selects anything.

        Args:
            size: number of validation examples (integer), or their share in (0, 1).
            seed: integer; which examples.

        Returns:
            `((x_train, y_train), (x_validation, y_validation))`; both have the class frequencies of
            the training set.

        Raises:
            ValueError: one of the two parts would be empty.
        """
        total = len(self.y_train)
        count = round(size * total) if isinstance(size, float) else size
        if not 0 < count < total or (isinstance(size, float) and size >= 1):
            raise ValueError(
                f"Received a validation size of {size!r}; expected a share in (0, 1) or a count "
                f"from 1 to {total - 1} that leaves both parts of the {total} training examples "
                "non-empty, such as 0.1."
            )
        order = balanced_order(self.y_train, seed, proportional=True)
        validation, rest = order[:count], order[count:]
        return (
            (self.x_train[rest], self.y_train[rest]),
            (self.x_train[validation], self.y_train[validation]),
        )


def balanced_order(labels: np.ndarray, seed: int, proportional: bool = False) -> np.ndarray:
    """A random order of the examples in which every prefix represents the classes alike.

    Classes have equal shares of each prefix, or, if `proportional`, their shares of the whole.

    Args:
        labels: integers `(n,)`.
        seed: integer; which of these orders.
        proportional: whether frequent classes stay frequent.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    by_class = np.argsort(shuffled, kind="stable")
    counts = np.bincount(shuffled)
    rank = np.empty(len(labels))
    rank[by_class] = np.concatenate([np.arange(count) for count in counts])
    if proportional:
        rank = (rank + 0.5) / counts[shuffled]
    return order[np.argsort(rank, kind="stable")]


def checked(name, class_names, x_train, y_train, x_test, y_test) -> Dataset:
    """The data set of these arrays, converted; a `ValueError` says what is wrong with them."""
    y_train, y_test = _labels(name, "y_train", y_train), _labels(name, "y_test", y_test)
    x_train, x_test = _images(name, "x_train", x_train), _images(name, "x_test", x_test)
    for split, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(x) != len(y):
            raise ValueError(
                f"Received {name} with {len(x)} images in x_{split} and {len(y)} labels in "
                f"y_{split}; expected as many labels as images."
            )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"Received {name} with training images of shape {x_train.shape[1:]} and test images of "
            f"shape {x_test.shape[1:]}; expected one shape. Resize one of them."
        )
    labels = np.concatenate([y_train, y_test])  # packs may have one part only
    if not len(labels):
        raise ValueError(f"Received {name} without images; expected at least one.")
    largest = int(labels.max())
    if class_names is None:
        class_names = range(largest + 1)
    class_names = tuple(str(c) for c in class_names)
    if largest >= len(class_names):
        raise ValueError(
            f"Received {name} with the label {largest} and {len(class_names)} class names; "
            f"expected labels from 0 to {len(class_names) - 1}."
        )
    return Dataset(name, x_train, y_train, x_test, y_test, class_names)


def _images(name, key, x):
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(
            f"Received {name} with {key} of shape {x.shape}; expected (examples, height, width, "
            "channels), or without channels for one. Reshape it."
        )
    if x.dtype == np.uint8:
        return x / np.float32(255)
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"Received {name} with {key} of type {x.dtype}; expected uint8 from 0 to 255, or "
            "floats in [0, 1]. Convert it with astype('uint8')."
        )
    # Written so that NaN fails too.
    if x.size and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(
            f"Received {name} with {key} from {x.min()} to {x.max()}; expected floats in [0, 1]. "
            "Divide 0-255 images by 255, replace NaN, and leave normalisation to the model."
        )
    return x.astype("float32")


def _labels(name, key, y):
    if y.ndim == 2 and y.shape[1] > 1:
        if not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()):
            raise ValueError(
                f"Received {name} with {key} of shape {y.shape} that is not one-hot; expected "
                "integer labels, or one-hot rows with a single 1."
            )
        y = y.argmax(axis=1)
    elif y.ndim == 2:
        y = y[:, 0]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"Received {name} with {key} of shape {y.shape} and type {y.dtype}; expected integers "
            "of shape (examples,), or one-hot rows."
        )
    if y.size and y.min() < 0:
        raise ValueError(
            f"Received {name} with the label {y.min()} in {key}; expected labels from 0. Remove "
            "unlabelled examples."
        )
    return y.astype("int64")
