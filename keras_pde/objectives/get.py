from typing import Any

import keras

from keras_pde import registry
from keras_pde.objectives.objective import Objective, Term


def get(identifier: str | dict | Objective | Term, **arguments: Any) -> Objective | Term:
    """A term or an objective from its name, or from a config as Keras serializes it.

    Args:
        identifier: registered name such as `"tulip"`; a dict of `keras.saving`; or a term or
            objective, which is returned as it is.
        **arguments: of the constructor, beside a name.

    Raises:
        ValueError: there is no such objective, or an argument is unknown or out of range.

    Example:

    >>> objective = kp.objectives.get("adversarial", norm="linf", epsilon="8/255")
    """
    if isinstance(identifier, Term | Objective) and not arguments:
        return identifier
    if isinstance(identifier, dict) and not arguments:
        found = keras.saving.deserialize_keras_object(identifier)
        if isinstance(found, Term | Objective):
            return found
    if isinstance(identifier, str):
        component = registry.get("objective", identifier)
        return registry.create(component, arguments, f"objective {identifier!r}")
    raise ValueError(
        f"Received {identifier!r} with {arguments} as an objective; expected the name of one with "
        "its arguments, a config, or a term alone."
    )
