"""What the values of a recipe may be, as tables."""

from keras_pde import geometry
from keras_pde.registry import unknown_name
from keras_pde.threat import Threat

_AT_LEAST_0 = (lambda v: v >= 0, "at least 0")
_AT_LEAST_1 = (lambda v: v >= 1, "at least 1")
_SHARE = (lambda v: 0 <= v < 1, "a share in [0, 1)")
_SEED = (lambda v: 0 <= v < 2**32, "an integer from 0 to 2^32 - 1")

_RANGES = {
    "data.validation": (
        lambda v: 0 < v < 1 if isinstance(v, float) else v >= 1,
        "a number of images, or a share in (0, 1)",
    ),
    "data.limit": _AT_LEAST_0,
    "data.num_classes": _AT_LEAST_0,
    "data.crop": _AT_LEAST_0,
    "data.cutout": _AT_LEAST_0,
    "training.epochs": _AT_LEAST_1,
    "training.batch_size": _AT_LEAST_1,
    "training.seed": _SEED,
    "training.label_smoothing": _SHARE,
    "training.average": _SHARE,
    "validation.steps": _AT_LEAST_1,
    "validation.images": _AT_LEAST_1,
    "validation.every": _AT_LEAST_1,
    "validation.patience": _AT_LEAST_0,
    "evaluation.images": _AT_LEAST_0,
    "evaluation.epsilons": (len, "at least one length"),
    "evaluation.seed": _SEED,
}

_CHOICES = {
    "data.layout": ("", "channels_last", "channels_first"),
    "training.decay": ("kernels", "all"),
    "training.precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "training.backend": ("", "tensorflow", "jax"),
    "validation.norm": geometry.names(),
    # All are accuracies: the largest is the best.
    "validation.select": ("val_robust_accuracy", "val_accuracy", "last"),
    "evaluation.norm": geometry.names(),
}


def check_ranges(recipe) -> None:
    """Refuses values that no training could use.

    Raises:
        ValueError: says the key, the value, and what it may be.
    """
    for key, (valid, expected) in _RANGES.items():
        for value in _values(recipe, key):
            if not valid(value):
                raise ValueError(f"Received {key} = {value!r}; expected {expected}.")
    for key, choices in _CHOICES.items():
        for value in _values(recipe, key):
            if value not in choices:
                raise unknown_name(key, value, choices)
    if not recipe.objective:
        raise ValueError('Received objective = []; expected a term, such as name = "plain".')
    validation = recipe.validation
    if validation.patience and validation.select == "last":
        raise ValueError(
            f"Received validation.patience = {validation.patience} with select = 'last', of which "
            "no epoch is better than another; expected select = 'val_robust_accuracy' or "
            "'val_accuracy'."
        )
    _check_radius("validation.epsilon", validation.norm, validation.epsilon)
    for evaluation in recipe.evaluation:
        for epsilon in evaluation.epsilons:
            _check_radius("evaluation.epsilons", evaluation.norm, epsilon)


def _check_radius(key, norm, epsilon):
    try:
        valid = Threat(norm, epsilon).epsilon > 0
    except ValueError as error:
        raise ValueError(f"Received {key} = {epsilon!r}; expected a length: {error}") from error
    if not valid:
        raise ValueError(f"Received {key} = {epsilon!r}; expected a length above 0.")


def _values(recipe, key):
    section, name = key.split(".")
    tables = getattr(recipe, section)
    return [getattr(table, name) for table in (tables if isinstance(tables, tuple) else [tables])]
