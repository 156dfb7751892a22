import dataclasses
import json
from typing import Any

import keras

from keras_pde import _keras
from keras_pde.optimizers import state
from keras_pde.recipes import Recipe, build, devices
from keras_pde.recipes.course import Course
from keras_pde.tuner.extra import keras_tuner, require
from keras_pde.tuner.space import corners, spaces

_Base = keras_tuner.HyperModel if keras_tuner else object


class RobustHyperModel(_Base):
    """Lets Keras Tuner search the values of a recipe for the most robust model.

    `build` returns the compiled `RobustModel` of a trial, `fit` trains it as `keras_pde.recipes`
    would: same batches, validation split and seeds, so that a trial trained in one go and a
    training of `recipe_of(hp)` are the same. Each epoch logs `val_accuracy` and
    `val_robust_accuracy` on held-out training images; test images are dropped at once.

    Hyperband goes on with the weights and the optimizer of a former trial's best epoch, on the
    schedule of the whole training; a moving average of weights starts anew there.

    Args:
        recipe: a `Recipe` with `[search]`.
        data_dir, download: as in `keras_pde.data.load`.
        devices: number of devices that share each batch, or "auto", as in `keras_pde.recipes`.

    Raises:
        ImportError: Keras Tuner is not installed.
        ValueError: the search spaces are not well-formed, or do not fit the recipe.
        FileNotFoundError: the data are absent.

    Example:

    >>> hypermodel = RobustHyperModel(keras_pde.recipes.load("search.toml"))
    >>> objective = keras_tuner.Objective("val_robust_accuracy", "max")
    >>> tuner = keras_tuner.RandomSearch(hypermodel, objective, max_trials=10, seed=1)
    >>> tuner.search()
    >>> print(hypermodel.recipe_of(tuner.get_best_hyperparameters()[0]).to_toml())
    """

    def __init__(self, recipe, data_dir=None, download=False, devices=None):
        require()
        self.devices = _devices(devices)
        super().__init__(name=recipe.title)
        self.recipe, self.spaces = recipe, spaces(recipe)
        loaded, self.training_part, self.held_out = build.dataset(recipe, data_dir, download)
        self.loaded = dataclasses.replace(
            loaded, x_test=loaded.x_test[:0], y_test=loaded.y_test[:0]
        )
        for changes in corners([s for s in self.spaces if s.key.startswith("model")]):
            build.network(recipe.replaced(changes), self.loaded)

    @classmethod
    def of(cls, model, objective, data, search, data_dir=None, **tables):
        """The same without a recipe file.

        Args:
            model, objective, data: a name, or a table of a recipe, such as
                `{"name": "small_cnn", "width": 8}`.
            search: dotted key -> space, as in `[search]`.
            data_dir: as in `keras_pde.data.load`.
            **tables: more of the recipe; by default 10 epochs, and its optimizer and schedule.

        Example:

        >>> RobustHyperModel.of("small_cnn", "tulip", "fashion_mnist_sample",
        ...     {"objective.weight": {"low": 0.01, "high": 1.0, "log": True}},
        ...     training={"epochs": 5}, validation={"norm": "l2", "epsilon": 0.5})
        """
        named = {"model": model, "objective": objective, "data": data}
        parts = {k: {"name": v} if isinstance(v, str) else v for k, v in named.items()}
        values = {
            "title": f"{parts['data']['name']}: a search",
            "training": {"epochs": 10},
            **parts,
            **tables,
            "search": search,
        }
        return cls(Recipe.of(values), data_dir)

    def recipe_of(self, hp) -> Recipe:
        """The recipe of a trial, without `[search]`: `keras_pde.recipes.train` can run it."""
        return without_search(self.recipe.replaced(self.values_of(hp)))

    def values_of(self, hp) -> dict[str, Any]:
        """Dotted key -> value of a trial; registers the spaces with `hp` on the way."""
        return {space.key: _value(space, hp) for space in self.spaces}

    def build(self, hp) -> keras.Model:
        recipe = self.recipe_of(hp)
        batches = build.batches(recipe, self.loaded, self.training_part, self.devices)
        steps = recipe.training.epochs * batches.steps_per_epoch
        with self.devices.scope():
            return build.robust_model(recipe, self.loaded, steps)

    def fit(self, hp, model, *args, callbacks=(), epochs=None, initial_epoch=0, **kwargs):
        if args or "x" in kwargs:
            raise keras_tuner.errors.FatalValueError(
                "Received data in `search`; expected none: a RobustHyperModel has its recipe's."
            )
        recipe = self.recipe_of(hp)
        batches = build.batches(recipe, self.loaded, self.training_part, self.devices)
        if initial_epoch:
            state.skip(model.optimizer, initial_epoch * batches.steps_per_epoch)
            if model.averaged is not None:
                _keras.set_weights(model.averaged, model.model.get_weights())
        course = Course(recipe, model, batches, self.held_out, self.devices)
        return course.run(callbacks, initial_epoch, epochs or recipe.training.epochs, **kwargs)


def _devices(wanted):
    found = devices.find(wanted)
    if found.processes > 1:
        raise ValueError(
            f"Received {found.processes} processes that train together for a search; expected one: "
            "searches are shared by Keras Tuner's chief and workers."
        )
    return found


def without_search(recipe: Recipe) -> Recipe:
    """The recipe as one to train."""
    return Recipe.of({key: value for key, value in recipe.values.items() if key != "search"})


def _value(space, hp):
    if space.choices:
        # Keras Tuner takes plain values of one type, turns booleans into integers, and rounds
        # floats on the way to workers; a label keeps what was written.
        labels = {json.dumps(value): value for value in space.choices}
        return labels[hp.Choice(space.key, list(labels))]
    register = hp.Int if space.is_integer else hp.Float
    scale = "log" if space.log else "linear"
    value = register(space.key, space.low, space.high, step=space.step, sampling=scale)
    if space.is_integer:
        return value
    # Workers receive float32: six digits are the same everywhere, and readable.
    return min(max(float(f"{value:.6g}"), space.low), space.high)
