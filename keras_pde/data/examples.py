"""Arrays from what users have: arrays, or a dataset that is read once."""

import numpy as np
from keras import tree

_FIX = "a dataset of batches (images, labels), such as `dataset.batch(128)` gives"
_KEYS = ("image", "label")  # of TensorFlow Datasets


def examples(x, y=None):
    """Arrays `(x, y)`; `y` is None if there are no labels.

    A dataset is iterated over once, so that one which shuffles stands for one order.

    Args:
        x: an array, or a dict, list or tuple of arrays for a model of several inputs; or a dataset:
            any iterable of batches, each an array of examples, a tuple of them (or of such a dict)
            and their labels (what follows is ignored), or a dict of "image" and "label".
        y: labels, with arrays.

    Raises:
        ValueError: the dataset is empty, not batched, or has other batches.
    """
    groups = by_shape(x, y)
    if len(groups) > 1:
        shapes = sorted({a.shape[1:] for x, *_ in groups for a in tree.flatten(x)})
        raise ValueError(
            f"Received a dataset of examples of the shapes {shapes}; expected one shape: pad them."
        )
    return groups[0][:2]


def by_shape(x, y=None) -> list:
    """The same as `(x, y, numbers)`, one for each shape of examples in a dataset.

    The numbers are those of the examples in the order of the dataset.
    """
    if y is not None or hasattr(x, "__array__"):
        x = arrays(x)
        numbers = np.arange(*np.shape(tree.flatten(x)[0])[:1] or (0,))
        return [(x, None if y is None else np.asarray(y), numbers)]
    batches = [_parts(batch) for batch in x]
    if not batches:
        raise ValueError(f"Received an empty dataset; expected {_FIX}.")
    first = [tree.flatten(images)[0] for images, *_ in batches]
    if any(a.ndim < 2 or (p[1:] and p[1].ndim == 0) for a, p in zip(first, batches, strict=True)):
        raise ValueError(f"Received a dataset of single examples; expected {_FIX}.")
    if len({len(parts) for parts in batches}) > 1:
        raise ValueError(
            f"Received a dataset whose batches do not all have labels; expected {_FIX}."
        )
    groups, first = {}, 0
    for batch in batches:
        leaves = tree.flatten(batch)
        key = tuple(array.shape[1:] for array in leaves)
        numbers = np.arange(first, first + len(leaves[0]))
        first += len(leaves[0])
        groups.setdefault(key, []).append((batch, numbers))
    return [_joined(*zip(*group, strict=True)) for group in groups.values()]


def _joined(batches, numbers):
    images, *labels = (
        tree.map_structure(lambda *rows: np.concatenate(rows), *parts)
        for parts in zip(*batches, strict=True)
    )
    return images, labels[0] if labels else None, np.concatenate(numbers)


def arrays(inputs):
    """The inputs of a model as arrays, with as many examples in each.

    Raises:
        ValueError: they are not as many.
    """
    if isinstance(inputs, list) and not any(hasattr(entry, "shape") for entry in inputs):
        return np.asarray(inputs)  # of numbers
    inputs = tree.map_structure(np.asarray, inputs)
    counts = {len(array) if array.ndim else 0 for array in tree.flatten(inputs)}
    if len(counts) > 1:
        raise ValueError(f"Received inputs of {sorted(counts)} examples; expected as many in each.")
    return inputs


def labelled(x, y=None) -> list:
    """As `by_shape`; a `ValueError` if there are no labels."""
    groups = by_shape(x, y)
    if any(y is None for _, y, _ in groups):
        raise ValueError(f"Received images without labels; pass y, or {_FIX}.")
    return groups


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
    return tuple(arrays(part) for part in batch[:2])
