"""What users are told of: the components, and all that the public modules list."""

import inspect

import keras_pde as kp
from keras_pde import registry


def public():
    """Name -> component, class or function."""
    found = {
        f"{kind}-{entry.name}": entry.component
        for kind in registry.KINDS
        for entry in registry.entries(kind)
    }
    rooms = [name for name in kp.__all__ if inspect.ismodule(getattr(kp, name))]
    for room in (kp, *(getattr(kp, name) for name in rooms)):
        for name in room.__all__:
            value = getattr(room, name)
            if callable(value) and value not in found.values():
                found[f"{room.__name__.partition('.')[2] or 'kp'}-{name}"] = value
    return found
