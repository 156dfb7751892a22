from typing import Any

from keras_pde import registry
from keras_pde.attacks.attack import Attack


def get(identifier: str | dict | Attack, **arguments: Any) -> Attack:
    """An attack from its name, or from a config as reports and cards have it.

    Args:
        identifier: registered name such as `"pgd"`; a dict with `"class"` and the arguments; or an
            attack, which is returned as it is.
        **arguments: of the constructor, beside a name: `norm`, and what differs from the defaults.

    Raises:
        ValueError: there is no such attack, or an argument is unknown or out of range.

    Example:

    >>> attack = kp.attacks.get("pgd", norm="linf", epsilon="8/255", steps=40)
    """
    if isinstance(identifier, Attack) and not arguments:
        return identifier
    if isinstance(identifier, dict):
        arguments = {**identifier, **arguments}
        name = arguments.pop("class", None)
        known = {entry.component.__name__: entry.component for entry in registry.entries("attack")}
        if name not in known:
            raise registry.unknown_name("attack", name, known)
        return registry.create(known[name], arguments, f"attack {name!r}")
    return registry.create(registry.get("attack", identifier), arguments, f"attack {identifier!r}")
