"""Frozen dataclasses that check their fields by the types they declare, and read JSON strictly."""

import dataclasses
import html
import json
import math
import types
from typing import Any, get_args, get_origin

import numpy as np

from keras_pde import files
from keras_pde.registry import unknown_name


def preformatted(text: str) -> str:
    """A text with its columns, as HTML."""
    return f"<pre>{html.escape(text)}</pre>"


class ToJSON:
    """Base of dataclasses that JSON holds: reports, and records that are read again."""

    noun = "report"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them: lists, and null for what is infinite or no number."""
        return plain(dataclasses.asdict(self))

    def _repr_html_(self) -> str:
        """For notebooks: what is printed, or else the JSON text."""
        printed = type(self).__str__ is not object.__str__
        return preformatted(str(self) if printed else self.to_json())

    def to_json(self, path=None) -> str:
        """`to_dict` as JSON text.

        Args:
            path: file to write it to, too; None for none.

        Raises:
            ValueError: something in it is none of strings, numbers, lists and dicts.
        """
        text = to_json(self.to_dict(), self.noun)
        if path is not None:
            files.write(path, text + "\n")
        return text


class Checked(ToJSON):
    """Base of a frozen dataclass whose instances have the declared types, nothing near them.

    Lists become tuples where a tuple is declared, since JSON has only lists. A whole number is a
    float too; True is not a number.
    """

    noun = "record"

    def __post_init__(self):
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            kinds = get_args(item.type) if isinstance(item.type, types.UnionType) else (item.type,)
            if isinstance(value, list) and any(get_origin(kind) is tuple for kind in kinds):
                object.__setattr__(self, item.name, value := tuple(value))
            if not fits(value, item.type):
                self.refuse(item.name, _type_name(item.type))

    def to_dict(self) -> dict[str, Any]:
        """The fields, as they are: JSON refuses what it cannot hold, and nothing becomes null."""
        return dataclasses.asdict(self)

    def refuse(self, name, expected):
        value = getattr(self, name)
        raise ValueError(f"Received a {self.noun} with {name}={value!r}; expected {expected}.")

    def require(self, name, valid, expected):
        if not valid:
            self.refuse(name, expected)

    @classmethod
    def from_dict(cls, values: Any):
        """The instance of exactly these fields; optional ones may be missing."""
        if not isinstance(values, dict):
            raise ValueError(
                f"Received a {cls.noun} that is a {type(values).__name__}; expected a dict."
            )
        check_names(cls, values, [item.name for item in dataclasses.fields(cls)])
        return cls(**values)


def check_names(cls, values, names, complete=False):
    """Refuses names that are not among `names`, and the lack of those that have no default."""
    for name in values:
        if name not in names:
            raise unknown_name(f"field of a {cls.noun}", name, names)
    required = [
        item.name
        for item in dataclasses.fields(cls)
        if item.name in names
        and (complete or (item.default, item.default_factory) == (dataclasses.MISSING,) * 2)
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(
            f"Received a {cls.noun} without {missing}; expected the fields {required}."
        )


def plain(value):
    """Arrays and tuples as lists, numbers of NumPy as Python's, and those that are none as None."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(values, noun) -> str:
    """JSON text; a `ValueError` says what JSON cannot hold."""
    try:
        return json.dumps(
            values, indent=2, ensure_ascii=False, allow_nan=False, default=_plain_number
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Received a {noun} that JSON cannot hold: {error}; expected strings, finite numbers,"
            " lists and dicts."
        ) from error


def from_json(text: str | bytes, noun) -> dict:
    """The dict of a JSON text without NaN and infinities; a `ValueError` for anything else."""
    try:
        values = json.loads(text, parse_constant=_not_a_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Received a {noun} that is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"Received a {noun} that is a {type(values).__name__}; expected a dict.")
    return values


def fits(value, kind) -> bool:
    """Whether a value has a declared type; whole numbers are floats, too, and True is no number."""
    arguments = get_args(kind)
    if kind is Any:
        return True
    if isinstance(kind, types.UnionType):
        return any(fits(value, part) for part in arguments)
    if get_origin(kind) is tuple:
        return (
            isinstance(value, tuple)
            and (arguments[-1] is Ellipsis or len(arguments) == len(value))
            and all(fits(v, arguments[0]) for v in value)
        )
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(
            isinstance(key, str) and fits(entry, arguments[1]) for key, entry in value.items()
        )
    if kind is bool:
        return isinstance(value, bool)
    if kind is float:
        kind = (int, float)
    return isinstance(value, kind) and not isinstance(value, bool)


def _type_name(kind):
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _plain_number(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__}")


def _not_a_number(constant):
    raise ValueError(f"{constant} is not a number in JSON")


def _finite(text):
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is too large a number")
    return number
