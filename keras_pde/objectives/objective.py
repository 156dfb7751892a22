"""An objective is one data term plus penalties; `+` composes them."""

from abc import abstractmethod

import keras

from keras_pde.checks import bounds_text, check_bounds
from keras_pde.registry import Component, register

AT = ("clean", "perturbed")
STATISTICS = ("inference", "batch")


class Term(Component):
    """A data term or a penalty; terms and objectives add up to objectives."""

    name: str  # under which training logs the term

    def __add__(self, other):
        return compose(self, other)


class DataTerm(Term):
    """What the main pass trains on. It updates BatchNormalization and feeds the metrics."""

    perturbs = True
    bounds = None  # the range of valid images, to which a term that perturbs clips them
    statistics = "inference"  # of BatchNormalization in `step.clean` and `step.crafting_gradient`

    @abstractmethod
    def images(self, step):
        """The images of the main pass, constant with respect to the weights."""


@register("objective", "plain")
class Plain(DataTerm):
    """The compiled loss at the clean images: E[l(x)], J0 of Finlay, Oberman and Abbasi (2018)."""

    name = "plain"
    perturbs = False

    def images(self, step):
        return step.x


class Penalty(Term):
    """A scalar added to the loss."""

    at = "clean"  # the images that it is about, or "perturbed" for those of the data term
    bounds = (0.0, 1.0)  # the range of valid images, where the data term states none
    differentiates_twice = True  # whether training it takes the gradient of an input gradient

    def needs_main_gradient(self, shared: bool) -> bool:
        """Whether the main pass must deliver its input gradients.

        Args:
            shared: whether the main pass runs on the images that this penalty is about.
        """
        return False

    def needs_batch_statistics(self) -> bool:
        """Whether the main pass must deliver its batch statistics."""
        return False

    @abstractmethod
    def value(self, step):
        """The penalty on this replica's batch; its mean over replicas is the penalty."""


def compose(*parts) -> "Objective":
    """The objective made of terms and objectives; at most one of them may bring a data term."""
    data, penalties = [], []
    for part in parts:
        if isinstance(part, Objective):
            data += [part.data] if part.explicit else []
            penalties += part.penalties
        elif isinstance(part, Term):
            (data if isinstance(part, DataTerm) else penalties).append(part)
        else:
            raise ValueError(
                f"Received {part!r} as an objective; expected a term or a sum of terms from "
                "`keras_pde.objectives`."
            )
    if len(data) > 1:
        raise ValueError(
            f"Received the data terms {data}; an objective is one data term plus penalties. "
            "Keep one of them."
        )
    return Objective(data[0] if data else None, penalties)


@keras.saving.register_keras_serializable(package="keras_pde")
class Objective(Component):
    """One data term plus penalties.

    Usually written as a sum: `Adversarial("l2", 0.1) + MaxGradientPenalty("l2", 1.0)`. A penalty
    alone means `Plain() + penalty`.

    Args:
        data: a data term, e.g. `Adversarial("linf", 0.1)`; `None` means `Plain()`, which a later
            `+` may replace.
        penalties: sequence of penalties.

    Raises:
        ValueError: two data terms, or something that is not a term.
    """

    def __init__(self, data=None, penalties=()):
        self.explicit = data is not None
        data = data if self.explicit else Plain()
        if not isinstance(data, DataTerm):
            raise ValueError(f"Received data={data!r}; expected a data term such as `Plain()`.")
        penalties = tuple(penalties)
        wrong = [p for p in penalties if not isinstance(p, Penalty)]
        if wrong:
            raise ValueError(
                f"Received penalties {wrong!r}; expected terms like `GradientPenalty`."
            )
        named = [term for term in (data, *penalties) if term.name == "loss"]
        if named:
            raise ValueError(
                f"Received {named}, whose name is 'loss', the total's; expected another."
            )
        self.data, self.penalties = data, penalties
        self.image_range = self._image_range()

    def _image_range(self):
        """Bounds of the images that this objective is meant for; `None` for any."""
        if self.data.perturbs:
            return self.data.bounds
        stated = list(dict.fromkeys(check_bounds(p.bounds) for p in self.penalties))
        stated = [bounds for bounds in stated if bounds is not None]
        if len(stated) > 1:
            raise ValueError(
                f"Received penalties for images in {' and in '.join(map(bounds_text, stated))}; "
                "expected the same `bounds` in each."
            )
        return stated[0] if stated else None

    def __add__(self, other):
        return compose(self, other)

    @property
    def names(self) -> list[str]:
        """One log name a term, the data term's first; the second term of a kind gets a number."""
        names = []
        for term in (self.data, *self.penalties):
            twins = sum(n.rstrip("0123456789_") == term.name for n in names)
            names.append(f"{term.name}_{twins + 1}" if twins else term.name)
        return names

    def __call__(self, step):
        """Runs the main pass, and returns the penalties' values in order."""
        images = self.data.images(step)
        shared = {"perturbed": True, "clean": not self.data.perturbs}
        step.run_main(
            images,
            perturbed=self.data.perturbs,
            gradient=any(p.needs_main_gradient(shared[p.at]) for p in self.penalties),
            statistics=any(p.needs_batch_statistics() for p in self.penalties),
        )
        return [penalty.value(step) for penalty in self.penalties]

    def __repr__(self):
        return " + ".join(map(repr, (self.data, *self.penalties)))

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        data = serialize(self.data) if self.explicit else None
        return {"data": data, "penalties": [serialize(p) for p in self.penalties]}

    @classmethod
    def from_config(cls, config):
        revive = keras.saving.deserialize_keras_object
        data = revive(config["data"]) if config["data"] else None
        return cls(data, [revive(p) for p in config["penalties"]])


class Preset(Objective):
    """An objective whose constructor takes the numbers of a paper instead of terms."""

    get_config = Component.get_config
    __repr__ = Component.__repr__
    from_config = Component.__dict__["from_config"]
