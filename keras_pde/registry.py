"""Name -> component, for every family of the library, and the base class of configurable objects.

A row is added where the component is defined:

    @register("attack", "fgsm", norm="linf", epsilon=0.1)
    class FGSM(Attack): ...

The keyword arguments are a small working example of the constructor's arguments; the test banks
build every registered component from them, so a new component is tested without a new test.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras

KINDS = ("layer", "optimizer", "objective", "attack", "model")
_SERIALIZED = ("layer", "optimizer", "objective")


@dataclass(frozen=True)
class Entry:
    """One registered component: `component(**example)` builds a small working instance."""

    kind: str
    name: str
    component: Callable
    example: dict[str, Any]


_entries: dict[tuple[str, str], Entry] = {}


def register(kind: str, name: str, **example) -> Callable:
    """Decorator that adds a component to the registry.

    Layers, optimizers and objectives also become Keras-serializable under the package `keras_pde`.

    Args:
        kind: one of `KINDS`.
        name: snake_case name, unique within the kind.
        **example: constructor arguments of a small working instance.

    Raises:
        ValueError: the kind is unknown or the name is taken.
    """
    if kind not in KINDS:
        raise unknown_name("kind of component", kind, KINDS)

    def decorate(component):
        if (kind, name) in _entries:
            raise ValueError(f"Received a second {kind} named {name!r}; names must be unique.")
        _entries[kind, name] = Entry(kind, name, component, example)
        if kind in _SERIALIZED:
            component = keras.saving.register_keras_serializable(package="keras_pde")(component)
        return component

    return decorate


def names(kind: str) -> list[str]:
    """Sorted names of one kind."""
    return sorted(name for k, name in _entries if k == kind)


def entries(kind: str) -> list[Entry]:
    """All registered components of one kind, sorted by name."""
    return [_entries[kind, name] for name in names(kind)]


def get(kind: str, name: str) -> Callable:
    """The component of that kind and name; the error for another name gives the nearest one."""
    if (kind, name) not in _entries:
        raise unknown_name(kind, name, names(kind))
    return _entries[kind, name].component


def unknown_name(what: str, received: Any, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among the `known` ones, with the nearest of them."""
    known = list(known)
    spelled = {str(name).lower(): str(name) for name in known}
    near = difflib.get_close_matches(str(received).lower(), spelled, n=1)
    hint = f" Did you mean {spelled[near[0]]!r}?" if near else ""
    return ValueError(f"Received unknown {what} {received!r}; expected one of {known}.{hint}")


def create(function, arguments, what):
    """`function(**arguments)`; unknown and missing arguments are named, with the nearest.

    Raises:
        ValueError: for these, and for a value of the wrong type.
    """
    known = _parameters(function)
    for name in arguments:
        if name not in known:
            raise unknown_name(f"argument of {what}", name, known)
    missing = [n for n, p in known.items() if p.default is p.empty and n not in arguments]
    if missing:
        raise ValueError(f"Received {what} without {missing}; expected at least these.")
    try:
        return function(**arguments)
    except TypeError as error:
        raise ValueError(
            f"Received {what} with {arguments}; expected values of other types ({error})."
        ) from error


def _parameters(function):
    """By name; a class that takes `**kwargs` hands them on to its base classes."""
    owners = [function]
    if inspect.isclass(function):
        owners = [owner for owner in function.__mro__ if "__init__" in vars(owner)]
    known = {}
    for owner in owners:
        parameters = inspect.signature(owner).parameters
        kinds = {p.kind for p in parameters.values()}
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        known = {**{n: p for n, p in parameters.items() if p.kind in named}, **known}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return known


class Component:
    """A plain object whose attributes carry the names of its constructor's arguments.

    That convention gives `get_config`, `from_config`, `==` and `repr` to every subclass, and makes
    an incomplete config impossible.
    """

    def get_config(self) -> dict[str, Any]:
        parameters = inspect.signature(type(self)).parameters
        many = [p.name for p in parameters.values() if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if many:
            raise ValueError(
                f"Received {type(self).__name__}, whose constructor takes *{many[0]}; expected "
                "each argument by its name, of which the configuration is made."
            )
        return {name: getattr(self, name) for name in parameters}

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        return cls(**config)

    def __eq__(self, other) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"
