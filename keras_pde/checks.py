"""Checks of what users feed in, shared by training, attacks and evaluation."""

import math
import numbers

import numpy as np

from keras_pde.registry import unknown_name

_NUMBERS = "biuf"  # NumPy's kinds: bool, integers, floats


def check_images(images, bounds=(0.0, 1.0), what="images"):
    """Refuses what is not an array of numbers, and empty, non-finite or wrongly scaled images.

    Args:
        images: array `(batch, ...)`.
        bounds: range of the entries, from `check_bounds`; `None` for no limit.
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
    lows, highs = np.min(images, axis=0), np.max(images, axis=0)
    low, high = float(np.min(lows)), float(np.max(highs))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(
            f"Received {what} with NaN or infinite entries; expected finite numbers. "
            "Find them with `~np.isfinite(images).all(axis=tuple(range(1, images.ndim)))`."
        )
    if bounds is None:
        return
    least, most = limits(bounds)
    if not _broadcasts(least + most, lows.shape):
        raise ValueError(
            f"Received {what} of shape {shape} for bounds of shape {(least + most).shape}; "
            "expected bounds that broadcast to one example."
        )
    slack = 1e-6 * (most - least)
    if np.any(lows < least - slack) or np.any(highs > most + slack):
        fix = (
            "divide by 255 (and put any normalisation into the model as a layer)"
            if low >= 0 and 2 < high <= 255
            else "put the normalisation into the model as a layer"
        )
        raise ValueError(
            f"Received {what} in [{low:.4g}, {high:.4g}]; expected {bounds_text(bounds)}, "
            f"the units of epsilon. Either {fix}, or pass `bounds=` of your own units "
            "to the attack, objective or `evaluate` (epsilon is then in those units too)."
        )


def _broadcasts(array, shape):
    try:
        return np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        return False


def check_bounds(bounds):
    """The range of valid examples as `(low, high)`, each a float or nested tuples of floats.

    Args:
        bounds: a pair of numbers or arrays, the latter with a value per channel or feature; or
            `None` for no limit, which is returned as it is.

    Raises:
        ValueError: it is none of these, or low is not below high everywhere.
    """
    if bounds is None:
        return None
    try:
        low, high = (np.asarray(bound) for bound in bounds)
        fits = low.dtype.kind in _NUMBERS and high.dtype.kind in _NUMBERS
        fits = fits and bool(np.all(-np.inf < low) and np.all(low < high) and np.all(high < np.inf))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"Received bounds={bounds}; expected (low, high), low < high, numbers or arrays of one "
            "per channel or feature, or None."
        )
    return _plain(low.astype("float64").tolist()), _plain(high.astype("float64").tolist())


def _plain(value):
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def limits(bounds):
    """`(low, high)` of bounds that `check_bounds` has returned, as float64 arrays."""
    return tuple(np.asarray(bound, "float64") for bound in bounds)


def bounds_text(bounds) -> str:
    """Bounds as sentences name them: [0, 1], or with the least and the largest of many."""
    if bounds is None:
        return "no bounds"
    low, high = limits(bounds)
    text = f"[{low.min():g}, {high.max():g}]"
    return f"{text} (bounds of shape {(low + high).shape})" if (low + high).ndim else text


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
                "single 1 in each row. For soft labels pass `labels.argmax(axis=1)`; attacks and "
                "evaluate take several labels an example with success='any label flips'."
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
    if _is_number(value) and least <= value == np.floor(value) < math.inf:
        return int(value)
    raise ValueError(f"Received {what}={value!r}; expected an integer, at least {least}.")


def check_counts(values, what, least=1, example=None):
    """The values as a tuple of Python integers, at least one."""
    try:
        counts = tuple(check_count(value, what, least) for value in values)
    except (TypeError, ValueError):
        counts = ()
    if counts:
        return counts
    raise ValueError(
        f"Received {what}={values!r}; expected integers of at least {least}"
        + (f", such as {example}." if example else ".")
    )


def check_number(value, what, least=-math.inf, above=-math.inf, most=math.inf, below=math.inf):
    """The value as a float; a `ValueError` if it is no finite number or out of its range."""
    finite = _is_number(value) and math.isfinite(value)
    if finite and least <= value <= most and above < value < below:
        return float(value)
    limits = (("at least", least), ("above", above), ("at most", most), ("below", below))
    stated = " and ".join(f"{word} {limit:g}" for word, limit in limits if math.isfinite(limit))
    raise ValueError(f"Received {what}={value!r}; expected a finite number {stated}".rstrip() + ".")


def check_flag(value, what):
    """The value as a bool; a `ValueError` if it is none."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"Received {what}={value!r}; expected True or False.")


def check_choice(value, what, choices):
    """The value; a `ValueError` names the nearest of the choices if it is none of them."""
    # Not `in` alone, to which True is 1.
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    raise unknown_name(what, value, choices)


def check_seed(value, what="seed"):
    """The value as a Python integer; a `ValueError` if it is none, negative, or beyond 64 bits."""
    if (seed := check_count(value, what, least=0)) < 2**64:
        return seed
    raise ValueError(f"Received {what}={value!r}; expected an integer below 2^64.")


def optional(check, value, *arguments, **settings):
    """`None`, or what the check makes of the value."""
    return None if value is None else check(value, *arguments, **settings)


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
