"""Sets that TensorFlow Datasets prepared: where they are, what is in them."""

from pathlib import Path

from keras_pde.data.dataset import KEYS, Dataset, checked

INSTALL = "pip install 'keras_pde[data]'"


def newest_version(folder):
    """`folder` if it is a prepared set, else its newest version that is one, else None."""
    if (folder / "dataset_info.json").is_file():
        return folder
    versions = [info.parent for info in folder.glob("*.*.*/dataset_info.json")]
    return max(versions, key=_version, default=None)


def _version(folder):
    return [
        (part.isdigit(), int(part) if part.isdigit() else part) for part in folder.name.split(".")
    ]


def download(name, root) -> Path:
    """Prepares a set below the folder `root`, over the network; its folder."""
    builder = _import_tfds().builder(name, data_dir=str(root))
    builder.download_and_prepare()
    return Path(builder.data_dir)


def read(folder, name) -> Dataset:
    """The set that was prepared in that folder."""
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
    return checked(name, getattr(features[label], "names", None), **arrays)


def _import_tfds():
    try:
        import tensorflow  # noqa: F401  (tensorflow_datasets imports it lazily, too late to explain)
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"Reading TensorFlow Datasets needs the packages tensorflow and tensorflow-datasets "
            f"({error}): {INSTALL}. Without TensorFlow, use a .npz."
        ) from error
    return tensorflow_datasets
