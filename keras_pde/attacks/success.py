"""When an attack has succeeded, and what it maximises until then."""

import re
from abc import ABC, abstractmethod

import keras
import numpy as np
from keras import ops

from keras_pde.attacks import losses
from keras_pde.checks import check_number, class_labels
from keras_pde.registry import unknown_name

NAMES = ("misclassified", "any label flips", "accuracy below 0.5", "error above 0.1")


class Success(ABC):
    """A rule: which outputs are wrong for a label.

    Attributes:
        name: as it is given to `evaluate`.
        losses: name -> per-example loss `(outputs, labels, targets) -> (batch,)` for attacks to
            maximise; the first is the default.
        logits: whether outputs are logits, or probabilities that become some.
        classes: whether each example has one label, and a vector of outputs.
    """

    name: str
    losses: dict
    logits = True
    classes = False

    @abstractmethod
    def check(self, labels, shape):
        """The labels as an array that fits outputs of that shape; a `ValueError` if none does."""

    @abstractmethod
    def wrong(self, outputs, labels):
        """bool `(batch,)`; of tensors or of arrays."""

    def loss(self, name):
        """The loss of that name."""
        if name not in self.losses:
            what = f"loss (an attack's default is 'ce') for success={self.name!r}"
            raise unknown_name(what, name, self.losses)
        return self.losses[name]

    def best(self, name, *others):
        """The loss of that name if the rule has it, else the first of the others that it has."""
        return next(n for n in (name, *others, *self.losses) if n in self.losses)


class Misclassified(Success):
    """The largest output is another class than the label."""

    name = "misclassified"
    losses = {name: losses.get(name) for name in losses.names()}
    classes = True

    def check(self, labels, shape):
        return class_labels(labels, max(2, shape[1]), shape[0])

    def wrong(self, outputs, labels):
        return predicted(outputs) != labels


def predicted(outputs):
    """The classes of the largest outputs, int32."""
    if isinstance(outputs, np.ndarray):
        return outputs.argmax(axis=-1).astype("int32")
    return ops.cast(ops.argmax(outputs, axis=-1), "int32")


class _Positions(Success):
    """Several labels an example: of its positions (pixels, words), or independent ones.

    Labels are 0 or 1 in the shape of the outputs, one sigmoid each; or classes, of which the last
    axis of the outputs has the logits. Of positions, one-hot labels are classes.
    """

    def check(self, labels, shape):
        labels = np.asarray(labels)
        if len(shape) > 2 and shape[-1] > 1:
            if labels.shape == (*shape[:-1], 1):
                labels = labels[..., 0]
            elif labels.shape == shape and _one_hot(labels):
                labels = labels.argmax(axis=-1)
        one_sigmoid = labels.shape in (shape, shape[:-1]) and (
            labels.shape == shape or shape[-1] == 1
        )
        classes = labels.shape == shape[:-1] and len(shape) > 2 and shape[-1] > 1
        if not (one_sigmoid or classes):
            raise ValueError(
                f"Received labels of shape {labels.shape} for outputs of shape {shape} and "
                f"success={self.name!r}; expected zeros and ones of the shape of the outputs, or "
                f"classes of shape {shape[:-1]}."
            )
        most = 1 if one_sigmoid else shape[-1] - 1
        fits = labels.dtype.kind in "biuf" and np.all(np.isin(labels, np.arange(most + 1)))
        if not fits:
            raise ValueError(
                f"Received labels of type {labels.dtype}, which are not all integers from 0 to "
                f"{most}; expected those, for outputs of shape {shape} and success={self.name!r}."
            )
        return labels.reshape(shape if one_sigmoid else labels.shape).astype("int32")

    def _margins(self, outputs, labels):
        """Of each position, `(batch, positions)`: positive where it is wrong."""
        if len(labels.shape) == len(outputs.shape):
            margins = ops.where(ops.equal(labels, 1), -outputs, outputs)
        else:
            margins = losses.margin(outputs, labels)
        return _flat(margins)

    def _cross_entropies(self, outputs, labels):
        if len(labels.shape) == len(outputs.shape):
            return ops.softplus(self._margins(outputs, labels))
        return _flat(losses.cross_entropy(outputs, labels))

    def _flips(self, outputs, labels):
        """bool `(batch, positions)`."""
        if len(labels.shape) == len(outputs.shape):
            return _flat((outputs > 0) != (labels == 1))
        return _flat(predicted(outputs) != labels)


class AnyLabelFlips(_Positions):
    """One of several labels is predicted otherwise."""

    name = "any label flips"

    def __init__(self):
        self.losses = {
            "ce": lambda z, y, _=None: ops.sum(self._cross_entropies(z, y), axis=-1),
            "margin": lambda z, y, _=None: ops.max(self._margins(z, y), axis=-1),
        }

    def wrong(self, outputs, labels):
        return _any(self._flips(outputs, labels))


class AccuracyBelow(_Positions):
    """Less than a share of the labels of an example, such as its pixels, are predicted rightly."""

    def __init__(self, share):
        self.share = check_number(share, "the share of success='accuracy below ...'", 0, 0, 1)
        self.name = f"accuracy below {self.share:g}"
        self.losses = {
            "ce": lambda z, y, _=None: ops.mean(self._cross_entropies(z, y), axis=-1),
            # What is wrong already pulls no more.
            "margin": lambda z, y, _=None: ops.mean(ops.minimum(self._margins(z, y), 0), axis=-1),
        }

    def wrong(self, outputs, labels):
        flips = self._flips(outputs, labels)
        if isinstance(flips, np.ndarray):
            return 1 - flips.mean(axis=-1) < self.share
        return 1 - ops.mean(ops.cast(flips, outputs.dtype), axis=-1) < self.share


class ErrorAbove(Success):
    """A regression is off by more than a length, in the worst of its outputs."""

    logits = False

    def __init__(self, length):
        self.length = check_number(length, "the length of success='error above ...'", above=0)
        self.name = f"error above {self.length:g}"
        self.losses = {"margin": lambda z, y, _=None: self._margin(z, y)}

    def check(self, labels, shape):
        return _like(labels, shape, self.name)

    def _margin(self, outputs, labels):
        return ops.max(_flat(_absolute(outputs - labels)), axis=-1) - self.length

    def wrong(self, outputs, labels):
        if isinstance(outputs, np.ndarray):
            return np.abs(outputs - labels).reshape(len(outputs), -1).max(axis=-1) > self.length
        return self._margin(outputs, labels) > 0


class Function(Success):
    """A function of the user's own, of labels and outputs as tensors.

    It returns `(batch,)`: floats, positive for a success, which attacks maximise; or bools or
    integers, for which they maximise the absolute error.
    """

    logits = False

    def __init__(self, function):
        self.function, self._returns_bools = function, None
        self.name = getattr(function, "__name__", type(function).__name__)
        self.losses = {"margin": self._loss}

    def check(self, labels, shape):
        labels = np.asarray(labels)
        if labels.shape[:1] != shape[:1] or labels.dtype.kind not in "biuf":
            raise ValueError(
                f"Received labels of shape {labels.shape} and type {labels.dtype} for outputs of "
                f"shape {shape}; expected an array of numbers with an entry for each example."
            )
        if labels.dtype.kind != "f" and np.any(np.abs(labels.astype("float64")) >= 2**31):
            raise ValueError(
                f"Received labels up to {labels.max()}; expected numbers below 2^31, or floats."
            )
        return labels.astype("float32" if labels.dtype.kind == "f" else "int32")

    def _values(self, outputs, labels):
        values = ops.convert_to_tensor(self.function(labels, outputs))
        if tuple(values.shape) != tuple(outputs.shape[:1]):
            raise ValueError(
                f"Received a function success={self.name} that returns the shape "
                f"{tuple(values.shape)} for outputs of shape {tuple(outputs.shape)}; expected a "
                "number or bool for each example."
            )
        return values

    def _loss(self, outputs, labels, targets=None):
        values = self._values(outputs, labels)
        if not _are_flags(values):
            return values
        if tuple(labels.shape) != tuple(outputs.shape):
            raise ValueError(
                f"Received a function success={self.name} that returns bools, for labels of shape "
                f"{tuple(labels.shape)} and outputs of shape {tuple(outputs.shape)}, of which "
                "there is no error to maximise; expected one that returns numbers, positive for a "
                "success."
            )
        error = _absolute(outputs - ops.cast(labels, outputs.dtype))
        return ops.sum(_flat(error), axis=-1)

    def wrong(self, outputs, labels):
        values = self._values(ops.convert_to_tensor(outputs), ops.convert_to_tensor(labels))
        found = values if "bool" in str(values.dtype) else values > 0
        return ops.convert_to_numpy(found) if isinstance(outputs, np.ndarray) else found


MISCLASSIFIED = Misclassified()


def get(success) -> Success:
    """The rule of that name, of a function, or the usual one for `None`.

    Raises:
        ValueError: neither a name nor a function.
    """
    if success is None:
        return MISCLASSIFIED
    if isinstance(success, Success):
        return success
    if callable(success):
        return Function(success)
    plain = {rule.name: rule for rule in (MISCLASSIFIED, AnyLabelFlips())}
    if success in plain:
        return plain[success]
    lengths = {"accuracy below": AccuracyBelow, "error above": ErrorAbove}
    found = re.fullmatch(f"({'|'.join(lengths)}) ([0-9.eE+-]+)", str(success))
    try:
        return lengths[found[1]](float(found[2]))
    except (TypeError, ValueError):
        raise ValueError(
            f"Received success={success!r}; expected a function of labels and outputs, or one of "
            f"{', '.join(map(repr, NAMES))}, with a number of your own."
        ) from None


def _are_flags(values):
    return not keras.backend.is_float_dtype(keras.backend.standardize_dtype(values.dtype))


def _one_hot(labels):
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) == 1).all())


def _like(labels, shape, name):
    """Labels that are numbers, in the shape of the outputs."""
    labels = np.asarray(labels)
    fits = labels.dtype.kind in "biuf" and labels.shape in (shape, shape[:-1])
    if not fits or (labels.shape != shape and shape[-1] != 1):
        raise ValueError(
            f"Received labels of shape {labels.shape} and type {labels.dtype} for outputs of shape "
            f"{shape} and success={name!r}; expected numbers of the same shape."
        )
    labels = labels.reshape(shape).astype("float32")
    if not np.isfinite(labels).all():
        raise ValueError("Received labels with NaN or infinite entries; expected numbers.")
    return labels


def _absolute(error):
    """With a gradient where there is no error: attacks begin there if labels are predictions."""
    return ops.where(error >= 0, error, -error)


def _flat(values):
    """`(batch, positions)`."""
    if isinstance(values, np.ndarray):
        return values.reshape(len(values), -1)
    return ops.reshape(values, (ops.shape(values)[0], int(np.prod(values.shape[1:]))))


def _any(flags):
    return flags.any(axis=-1) if isinstance(flags, np.ndarray) else ops.any(flags, axis=-1)
