"""Weights files: what one may contain, and the two precisions in which numbers are stored."""

import h5py
import numpy as np


def write_half(source, target):
    """Copies the tree of `source` with float16 for float32; refuses numbers it cannot hold."""
    target.attrs.update(source.attrs)
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            write_half(item, target.create_group(name))
            continue
        numbers = item[...]
        if item.dtype == np.float32:
            with np.errstate(over="ignore"):
                numbers = numbers.astype(np.float16)
            if not np.isfinite(numbers).all():
                raise ValueError(
                    f"Received weights {item.name} that float16 cannot hold; expected finite "
                    "numbers up to 65504. Store them as float32."
                )
        target.create_dataset(name, data=numbers)


def read_into(received, reference, half):
    """Copies the numbers of a foreign file into one that Keras wrote for the same model.

    All of the foreign file is checked before a number is read, and Keras never opens it.

    Args:
        received: the foreign `h5py.File`.
        reference: `h5py.File` to write into.
        half: whether float32 numbers are stored as float16.

    Raises:
        ValueError: the two differ in a name, a shape, a type or a way of storing.
    """
    _check_layout(received, reference, half)

    def copy(name, item):
        if isinstance(item, h5py.Dataset):
            item[...] = received[name][...]

    reference.visititems(copy)


def _check_layout(received, expected, half):
    """Refuse an HDF5 group with other members, shapes or types, or whose numbers are elsewhere.

    The expected tree leads, so that a group linked into itself cannot trap us, and no link is
    followed before it is known to be a plain one. Datasets must be neither chunked (so there is no
    filter to inflate), external nor virtual: then they hold no more than their declared shape.
    """
    if set(received) != set(expected):
        lacks, adds = set(expected) - set(received), set(received) - set(expected)
        raise ValueError(f"{received.name} lacks {sorted(lacks)} and adds {sorted(adds)}")
    for name in expected:
        link = received.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"{name} in {received.name} is a {type(link).__name__}; expected no link"
            )
        found, wanted = _describe(received[name]), _describe(expected[name], half)
        if found != wanted:
            raise ValueError(f"{name} in {received.name} is {found}; expected {wanted}")
        if isinstance(expected[name], h5py.Group):
            _check_layout(received[name], expected[name], half)


def _describe(item, half=False):
    if not isinstance(item, h5py.Dataset):
        return "a group" if isinstance(item, h5py.Group) else "neither a group nor a dataset"
    stored = [kind for kind in ("chunks", "external", "is_virtual") if getattr(item, kind)]
    dtype = np.dtype(np.float16) if half and item.dtype == np.float32 else item.dtype
    return f"{dtype} {item.shape}" + (f" stored with {stored}" if stored else "")
