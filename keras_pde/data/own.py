"""Arrays of the user's own, brought to what a data set holds."""

import warnings

import numpy as np

from keras_pde.data.dataset import balanced_order

LAYOUTS = ("channels_last", "channels_first")
_CHANNELS = (1, 3, 4)
_TEST = 1 / 6  # of a set without a test part, as of MNIST


def standard(name, arrays, class_names, layout=None, num_classes=None):
    """`(arrays, class names)`: channels last, integer labels from 0, a test part.

    Args:
        name: of the set, for messages.
        arrays: `x_train`, `y_train` and mostly `x_test`, `y_test`.
        class_names: as stored, or `None`.
        layout: of the images; `None` if it is to be told by their shape.
        num_classes: of labels that are numbers; `None` if these are all there are.

    Raises:
        ValueError: the layout cannot be told, or labels are no classes.
    """
    arrays = dict(arrays)
    if "x_test" not in arrays:
        arrays = _with_test_part(name, arrays)
    for key in ("x_train", "x_test"):
        arrays[key] = _channels_last(name, key, arrays[key], layout)
    if class_names is not None:
        class_names = [_text(entry) for entry in class_names]
    kinds = {arrays[key].dtype.kind for key in ("y_train", "y_test")}
    if class_names is None and num_classes is not None:
        class_names = [str(number) for number in range(num_classes)]
    if kinds & set("SUO"):
        return _named(name, arrays, class_names)
    if class_names is None:
        _check_classes(
            name, np.concatenate([plain_labels(arrays[k]) for k in ("y_train", "y_test")])
        )
    return arrays, class_names


def _with_test_part(name, arrays):
    x, y = arrays["x_train"], arrays["y_train"]
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(
            f"Received {name} with {len(x)} images and {len(y)} labels and no test part; expected "
            "as many labels as images, at least two."
        )
    classes = np.unique(plain_labels(y), return_inverse=True)[1]
    order = balanced_order(classes, 0, proportional=True)
    count = max(1, round(_TEST * len(x)))
    test, rest = order[:count], order[count:]
    warnings.warn(
        f"{name} has no test part: {count} of its {len(x)} examples, always the same ones, are "
        "taken for it. Store x_test and y_test to choose others.",
        stacklevel=5,
    )
    return {"x_train": x[rest], "y_train": y[rest], "x_test": x[test], "y_test": y[test]}


def _channels_last(name, key, x, layout):
    if layout == "channels_first" and x.ndim == 4:
        return np.moveaxis(x, 1, -1)
    if layout is not None:
        return x
    first = x.ndim == 4 and (x.shape[1] in _CHANNELS or x.shape[1] < x.shape[2] == x.shape[3])
    if first and x.shape[3] not in _CHANNELS:
        raise ValueError(
            f"Received {name} with {key} of shape {x.shape}, which looks like channels first; "
            "expected (examples, height, width, channels). layout='channels_first' moves the "
            "channels, layout='channels_last' takes the shape as it is."
        )
    few, many = sorted(x.shape[1:]) if x.ndim == 3 else (1, 1)
    if x.size and (few * 8 < many or few <= 3 < many):
        raise ValueError(
            f"Received {name} with {key} of shape {x.shape}, which looks like signals; expected "
            "(examples, height, width, channels), or (examples, height, width) of gray images. "
            "layout='channels_last' takes it for these."
        )
    return x


def _named(name, arrays, class_names):
    """Labels in words become numbers, in the order of the class names, or of the alphabet."""
    words = {k: np.array([_text(v) for v in arrays[k].ravel()]) for k in ("y_train", "y_test")}
    known = class_names or sorted({*words["y_train"], *words["y_test"]})
    unknown = sorted(map(str, {*words["y_train"], *words["y_test"]} - {*known}))
    if unknown:
        raise ValueError(
            f"Received {name} with the labels {unknown[:5]}; expected those of class_names, "
            f"{known}."
        )
    places = {word: number for number, word in enumerate(known)}
    numbers = {k: np.array([places[word] for word in v], "int64") for k, v in words.items()}
    return {**arrays, **numbers}, list(known)


def _check_classes(name, labels):
    """Without names of classes, labels are 0, 1, 2, ... and none of them is absent."""
    if labels.dtype.kind not in "iu" or not labels.size or labels.min() < 0:
        return  # others say what is wrong
    found = np.unique(labels)
    if len(found) == found[-1] + 1:
        return
    if found[0] == 1 and len(found) == found[-1]:
        fix = "subtract 1"
    else:
        fix = "number them from 0 (numpy.unique(y, return_inverse=True)[1]), or say num_classes"
    raise ValueError(
        f"Received {name} with {len(found)} distinct labels from {found[0]} to {found[-1]}; "
        f"expected 0 to {len(found) - 1}: {fix}, or store class_names of all classes, if some have "
        "no examples."
    )


def plain_labels(y):
    """One label an example."""
    return y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y.ravel()


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)
