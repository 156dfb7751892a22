"""Checks of what users feed in, shared by training, attacks and evaluation."""

import math
import numbers

import numpy as np

_NUMBERS = "biuf"  # NumPy's kinds: bool, integers, floats


def check_images(images, bounds=(0.0, 1.0), what="images"):
    """Refuses what is not an array of numbers, and empty, non-finite or wrongly scaled images.

    Args:
        images: array `(batch, ...)`.
        bounds: `(low, high)` range of the entries, or `None` for no limit.
        what: how the error names the argument.

    Raises:
        ValueError: with what was received, what was expected, and the fix.
    """
    shape, dtype = np.shape(images), np.asarray(images).dtype
    if dtype.kind not in _NUMBERS:
        raise ValueError(
            f"Received {what} of type {dtype} and shape {shape}; expected an array of numbers."
        )
    if math.prod(shape) == 0 or len(shape) == 0:
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


def check_bounds(bounds):
    """`(low, high)` as a tuple of floats, or `None`; a `ValueError` if it is neither."""
    if bounds is None:
        return None
    values = tuple(float(b) for b in np.ravel(bounds))
    if len(values) != 2 or not -np.inf < values[0] < values[1] < np.inf:
        raise ValueError(f"Received bounds={bounds}; expected (low, high), low < high, or None.")
    return values


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
    if received.dtype.kind not in _NUMBERS:
        raise ValueError(
            f"Received labels of type {received.dtype}; expected integers or one-hot rows."
        )
    if received.ndim == 2 and received.shape[1] == num_classes and num_classes > 1:
        rows = received.astype("float64")
        one_hot = np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1)
        if not one_hot:
            raise ValueError(
                f"Received labels of shape {received.shape} that are not one-hot; expected a "
                "single 1 in each row. For soft labels pass `labels.argmax(axis=1)`."
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
    if not (np.all(np.isfinite(received)) and np.all(received == np.floor(received))):
        raise ValueError("Received labels with fractions or NaN; expected integer class numbers.")
    if len(received) and (received.min() < 0 or received.max() >= num_classes):
        raise ValueError(
            f"Received labels from {received.min():g} to {received.max():g}; expected 0 to "
            f"{num_classes - 1}, since the model has {num_classes} outputs. Do the classes start "
            "at 1?"
        )
    return received.astype("int32")


def check_count(value, what, least=1):
    """The value as a Python integer; a `ValueError` if it is not one, or less than `least`."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and least <= value == np.floor(value) < math.inf:
        return int(value)
    raise ValueError(f"Received {what}={value!r}; expected an integer, at least {least}.")


def check_number(value, what, least=-math.inf, above=-math.inf, most=math.inf, below=math.inf):
    """The value as a float; a `ValueError` if it is no finite number or out of its range."""
    if isinstance(value, numbers.Real) and least <= value <= most and above < value < below:
        return float(value)
    low = f"above {above:g}" if above > -math.inf else f"at least {least:g}"
    high = f" and at most {most:g}" if most < math.inf else ""
    high += f" and below {below:g}" if below < math.inf else ""
    raise ValueError(f"Received {what}={value!r}; expected a finite number {low}{high}.")


def check_radii(radii, norm, bounds, what, zero=False):
    """Refuses lengths that are no radius, and, in Linf, those that reach every image.

    Args:
        radii: numbers.
        norm: name of the norm.
        bounds: `(low, high)` range of the images, or `None` for no limit.
        what: how the error names the argument.
        zero: whether 0 is allowed.

    Raises:
        ValueError: with what was received, what was expected, and an example.
    """
    width = bounds[1] - bounds[0] if bounds and norm == "linf" else math.inf
    if all((r >= 0 if zero else r > 0) and r < width for r in radii):
        return
    limits = ("of at least 0" if zero else "above 0") + (
        f" and below {width:g}" * (width < math.inf)
    )
    units = f" in the units of images in [{bounds[0]:g}, {bounds[1]:g}]" if bounds else ""
    raise ValueError(
        f"Received {what} = {radii[0] if len(radii) == 1 else list(radii)} in {norm!r}; expected "
        f"finite lengths {limits}{units}, such as 8/255 for 8 in 0-255."
    )
