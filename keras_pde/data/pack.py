"""A data set as numbered parts below a size, which `unpack` joins and checks.

A pack is a folder with

    NAME.npz.xz.001, .002, ...   one stream, cut; `cat NAME.npz.xz.* | xz -d` gives the .npz
    manifest.json                sizes and SHA-256 of the parts, and a digest of the arrays

The manifest comes last: where there is one, the parts were written to the end.
"""

import hashlib
import json
import lzma
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_pde import files
from keras_pde.data.dataset import KEYS
from keras_pde.data.load import load
from keras_pde.files import Parts

MANIFEST = "manifest.json"
FORMAT = 1
_CHUNK = 1000  # images converted at a time, which bounds the memory


def pack(
    name_or_path: str | Path,
    folder: str | Path,
    max_mb: float = 20,
    overwrite: bool = False,
    data_dir: str | Path | None = None,
    download: bool = False,
    say: Callable[[str], None] | None = None,
    splits: Sequence[str] = ("train", "test"),
) -> dict:
    """Write a data set as numbered files below a size, to carry it where large files cannot go.

    The images come back bit for bit. Those that are k / 255 travel as uint8, compressed (CIFAR-10:
    131 MB).

    Args:
        name_or_path: of the data set, as in `load`.
        folder: where to write; other files in it are left alone.
        max_mb: every part has fewer megabytes (10^6 bytes) than this; at least 0.001.
        overwrite: replace a pack that is there.
        data_dir, download: as in `load`.
        say: called with a line of text when a part is written; None for silence.
        splits: what is packed, "train", "test" or both; the other one has no images there.

    Returns:
        The manifest: name, counts, digest of the arrays, parts with sizes and digests.

    Raises:
        ValueError: `max_mb` is no size, or so small that more than 999 parts would be needed.
        FileExistsError: the folder holds a pack, or parts of one.
        FileNotFoundError: the data are absent.
        OSError: the disk is full or not writable; nothing is left behind.

    Example:

    >>> keras_pde.data.pack("fashion_mnist_sample", "to_carry", max_mb=1)
    >>> keras_pde.data.unpack("to_carry", "fashion_mnist_sample.npz")
    """
    if not 0.001 <= max_mb < math.inf:
        raise ValueError(
            f"Received max_mb={max_mb!r}; expected megabytes (10^6 bytes), at least 0.001, such as "
            "20."
        )
    folder = Path(folder)
    there = [path.name for path in _files(folder)]
    if there and not overwrite:
        raise FileExistsError(
            f"Received the folder {folder}, which holds {', '.join(there[:3])}"
            f"{' and more' * (len(there) > 3)}; expected one without a pack. Pass another, or "
            "overwrite=True (--overwrite)."
        )
    if not splits or not set(splits) <= {"train", "test"}:
        raise ValueError(f'Received splits={splits!r}; expected some of "train" and "test".')
    dataset = load(name_or_path, data_dir=data_dir, download=download)
    for left_out in {"train", "test"} - set(splits):
        keys = f"x_{left_out}", f"y_{left_out}"
        dataset = replace(dataset, **{key: getattr(dataset, key)[:0] for key in keys})
    arrays = _stored(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    with files.staging(folder, ".pack-") as staging:
        parts = Parts(staging, f"{dataset.name}.npz.xz", math.ceil(max_mb * 10**6) - 1, say)
        size = _compress(arrays, parts)
        manifest = {
            "format": FORMAT,
            "name": dataset.name,
            "counts": {"train": len(dataset.y_train), "test": len(dataset.y_test)},
            "arrays_sha256": arrays_digest(arrays),
            "npz_bytes": size,
            "parts": parts.written,
        }
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for path in _files(folder):
            path.unlink()
        for name in [part["file"] for part in parts.written] + [MANIFEST]:
            os.replace(staging / name, folder / name)
    return manifest


def arrays_digest(arrays):
    """SHA-256 over name, type, shape and entries of all arrays."""
    digest = hashlib.sha256()
    for key in (*KEYS, "class_names"):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array)
    return digest.hexdigest()


def _files(folder):
    """What a pack in that folder consists of, the manifest first."""
    manifest = folder / MANIFEST
    return [manifest] * manifest.exists() + sorted(folder.glob("*.npz.xz.[0-9][0-9][0-9]"))


def _stored(dataset):
    arrays = {key: getattr(dataset, key) for key in KEYS}
    for key in ("x_train", "x_test"):
        arrays[key] = _as_bytes(arrays[key])
    return {**arrays, "class_names": np.array(dataset.class_names)}


def _as_bytes(x):
    """Images as uint8 if dividing by 255 gives them back to the bit, else as they are."""
    whole = np.empty(x.shape, "uint8")
    for start in range(0, len(x), _CHUNK):
        part = x[start : start + _CHUNK]
        k = np.rint(part * 255).astype("uint8")
        if (k / np.float32(255)).tobytes() != part.tobytes():
            return x
        whole[start : start + _CHUNK] = k
    return whole


def _compress(arrays, target):
    """Writes the arrays as one compressed .npz; its size when decompressed."""
    images = arrays["x_train"]
    # Differences between neighbouring pixels save a tenth; higher presets save 7 % more in 7 times
    # the time.
    pixel = min(images.shape[-1] * images.itemsize, 256)
    filters = [
        {"id": lzma.FILTER_DELTA, "dist": pixel},
        {"id": lzma.FILTER_LZMA2, "preset": 1},
    ]
    with target, lzma.open(target, "wb", filters=filters) as stream:
        np.savez(stream, **arrays)
        return stream.tell()
