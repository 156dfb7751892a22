"""What a search varies: the table `[search]` of a recipe, as plain data that any tuner can use."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from keras_pde.recipes import Recipe, build
from keras_pde.recipes.tables import number
from keras_pde.registry import unknown_name

_TABLES = ("model", "objective", "optimizer", "schedule", "training", "data")
# What is measured, and on what, is the same for all trials; epochs are the tuner's.
_FIXED = ("data.name", "data.validation", "data.limit", "training.epochs", "training.backend")


@dataclass(frozen=True)
class Space:
    """The values of one key of a recipe: a range, or choices.

    Attributes:
        key: dotted key, such as "objective.epsilon", or a whole table ("objective").
        low, high: the ends of the range, both included; integers if `low`, `high` and `step` are.
        step: distance of neighbouring values; `None` for any value (integers: 1).
        log: whether the range is sampled on a logarithmic scale.
        choices: values of any kind, instead of a range.
    """

    key: str
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def is_integer(self) -> bool:
        given = (self.low, self.high, 1 if self.step is None else self.step)
        return all(isinstance(value, int) for value in given)

    @property
    def ends(self) -> tuple:
        """Values that stand for all of them: those at the ends, or each choice."""
        return self.choices or (self.low, self.high)


def spaces(recipe: Recipe) -> tuple[Space, ...]:
    """The search spaces of a recipe; the recipe is checked at the ends of each.

    Raises:
        ValueError: there are none, one is not well-formed, or a value of it is not valid in the
            recipe.

    Example:

    >>> [space.key for space in keras_pde.tuner.spaces(recipe)]
    """
    if not recipe.search:
        raise ValueError(
            "Received a recipe without [search]; expected a table of what to vary, such as "
            '"objective.epsilon" = { low = 0.01, high = 0.1, log = true }.'
        )
    found = tuple(_space(key, table) for key, table in recipe.search.items())
    for changes in corners(found):
        try:
            build.check(recipe.replaced(changes))
        except ValueError as error:
            tried = ", ".join(f"{key} = {value!r}" for key, value in changes.items())
            raise ValueError(f"In [search], at {tried}: {error}") from error
    return found


def corners(spaces) -> list[dict[str, Any]]:
    """Changes of a recipe in which each end of each space occurs, the others at their first."""
    first = {space.key: space.ends[0] for space in spaces}
    return [{**first, space.key: end} for space in spaces for end in space.ends]


def _space(key, table):
    _check_key(key)
    known = [f.name for f in dataclasses.fields(Space) if f.name != "key"]
    if not isinstance(table, dict):
        raise _refused(key, table, "a table: { low, high } or { choices }")
    for name in table:
        if name not in known:
            raise unknown_name(f"key of {key!r} in [search]", name, known)
    if "choices" in table:
        choices = table["choices"]
        if len(table) > 1 or not isinstance(choices, list) or len(choices) < 2:
            raise _refused(key, table, "choices = [...] with at least two values, and nothing else")
        return Space(key, choices=tuple(choices))
    numbers = {name: number(table[name]) for name in ("low", "high", "step") if name in table}
    space = Space(key, **numbers, log=table.get("log", False))
    if not all(_is_number(value) for value in numbers.values()) or not {"low", "high"} <= {*table}:
        raise _refused(key, table, "numbers low and high (and step)")
    if not space.low < space.high:
        raise _refused(key, table, "low < high")
    if space.step is not None and (space.step <= 0 or space.log):
        raise _refused(key, table, "a positive step, on a linear scale only")
    if space.log not in (True, False) or (space.log and space.low <= 0):
        raise _refused(key, table, "log = true only for a positive low")
    return space


def _check_key(key):
    table = key.split(".")[0]
    if table not in _TABLES:
        raise unknown_name("table of a key in [search]", table, _TABLES)
    if key in _FIXED or key in ("data", "training"):
        raise ValueError(
            f"Received {key!r} in [search]; expected a key that leaves the data, the measurement "
            "and the number of epochs as they are: trials are compared by them."
        )


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refused(key, table, expected):
    return ValueError(f"Received {key!r} = {table!r} in [search]; expected {expected}.")
