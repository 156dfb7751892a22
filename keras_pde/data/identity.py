"""Whether images are those of the data set whose name they carry."""

import hashlib

import numpy as np

# Of the parts that TensorFlow Datasets prepares (mnist 3.0.1, fashion_mnist 3.0.1, cifar10 3.0.2).
_DIGESTS = {
    "mnist": {
        "train": "e36d9c243ef70313f0e9e8842ba77835ff33297df0127047f91b29d098e52567",
        "test": "6502caf67ad04d66872a11ac45b3b643afeb4169ba780be8278baa10e93a82a9",
    },
    "fashion_mnist": {
        "train": "fcb4755d52f9c8eba22affa6c0ea401cbc72466e2d63eedd8c6f54e12830fe89",
        "test": "ca5a24f6a6b36aca1ccfd4641b8ce09ff7eff2e7ca5d3608d39e55c34b3f9196",
    },
    "cifar10": {
        "train": "684be5c4233c633ec183dcd842ad2eac1e1a5bfa5340af8660609d54b533e408",
        "test": "f9cfae85b360acdb9dba728668e18513366c261da441e1d331b5962a08a67266",
    },
}


def checked(dataset, path):
    """The data set of a file that is called like a published one, unless it holds other images.

    Their order may be another, and a part may be empty.

    Args:
        dataset: a `Dataset` under the published name.
        path: of the file, for the message.

    Raises:
        ValueError: a part holds other images or labels.
    """
    for part, known in _DIGESTS.get(dataset.name, {}).items():
        x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
        if len(x) and digest(x, y) != known:
            raise ValueError(
                f"Received {path}, whose {part} part of {len(x)} images is not that of "
                f"{dataset.name!r}; expected the published one under this name. Of your own, pass "
                f"the path: it is then called {path.name!r}."
            )
    return dataset


def digest(x, y) -> str:
    """SHA-256 of images from 0 to 255 and their labels, in whatever order.

    Args:
        x: uint8, or floats in [0, 1], `(n, ...)`.
        y: integers `(n,)`.
    """
    x = np.asarray(x)
    if x.dtype != np.uint8:
        bytes_ = np.round(np.float32(255) * x).astype(np.uint8)
        x = bytes_ if np.allclose(bytes_ / np.float32(255), x, atol=1e-6) else x
    rows = zip(np.ascontiguousarray(x), np.asarray(y).reshape(len(x), -1), strict=True)
    found = sorted(hashlib.sha256(a.tobytes() + b"%d" % b[0]).digest() for a, b in rows)
    return hashlib.sha256(b"".join(found)).hexdigest()
