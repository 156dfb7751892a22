"""Images as others keep them: folders of a class each, and tables of pixels."""

import csv
import math
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_LABELS = ("label", "class", "target", "y")
_PARTS = {"train": ("train", "training"), "test": ("test", "testing")}


def is_folder_of_images(path: Path) -> bool:
    """Whether there is a folder for each class in it, or in its folder `train`."""
    root = _part(path, "train") or path
    return any(_images(folder) for folder in _folders(root))


def from_folder(name, path: Path):
    """`(arrays, class names)` of `path/CLASS/*.png`, or `path/train/CLASS/*.png` and `path/test`.

    Raises:
        ValueError: images have several sizes, cannot be read, or classes have none in training.
    """
    train, test = _part(path, "train"), _part(path, "test")
    names = [folder.name for folder in _folders(train or path)]
    arrays = {}
    for part, root in (("train", train or path), ("test", test if train else None)):
        if root is not None:
            arrays[f"x_{part}"], arrays[f"y_{part}"] = _read(name, root, names)
    return _same_channels(arrays), names


def from_csv(name, path: Path):
    """The arrays of a table with a line an image: its label, and square pixels from 0 to 255.

    Raises:
        ValueError: there is no column of labels, or the others are no pixels.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    head = [word.strip().lower() for word in rows[0]] if rows else []
    place = next((head.index(word) for word in _LABELS if word in head), None)
    if place is None or len(rows) < 2:
        raise ValueError(
            f"Received {path} with the first line {rows[0][:5] if rows else []}; expected names of "
            f"columns, one of which is {', '.join(_LABELS)}, and lines below it."
        )
    if any(len(row) != len(head) for row in rows):
        raise ValueError(f"Received {path} with lines of several lengths; expected {len(head)}.")
    labels = np.array([row[place].strip() for row in rows[1:]])
    try:
        pixels = np.array([row[:place] + row[place + 1 :] for row in rows[1:]], "float64")
    except ValueError as error:
        raise ValueError(f"Received {path} with {error}; expected pixels, numbers.") from error
    shape = next((s for c in (1, 3) if (s := _square(pixels.shape[1], c))), None)
    whole = (pixels == np.round(pixels)).all() and pixels.min() >= 0 and pixels.max() <= 255
    if shape is None or not whole:
        raise ValueError(
            f"Received {path} with {pixels.shape[1]} columns beside the labels, from "
            f"{pixels.min():g} to {pixels.max():g}; expected the pixels of square images, integers "
            "from 0 to 255. Tables of other things are for your own model: keras_pde.evaluate and "
            "RobustModel take arrays."
        )
    if all(label.lstrip("-").isdigit() for label in labels):
        labels = labels.astype("int64")
    return {"x_train": pixels.astype("uint8").reshape(-1, *shape), "y_train": labels}


def _square(count, channels):
    side = math.isqrt(count // channels)
    return (side, side, channels) if side * side * channels == count else None


def _part(path, part):
    return next((path / word for word in _PARTS[part] if (path / word).is_dir()), None)


def _folders(path):
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder):
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)


def _read(name, root, names):
    unknown = [folder.name for folder in _folders(root) if folder.name not in names]
    if unknown:
        raise ValueError(
            f"Received {name} with the classes {unknown} in {root}; expected those of the training "
            f"part, {names}."
        )
    found = [(p, k) for k, word in enumerate(names) for p in _images_if_any(root / word)]
    if not found:
        raise ValueError(f"Received {name} without images in {root}; expected {_SUFFIXES} files.")
    images = [_decoded(path) for path, _ in found]
    sizes = Counter(image.shape[:2] for image in images)
    if len(sizes) > 1:
        shown = ", ".join(f"{w} x {h} ({n})" for (h, w), n in sizes.most_common(4))
        raise ValueError(
            f"Received {name} with images of several sizes, {shown}; expected one. Resize them."
        )
    channels = max(image.shape[2] for image in images)
    x = np.stack([np.broadcast_to(i, (*i.shape[:2], channels)) for i in images])
    return x, np.array([label for _, label in found])


def _images_if_any(folder):
    return _images(folder) if folder.is_dir() else []


def _decoded(path):
    """uint8 `(height, width, 1 or 3)`; what shines through is on black."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # of palettes with transparency
            gray = image.mode in ("1", "L", "LA")
            return np.atleast_3d(np.asarray(image.convert("L" if gray else "RGB")))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise ValueError(
            f"Received {path}, which is no image that can be read: {error}."
        ) from error


def _same_channels(arrays):
    keys = [key for key in arrays if key.startswith("x_")]
    channels = max(arrays[key].shape[-1] for key in keys)
    wide = {k: np.broadcast_to(arrays[k], (*arrays[k].shape[:-1], channels)) for k in keys}
    return {**arrays, **wide}
