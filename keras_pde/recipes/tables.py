"""Tables of a TOML file: read into dataclasses, laid over one another, changed at dotted keys."""

import dataclasses
import types
import typing
from dataclasses import dataclass, field, fields
from typing import Any

from keras_pde.records import fits
from keras_pde.registry import unknown_name
from keras_pde.threat import is_fraction, radius


@dataclass(frozen=True)
class Part:
    """A component by its registered name, with the arguments of its constructor."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


def section(cls, values, where):
    """The dataclass of a table, each value checked against the field's type."""
    if not isinstance(values, dict):
        raise ValueError(f"Received {values!r} as {where}; expected a table.")
    if cls is Part:
        return _part(values, where)
    hints = typing.get_type_hints(cls)
    known = [f.name for f in fields(cls) if f.name != "values"]
    for key in values:
        if key not in known:
            raise unknown_name(f"key of {where}", key, known)
    needed = [f.name for f in fields(cls) if _is_required(f)]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"Received {where} without {missing}; expected at least {needed}.")
    return cls(**{key: _value(hints[key], value, where, key) for key, value in values.items()})


def _is_required(item):
    missing = dataclasses.MISSING
    return item.default is missing and item.default_factory is missing


def _part(values, where):
    arguments = {key: number(value) for key, value in values.items() if key != "name"}
    name = values.get("name", "" if "from" in arguments else None)
    if not isinstance(name, str):
        raise ValueError(f'Received {where} without a name; expected name = "...".')
    return Part(name, arguments)


def number(value):
    """A fraction in quotes, such as "8/255", as a float, and "none" as None (TOML has neither)."""
    if value == "none":
        return None
    if is_fraction(value):
        return radius(value)
    if isinstance(value, list):
        return [number(item) for item in value]
    return value


def _value(hint, value, where, key):
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    what = f"[{key}]" if where == "the recipe" else f"{key} in {where}"
    if origin is tuple:
        # One table may stand for a list of one.
        items = value if isinstance(value, list) else [value]
        return tuple(_value(arguments[0], item, where, key) for item in items)
    if dataclasses.is_dataclass(hint):
        return section(hint, value, what)
    kinds = arguments if origin is types.UnionType else (origin or hint,)
    value = value if kinds == (str,) else number(value)
    if fits(value, hint):
        return float(value) if kinds == (float,) else value
    expected = " or ".join(kind.__name__ for kind in kinds)
    raise ValueError(f"Received {key} = {value!r} in {where}; expected {expected}.")


def laid_over(base, values):
    """Tables merge key by key; a component of another name brings its own arguments only."""
    merged = dict(base)
    for key, value in values.items():
        old = base.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = laid_over(old, value) if both and not _renamed(key, old, value) else value
    return merged


def _renamed(key, old, new):
    """Whether a table is about another component than the one that it is laid over."""
    return key != "data" and any(
        name in new and new[name] != old.get(name) for name in ("name", "from")
    )


def copied(values):
    """A deep copy that TOML can hold."""
    if isinstance(values, dict):
        return {key: copied(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [copied(value) for value in values]
    return "none" if values is None else values


def entered(table, name, key):
    if isinstance(table, list):
        return table[index_of(table, name, key)]
    entry = table.setdefault(name, {})
    if not isinstance(entry, (dict, list)):
        raise ValueError(f"Received the key {key!r}; expected one of a table, {name!r} is a value.")
    return entry


def index_of(table, name, key):
    if not name.isdigit() or int(name) >= len(table):
        raise ValueError(
            f"Received the key {key!r}; expected a number from 0 to {len(table) - 1} for an entry "
            f"of the list, not {name!r}: for the first one, write its number, as in "
            "evaluation.0.images."
        )
    return int(name)
