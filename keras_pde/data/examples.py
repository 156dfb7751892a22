"""Arrays from what users have: arrays, or a dataset that is read once."""

import numpy as np

_FIX = "a dataset of batches (images, labels), such as `dataset.batch(128)` gives"
_KEYS = ("image", "label")  # of TensorFlow Datasets


def examples(x, y=None):
    """Arrays `(x, y)`; `y` is None if there are no labels.

    A dataset is iterated over once, so that one which shuffles stands for one order.

    Args:
        x: an array, or a dataset: any iterable of batches, each an array of examples, a tuple of
            them and their labels (what follows is ignored), or a dict of "image" and "label".
        y: labels, with an array.

    Raises:
        ValueError: the dataset is empty, not batched, or has other batches.
    """
    if y is not None or hasattr(x, "__array__"):
        return np.asarray(x), None if y is None else np.asarray(y)
    batches = [_parts(batch) for batch in x]
    if not batches:
        raise ValueError(f"Received an empty dataset; expected {_FIX}.")
    if any(images.ndim < 2 or (parts and parts[0].ndim == 0) for images, *parts in batches):
        raise ValueError(f"Received a dataset of single examples; expected {_FIX}.")
    if len({len(parts) for parts in batches}) > 1:
        raise ValueError(
            f"Received a dataset whose batches do not all have labels; expected {_FIX}."
        )
    images, *labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return images, labels[0] if labels else None


def labelled(x, y=None):
    """The same; a `ValueError` if there are no labels."""
    x, y = examples(x, y)
    if y is None:
        raise ValueError(f"Received images without labels; pass y, or {_FIX}.")
    return x, y


def _parts(batch):
    """The images, and the labels if there are any."""
    if isinstance(batch, dict):
        if not {*batch} >= {*_KEYS}:
            raise ValueError(
                f"Received a dataset of batches with the keys {sorted(map(str, batch))}; expected "
                f"{_KEYS}, or tuples: "
                "dataset.map(lambda batch: (batch[YOUR_IMAGES], batch[YOUR_LABELS]))."
            )
        batch = tuple(batch[key] for key in _KEYS)
    if not isinstance(batch, list | tuple):
        return (np.asarray(batch),)
    return tuple(np.asarray(part) for part in batch[:2])
