"""Data sets by name or path: the embedded sample, `.npz` files, TensorFlow Datasets."""

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_pde.checks import check_choice, check_count, optional
from keras_pde.data import foreign, identity, own, tfds
from keras_pde.data.dataset import KEYS, Dataset, balanced_order, checked
from keras_pde.registry import unknown_name

SAMPLE = "fashion_mnist_sample"
NAMES = (SAMPLE, "mnist", "fashion_mnist", "cifar10")
SAMPLE_FILE = Path(__file__).parents[1] / "samples" / "fashion_mnist.npz"


def load(
    name_or_path: str | Path,
    limit: int | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    layout: str | None = None,
    num_classes: int | None = None,
) -> Dataset:
    """The data set of that name, or the one stored at that path.

    Args:
        name_or_path: one of `NAMES`; a `.npz` file with the arrays x_train, y_train, x_test, y_test
            and, optionally, class_names; a folder with a folder of images for each class, in it or
            in its folders train and test; a `.csv` with a column label and the pixels of square
            images; or a folder of TensorFlow Datasets. Images are uint8, or floats in [0, 1];
            labels are integers from 0, one-hot, or words. Of a set without a test part, a part of
            the training examples is one, and a warning says so.
        limit: at most so many training examples, evenly from all classes; None for all. A
            smaller limit takes a subset of a larger one.
        data_dir: folder where a named set is looked for first; then come the environment variable
            `TFDS_DATA_DIR` and `~/tensorflow_datasets`. In each, `NAME.npz` precedes what
            TensorFlow Datasets prepared, since every backend can read it; other images than those
            of that set are refused.
        download: whether a set that is in none of these may be downloaded, to the first of them.
        seed: integer; which examples `limit` takes.
        layout: of a `.npz`: `"channels_last"`, `"channels_first"`, or None, if the shape is to
            tell.
        num_classes: of labels that are numbers; None if all classes have examples, or are named.

    Raises:
        ValueError: the name is unknown, or the stored data are not what they should be.
        FileNotFoundError: the data are absent; the message lists the ways to get them.
        ImportError: reading them needs tensorflow-datasets, which is not installed.

    Example:

    >>> data = keras_pde.data.load("fashion_mnist_sample", limit=1000)
    """
    if limit is not None and limit < 1:
        raise ValueError(f"Received limit={limit!r}; expected None or a positive integer.")
    optional(check_choice, layout, "layout", own.LAYOUTS)
    optional(check_count, num_classes, "num_classes")
    reading = {"layout": layout, "num_classes": num_classes}
    dataset = _load(name_or_path, data_dir, download, reading)
    if limit is None or not len(dataset.y_train):
        return dataset
    kept = balanced_order(dataset.y_train, seed)[:limit]
    return replace(dataset, x_train=dataset.x_train[kept], y_train=dataset.y_train[kept])


def available(data_dir: str | Path | None = None) -> dict[str, Path | None]:
    """Where `load` finds each named set on this machine: name -> path, None for an absent one.

    Args:
        data_dir: as in `load`.

    Example:

    >>> keras_pde.data.available()["fashion_mnist_sample"].name
    'fashion_mnist.npz'
    """
    return {name: _find(name, data_dir) for name in NAMES}


def _load(name_or_path, data_dir, download, reading):
    if name_or_path in NAMES:
        path = _find(name_or_path, data_dir) or _download(name_or_path, data_dir, download)
        if not path.is_file():
            return tfds.read(path, name_or_path)
        return identity.checked(_from_npz(path, name_or_path, {}), path)
    path = Path(name_or_path).expanduser()
    if path.suffix == ".npz":
        if not path.is_file():
            raise FileNotFoundError(
                f"Received the path {str(name_or_path)!r}, which is no file (looked at "
                f"{path.absolute()}); expected a .npz with the arrays {', '.join(KEYS)}."
            )
        return _from_npz(path, _own_name(path, path.stem), reading)
    if path.suffix == ".csv" and path.is_file():
        return _standard(path.name, foreign.from_csv(path.name, path), None, reading)
    if path.is_dir():
        folder = tfds.newest_version(path)
        if folder is None and foreign.is_folder_of_images(path):
            name = _own_name(path, path.absolute().name)
            return _standard(name, *foreign.from_folder(name, path), reading)
        if folder is None:
            raise FileNotFoundError(
                f"Received the folder {str(name_or_path)!r}; expected one with a folder of images "
                "for each class, in it or in train and test, or one that TensorFlow Datasets "
                "prepared, with a dataset_info.json in it or in a version folder such as 3.0.1."
            )
        return tfds.read(folder, path.name if folder != path else path.absolute().parent.name)
    error = unknown_name("data set", name_or_path, NAMES)
    raise ValueError(f"{error} It is no .npz or .csv file and no existing folder either.")


def _own_name(path, name):
    """What is called like a published set need not be it."""
    return (path.name if path.is_file() else f"{name}/") if name in NAMES else name


def _from_npz(path, name, reading):
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
    if missing not in ([], ["x_test", "y_test"]):
        raise ValueError(
            f"Received {path} with the arrays {found}, without {missing}; expected all of "
            f"{', '.join(KEYS)}."
        )
    class_names = arrays.pop("class_names", None)
    if 0 in (len(arrays["x_train"]), len(arrays.get("x_test", [0]))):  # of packs, one part is
        return checked(name, class_names, **arrays)
    return _standard(name, arrays, class_names, reading)


def _standard(name, arrays, class_names, reading):
    arrays, class_names = own.standard(name, arrays, class_names, **reading)
    return checked(name, class_names, **arrays)


def _roots(data_dir):
    roots = (data_dir, os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets")
    return [Path(root).expanduser() for root in roots if root]


def _find(name, data_dir):
    """The `.npz` file or the folder of a named set, None if it is absent."""
    if name == SAMPLE:
        return SAMPLE_FILE
    for root in _roots(data_dir):
        file = root / f"{name}.npz"
        # tensorflow_datasets retries the network for minutes before it says that a set is absent.
        if found := file if file.is_file() else tfds.newest_version(root / name):
            return found
    return None


def _download(name, data_dir, allowed):
    roots = _roots(data_dir)
    if allowed:
        return tfds.download(name, roots[0])
    looked = ", ".join(f"{root / name}[.npz]" for root in roots)
    raise FileNotFoundError(
        f"Received the data set {name!r}, which is not on this machine: looked for {looked}. "
        f"Ways to get it: download=True or --download (needs {tfds.INSTALL}); point data_dir or "
        "TFDS_DATA_DIR to the folder where TensorFlow Datasets prepared it, or to one with "
        f"{name}.npz (keras-pde data pack and unpack bring it from another machine); pass the path "
        f"of a .npz with {', '.join(KEYS)}; or use {SAMPLE!r}, which is always there."
    )
