"""Data sets by name or path: the embedded sample, `.npz` files, TensorFlow Datasets."""

import os
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from keras_pde.registry import unknown_name

SAMPLE = "fashion_mnist_sample"
NAMES = (SAMPLE, "mnist", "fashion_mnist", "cifar10")

KEYS = ("x_train", "y_train", "x_test", "y_test")
_SAMPLE_FILE = Path(__file__).parent / "samples" / "fashion_mnist.npz"
_INSTALL = "pip install 'keras_pde[data]'"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images (float32, NHWC, in [0, 1]) and labels (int64) of a classification task."""

    name: str
    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    class_names: tuple[str, ...]

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


def load(name_or_path, limit=None, data_dir=None, download=False, seed=0) -> Dataset:
    """The data set of that name, or the one stored at that path.

    Args:
        name_or_path: one of `NAMES`; a `.npz` file with the arrays x_train, y_train, x_test, y_test
            and, optionally, class_names; or a folder of TensorFlow Datasets. Images are uint8, or
            floats in [0, 1]; labels are integers or one-hot.
        limit: at most so many training examples, evenly from all classes; None for all. A
            smaller limit takes a subset of a larger one.
        data_dir: folder where a named set is looked for first; then come the environment variable
            `TFDS_DATA_DIR` and `~/tensorflow_datasets`.
        download: whether a set that is in none of these may be downloaded, to the first of them.
        seed: integer; which examples `limit` takes.

    Raises:
        ValueError: the name is unknown, or the stored data are not what they should be.
        FileNotFoundError: the data are absent; the message lists the ways to get them.
        ImportError: reading them needs tensorflow-datasets, which is not installed.

    Example:

    >>> data = keras_pde.data.load("fashion_mnist_sample", limit=1000)
    """
    if limit is not None and limit < 1:
        raise ValueError(f"Received limit={limit!r}; expected None or a positive integer.")
    dataset = _load(name_or_path, data_dir, download)
    if limit is None:
        return dataset
    kept = balanced_order(dataset.y_train, seed)[:limit]
    return replace(dataset, x_train=dataset.x_train[kept], y_train=dataset.y_train[kept])


def _load(name_or_path, data_dir, download):
    if name_or_path == SAMPLE:
        return _from_npz(_SAMPLE_FILE, SAMPLE)
    if name_or_path in NAMES:
        return _from_tfds(_find(name_or_path, data_dir, download), name_or_path)
    path = Path(name_or_path).expanduser()
    if path.suffix == ".npz":
        if not path.is_file():
            raise FileNotFoundError(
                f"Received the path {str(name_or_path)!r}, which is no file (looked at "
                f"{path.absolute()}); expected a .npz with the arrays {', '.join(KEYS)}."
            )
        return _from_npz(path, path.stem)
    if path.is_dir():
        folder = _newest_version(path)
        if folder is None:
            raise FileNotFoundError(
                f"Received the folder {str(name_or_path)!r}; expected one that TensorFlow Datasets "
                "prepared, with a dataset_info.json in it or in a version folder such as 3.0.1."
            )
        return _from_tfds(folder, path.name if folder != path else path.absolute().parent.name)
    error = unknown_name("data set", name_or_path, NAMES)
    raise ValueError(f"{error} It is no .npz file and no existing folder either.")


def balanced_order(labels, seed, proportional=False):
    """A random order of the examples in which every prefix represents the classes alike.

    Classes have equal shares of each prefix, or, if `proportional`, their shares of the whole.
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


def _from_npz(path, name):
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in (*KEYS, "class_names") if key in archive}
            found = archive.files
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"Received {path}, which cannot be read ({error}); expected an archive of plain "
            "arrays: write it with numpy.savez_compressed."
        ) from error
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise ValueError(
            f"Received {path} with the arrays {found}, without {missing}; expected all of "
            f"{', '.join(KEYS)}."
        )
    class_names = arrays.pop("class_names", None)
    return _checked(name, class_names, **arrays)


def _find(name, data_dir, download):
    """The folder of the newest prepared version of a set of TensorFlow Datasets."""
    roots = [data_dir, os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets"]
    roots = [Path(root).expanduser() for root in roots if root]
    for root in roots:
        # tensorflow_datasets retries the network for minutes before it says that a set is absent.
        if folder := _newest_version(root / name):
            return folder
    if not download:
        looked = ", ".join(f"{root / name}/<version>/dataset_info.json" for root in roots)
        raise FileNotFoundError(
            f"Received the data set {name!r}, which is not on this machine: looked for {looked}. "
            f"Ways to get it: download=True or --download (needs {_INSTALL}); point data_dir or "
            "TFDS_DATA_DIR to the folder where TensorFlow Datasets prepared it; pass "
            f"the path of a .npz with {', '.join(KEYS)}; or use {SAMPLE!r}, which is always there."
        )
    tfds = _import_tfds()
    builder = tfds.builder(name, data_dir=str(roots[0]))
    builder.download_and_prepare()
    return Path(builder.data_dir)


def _newest_version(folder):
    """`folder` if it is a prepared set, else its newest version that is one, else None."""
    if (folder / "dataset_info.json").is_file():
        return folder
    versions = [info.parent for info in folder.glob("*.*.*/dataset_info.json")]
    return max(versions, key=_version, default=None)


def _version(folder):
    return [
        (part.isdigit(), int(part) if part.isdigit() else part) for part in folder.name.split(".")
    ]


def _import_tfds():
    try:
        import tensorflow  # noqa: F401  (tensorflow_datasets imports it lazily, too late to explain)
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"Reading TensorFlow Datasets needs the packages tensorflow and tensorflow-datasets "
            f"({error}): {_INSTALL}. Without TensorFlow, use a .npz or {SAMPLE!r}."
        ) from error
    return tensorflow_datasets


def _from_tfds(folder, name):
    tfds = _import_tfds()
    builder = tfds.builder_from_directory(str(folder))
    splits, features = builder.info.splits, builder.info.features
    image, label = builder.info.supervised_keys or ("image", "label")
    if not {"train", "test"} <= set(splits) or not {image, label} <= set(features):
        raise ValueError(
            f"Received {folder} with the splits {sorted(splits)} and the features "
            f"{sorted(features)}; expected the splits train and test and the features image and "
            f"label. Save what you need as a .npz with {', '.join(KEYS)}."
        )
    arrays = {}
    for split in ("train", "test"):
        examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
        arrays[f"x_{split}"], arrays[f"y_{split}"] = examples[image], examples[label]
    return _checked(name, getattr(features[label], "names", None), **arrays)


def _checked(name, class_names, x_train, y_train, x_test, y_test):
    y_train, y_test = _labels(name, "y_train", y_train), _labels(name, "y_test", y_test)
    x_train, x_test = _images(name, "x_train", x_train), _images(name, "x_test", x_test)
    for split, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(
                f"Received {name} with {len(x)} images in x_{split} and {len(y)} labels in "
                f"y_{split}; expected as many labels as images, and at least one."
            )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"Received {name} with training images of shape {x_train.shape[1:]} and test images of "
            f"shape {x_test.shape[1:]}; expected one shape. Resize one of them."
        )
    largest = int(max(y_train.max(), y_test.max()))
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
