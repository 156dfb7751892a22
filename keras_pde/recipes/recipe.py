"""A recipe: one TOML file that says how a model is made and measured."""

import dataclasses
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from keras_pde.recipes.ranges import check_ranges
from keras_pde.recipes.tables import Part, copied, entered, index_of, laid_over, section


@dataclass(frozen=True)
class Data:
    """`[data]`: what is trained on.

    Attributes:
        name: a data set's name, a `.npz` file or a TFDS folder.
        validation: number of training images held out to select with, or their share.
        limit: at most so many training images (the held-out ones included); 0 for all.
        crop: random crops after zero padding of so many pixels at each side.
        flip: random horizontal flips.
        cutout: side of a random square that is set to zero, in pixels.
        layout: of a `.npz` file: "channels_last", "channels_first", or empty, if its shape tells.
        num_classes: of one's own data, if some classes have no examples; 0 for those that have.
    """

    name: str
    validation: int | float = 0.1
    limit: int = 0
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    layout: str = ""
    num_classes: int = 0


@dataclass(frozen=True)
class Training:
    """`[training]`.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all devices together.
        seed: of weights, order, augmentation and noise.
        label_smoothing: share of each label spread over all classes, in [0, 1).
        average: decay of the moving average of the weights that is kept, in [0, 1); 0 for none.
        precision: "float32", "mixed_bfloat16" or "mixed_float16"; weights and logits stay float32.
        decay: what the optimizer's `weight_decay` is about: "kernels" or "all" weights.
        backend: the Keras backend that the recipe needs; empty for any.
    """

    epochs: int
    batch_size: int = 128
    seed: int = 0
    label_smoothing: float = 0.0
    average: float = 0.0
    precision: str = "float32"
    decay: str = "kernels"
    backend: str = ""


@dataclass(frozen=True)
class Validation:
    """`[validation]`: PGD on held-out images after each epoch, and which epoch is kept.

    Attributes:
        norm: norm of the perturbation.
        epsilon: its length; `val_robust_accuracy` is measured there.
        steps: of PGD.
        images: number of held-out images attacked, at most.
        every: epochs between two attacks; the last epoch is always attacked.
        select: the largest "val_robust_accuracy" or "val_accuracy" names the epoch that is kept, or
            it is the "last" one.
        patience: the training stops after so many epochs without a better one; 0 for never.
    """

    norm: str = "linf"
    epsilon: float = 0.1
    steps: int = 10
    images: int = 500
    every: int = 1
    select: str = "val_robust_accuracy"
    patience: int = 0


@dataclass(frozen=True)
class Evaluation:
    """`[[evaluation]]`: one attack run on the test images once training is over.

    Attributes:
        norm: norm of the perturbation.
        epsilons: its lengths.
        images: the first so many test images; 0 for all.
        seed: of the attacks.
        attacks: tables of attacks in the norm; none for those of `kp.evaluate`.
    """

    norm: str
    epsilons: tuple[float, ...]
    images: int = 1000
    seed: int = 0
    attacks: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How a model is made and measured; `load` reads one from a file.

    Attributes:
        title: one line.
        data: see `Data`.
        model: architecture, or `from` with the name of a published model to start from.
        objective: terms of the objective, which are added up.
        optimizer: an optimizer of Keras or of this library, without its learning rate.
        schedule: the learning rate, see `schedules`.
        training: see `Training`.
        validation: see `Validation`.
        evaluation: see `Evaluation`.
        name: under which the model is published, such as "mnist/linf-0.3/small_cnn".
        description, licence, caveats: for the model's card.
        search: dotted key of this recipe -> its search space, see `keras_pde.tuner`.
        values: the tables as they were read.

    Files that a recipe names (data, models) are looked for beside it first, then from where the
    command runs.
    """

    folder = None  # of the file

    title: str
    data: Data
    model: Part
    training: Training
    objective: tuple[Part, ...] = (Part("plain"),)
    optimizer: Part = field(default_factory=lambda: Part("sgd", {"momentum": 0.9}))
    schedule: Part = field(default_factory=lambda: Part("one_cycle", {"peak": 0.1}))
    validation: Validation = Validation()
    evaluation: tuple[Evaluation, ...] = ()
    name: str = ""
    description: str = ""
    licence: str = "Apache-2.0"
    caveats: tuple[str, ...] = ()
    search: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Recipe":
        """The recipe of nested tables.

        Raises:
            ValueError: an unknown or missing key, a value of the wrong type or range.
        """
        values = copied(values)
        recipe = dataclasses.replace(section(cls, values, "the recipe"), values=values)
        check_ranges(recipe)
        return recipe

    def replaced(self, changes: dict[str, Any]) -> "Recipe":
        """This recipe with other values at dotted keys, such as `{"training.epochs": 2}`.

        A number names an entry of a list of tables: `"objective.0.epsilon"`.

        Raises:
            ValueError: there is no such table, or the result is not a recipe.
        """
        values = copied(self.values)
        for key, value in changes.items():
            *tables, last = key.split(".")
            part = getattr(self, tables[0], None) if tables else None
            if isinstance(part, Part):  # a change of one argument keeps the others
                values.setdefault(tables[0], {"name": part.name, **part.arguments})
            table = values
            for name in tables:
                table = entered(table, name, key)
            if isinstance(table, list):
                table[index_of(table, last, key)] = value
            else:
                table[last] = value
        return Recipe.of(values)._in(self.folder)

    def _in(self, folder):
        object.__setattr__(self, "folder", folder)
        return self

    def found(self, name: str) -> str:
        """What the recipe calls so: a file or folder beside it, if there is one."""
        beside = self.folder and (self.folder / name)
        return str(beside) if beside and beside.exists() else name

    def to_toml(self) -> str:
        """The recipe as a TOML file."""
        return tomli_w.dumps(self.values)


def load(path: str | Path) -> Recipe:
    """The recipe of a TOML file.

    With `extends = "other.toml"` (a path beside the file) it states only what differs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML, or not a recipe.

    Example:

    >>> recipe = keras_pde.recipes.load("zoo/recipes/mnist-linf.toml")
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Received the recipe {str(path)!r}, which is no file; expected a TOML file such as "
            "those in zoo/recipes."
        )
    try:
        return Recipe.of(_tables(path))._in(path.resolve().parent)
    except ValueError as error:
        raise ValueError(f"In {path}: {error}") from error


def _tables(path, below=()):
    """The tables of a file, laid over those of the recipe that it `extends`."""
    if path.resolve() in below:
        raise ValueError(f"Received extends = {path.name!r}, which extends this recipe in turn.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors may write a mark
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, nested too deeply
        raise ValueError(f"Received {path.name}, which is not TOML: {error}") from error
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or not (path.parent / base).is_file():
        raise ValueError(f"Received extends = {base!r}; expected a file beside {path.name}.")
    inner = _tables(path.parent / base, (*below, path.resolve()))
    for table, key in (("data", "name"), ("model", "from")):  # beside the file that names them
        part = inner.get(table)
        name = part.get(key) if isinstance(part, dict) else None
        there = (path.parent / base).parent / name if isinstance(name, str) else None
        if there is not None and there.exists():
            part[key] = os.path.relpath(there, path.parent)
    return laid_over(inner, values)


def parse_change(text: str) -> tuple[str, Any]:
    """The key and the value of a text "KEY=VALUE", as the commands take it with --set.

    Raises:
        ValueError: there is no equals sign.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"Received --set {text}; expected --set KEY=VALUE.")
    return key, parse_value(value)


def parse_value(text: str) -> Any:
    """The value of a text, as TOML writes it; what is none is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
