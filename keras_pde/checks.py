"""Checks of what users feed in, shared by training, attacks and evaluation."""

import numpy as np


def check_images(images, bounds=(0.0, 1.0), what="images"):
    """Refuses empty, non-finite, unbatched or wrongly scaled images.

    Args:
        images: array `(batch, ...)`.
        bounds: `(low, high)` range of the entries, or `None` for no limit.
        what: how the error names the argument.

    Raises:
        ValueError: with what was received, what was expected, and the fix.
    """
    shape = np.shape(images)
    if len(shape) == 0 or shape[0] == 0:
        raise ValueError(f"Received {what} of shape {shape}; expected at least one example.")
    low, high = float(np.min(images)), float(np.max(images))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(
            f"Received {what} with NaN or infinite entries; expected finite numbers. "
            "Find them with `~np.isfinite(images).all(axis=tuple(range(1, images.ndim)))`."
        )
    if bounds is None:
        return
    slack = 1e-6 * (bounds[1] - bounds[0])
    if low < bounds[0] - slack or high > bounds[1] + slack:
        fix = (
            "divide by 255 (and put any normalisation into the model as a layer)"
            if low >= 0 and 2 < high <= 255
            else "put the normalisation into the model as a layer"
        )
        raise ValueError(
            f"Received {what} in [{low:.4g}, {high:.4g}]; expected [{bounds[0]:g}, {bounds[1]:g}], "
            f"the units of epsilon. Either {fix}, or pass `bounds=` of your own units "
            "(epsilon is then in those units too)."
        )


def class_labels(labels, num_classes, num_examples=None):
    """Labels as int32 class numbers `(batch,)`, from integers or one-hot rows.

    Args:
        labels: `(batch,)` or `(batch, 1)` integers, or `(batch, num_classes)` one-hot rows.
        num_classes: number of classes of the model's output.
        num_examples: number of images, if it is to be compared.

    Raises:
        ValueError: wrong length, not labels, or out of range.
    """
    received = np.asarray(labels)
    if received.ndim == 2 and received.shape[1] == num_classes and num_classes > 1:
        rows = received.astype("float64")
        one_hot = np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1)
        if not one_hot:
            raise ValueError(
                f"Received labels of shape {received.shape} that are not one-hot; expected a single "
                "1 in each row. For soft labels pass `labels.argmax(axis=1)`."
            )
        received = rows.argmax(axis=1)
    elif received.ndim == 2 and received.shape[1] == 1:
        received = received[:, 0]
    if received.ndim != 1:
        raise ValueError(
            f"Received labels of shape {received.shape}; expected (batch,) integers or "
            f"(batch, {num_classes}) one-hot rows, {num_classes} being the model's outputs."
        )
    if num_examples is not None and len(received) != num_examples:
        raise ValueError(f"Received {len(received)} labels for {num_examples} images.")
    if not np.all(np.equal(np.mod(received, 1), 0)):
        raise ValueError("Received labels with fractions or NaN; expected integer class numbers.")
    if len(received) and (received.min() < 0 or received.max() >= num_classes):
        raise ValueError(
            f"Received labels from {received.min():g} to {received.max():g}; expected 0 to "
            f"{num_classes - 1}, since the model has {num_classes} outputs. Do the classes start at 1?"
        )
    return received.astype("int32")
