"""Parts that `pack` wrote, checked and joined; needs no TensorFlow."""

import hashlib
import json
import lzma
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from keras_pde.data.pack import FORMAT, MANIFEST, arrays_digest


def unpack(folder, file, overwrite=False) -> dict:
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
    _check_parts(folder, manifest)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=file.parent) as staging:
        joined, whole = Path(staging) / "joined.xz", Path(staging) / "whole.npz"
        with joined.open("wb") as target:
            for part in manifest["parts"]:
                with (folder / part["file"]).open("rb") as source:
                    shutil.copyfileobj(source, target)
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
        sound = manifest["format"] == FORMAT and len(manifest["parts"]) > 0
        sound &= manifest["npz_bytes"] > 0 and {"name", "counts"} <= set(manifest)
        for part in manifest["parts"]:
            sound &= Path(part["file"]).name == part["file"] and part["bytes"] > 0
            sound &= len(part["sha256"]) == len(manifest["arrays_sha256"]) == 64
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_damaged(path, f"{type(error).__name__}: {error}")) from error
    if not sound:
        raise ValueError(_damaged(path, "its entries are not what pack writes"))
    return manifest


def _check_parts(folder, manifest):
    missing, damaged = [], []
    for number, part in enumerate(manifest["parts"], 1):
        path = folder / part["file"]
        if not path.is_file():
            missing.append(number)
        elif path.stat().st_size != part["bytes"]:
            damaged.append(f"{number} ({path.stat().st_size} of {part['bytes']} bytes)")
        elif _file_digest(path) != part["sha256"]:
            damaged.append(f"{number} (another SHA-256)")
    if not missing and not damaged:
        return
    found = []
    if missing:
        found.append(f"missing {', '.join(map(str, missing))}")
    if damaged:
        found.append(f"damaged {', '.join(damaged)}")
    raise (ValueError if damaged else FileNotFoundError)(
        f"Received the pack {folder} of {len(manifest['parts'])} parts: {'; '.join(found)}. "
        f"Expected {manifest['parts'][0]['file']} and so on, as packed: copy these parts again."
    )


def _file_digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(where, error):
    return (
        f"Received {where}, which is damaged ({error}); expected what `keras-pde data pack` wrote. "
        "Pack the set again."
    )
