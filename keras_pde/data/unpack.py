"""Parts that `pack` wrote, checked and joined; needs no TensorFlow."""

import json
import lzma
import os
import zipfile
from pathlib import Path

import numpy as np

from keras_pde import files
from keras_pde.data.pack import FORMAT, MANIFEST, arrays_digest


def unpack(folder: str | Path, file: str | Path, overwrite: bool = False) -> dict:
    """Join the parts that `pack` wrote to an `.npz` that `load` and plain NumPy read.

    Args:
        folder: with the manifest and all parts.
        file: the `.npz` to write; it appears complete or not at all.
        overwrite: replace the file if it exists.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: the manifest or parts are missing; the message has their numbers.
        FileExistsError: `file` exists.
        ValueError: parts or the manifest are damaged, or `file` is no `.npz`.
        OSError: the disk is full or not writable; nothing is left behind.

    Example:

    >>> keras_pde.data.unpack("carried", "cifar10.npz")
    """
    folder, file = Path(folder), Path(file)
    if file.suffix != ".npz":
        raise ValueError(f"Received the file {str(file)!r}; expected a name that ends in .npz.")
    if file.exists() and not overwrite:
        raise FileExistsError(
            f"Received the file {file}, which exists; expected a new one. Pass another, or "
            "overwrite=True (--overwrite)."
        )
    manifest = _manifest(folder)
    files.check(folder, manifest["parts"], f"the pack {folder}", "copy these parts again")
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.staging(file.parent, ".unpack-") as staging:
        joined, whole = staging / "joined.xz", staging / "whole.npz"
        with joined.open("wb") as target:
            files.join(folder, manifest["parts"], target)
        try:
            _decompress(joined, whole, manifest["npz_bytes"])
            with np.load(whole, allow_pickle=False) as archive:
                digest = arrays_digest(archive)
        except (lzma.LZMAError, zipfile.BadZipFile, EOFError, ValueError, KeyError) as error:
            raise ValueError(_damaged(folder, error)) from error
        if digest != manifest["arrays_sha256"]:
            raise ValueError(_damaged(folder, "the digest of the arrays is another"))
        os.replace(whole, file)
    return manifest


def _decompress(source, target, size):
    """Decompresses a file, of which no more than the expected `size` is written."""
    with lzma.open(source) as stream, target.open("wb") as out:
        while chunk := stream.read(2**20):
            out.write(chunk)
            if out.tell() > size:
                raise ValueError(f"it holds more than {size} bytes")


def _manifest(folder):
    """The manifest of a folder, of which every entry that is used has been checked."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"Received the folder {folder} without a {MANIFEST}, which names the parts; expected "
            "one that `keras-pde data pack` wrote. Copy that file too."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sound = manifest["format"] == FORMAT and files.are_sound(manifest["parts"])
        sound &= manifest["npz_bytes"] > 0 and {"name", "counts"} <= set(manifest)
        sound &= len(manifest["arrays_sha256"]) == 64
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_damaged(path, f"{type(error).__name__}: {error}")) from error
    if not sound:
        raise ValueError(_damaged(path, "its entries are not what pack writes"))
    return manifest


def _damaged(where, error):
    return (
        f"Received {where}, which is damaged ({error}); expected what `keras-pde data pack` wrote. "
        "Pack the set again."
    )
