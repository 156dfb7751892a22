"""The machine below nearly all attacks, so that an attack is its mathematics only."""

import functools
import inspect
import types
from abc import abstractmethod
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_pde import noise
from keras_pde.attacks.ascent import where_rows
from keras_pde.attacks.attack import Attack, Candidates, Goal
from keras_pde.attacks.programs import in_batches, pad
from keras_pde.autodiff import jacobian, value_and_grad
from keras_pde.registry import unknown_name

# What is itself whatever it holds.
_WHOLE = (type, types.FunctionType, types.ModuleType, functools.partial, keras.KerasTensor)
_WHOLE += (keras.layers.Layer, keras.Variable)
ROUND = 5  # iterations between two looks at who is finished
NEEDS = ("forward", "gradient", "class_jacobian")


@dataclass(frozen=True)
class Evaluated:
    """The model at the current images; of every tensor the first axis is the batch.

    Attributes:
        logits: `(batch, classes)`.
        losses: the attack's loss of each example, which it maximises.
        fooled: bool, whether the goal is reached by an image that has moved.
        labels, targets: of the goal; `targets` may be `None`.
        gradient: of each loss in its image, if the attack needs it, else `None`.
        class_jacobian: `(batch, classes, ...)`, the gradient of each logit in the image, or `None`.
    """

    logits: object
    losses: object
    fooled: object
    labels: object
    targets: object
    gradient: object = None
    class_jacobian: object = None


class IteratedAttack(Attack):
    """Base class of attacks by iteration. A subclass gives `start` and `advance`.

    An attack is a small machine whose state has one entry an example. `advance` makes one
    iteration of every example; those that are done stay as they are, leave the batch, and waiting
    ones take their place.

    A subclass says in `needs` what an iteration asks of the model, and pays for no more: the
    `"forward"` pass alone (logits and losses), the `"gradient"` of the loss, or the
    `"class_jacobian"` (a backward pass for each class). It lists in `in_state` the arguments that
    `advance` reads from the state only, so that changing them compiles nothing; all others are
    part of what is compiled.

    Args:
        norm, epsilon, bounds: as in `Attack`.
    """

    needs = "gradient"
    in_state = ("restarts", "seed")
    loss = "ce"
    restarts = 1
    stops_when_fooled = True
    seed = 0

    @property
    def label(self) -> str:
        return f"{type(self).__name__}-{self.loss}"

    @abstractmethod
    def start(self, x, keys) -> dict:
        """Initial state of the examples: a dict of tensors with the batch as first axis.

        Must contain `images`, where the iteration starts.

        Args:
            x: clean images.
            keys: noise keys, one an example, that differ between restarts.
        """

    @abstractmethod
    def advance(self, state, evaluated, x) -> dict:
        """One iteration.

        Args:
            state: the state, with `images`.
            evaluated: `Evaluated` at `state["images"]`.
            x: clean images.

        Returns:
            The new state, plus `done` (bool, the example needs no more iterations). `best` and
            `fooled`, the adversarial image kept so far and whether there is one, are the
            attack's to update, from values that the engine has put there.
        """

    def aim(self, goal: Goal, logits, restart: int) -> Goal:
        """The goal of one restart: another class to pursue each time, for instance.

        Args:
            goal: what was asked for; `targeted` decides what is counted, whatever is pursued.
            logits: array `(batch, classes)` at the clean images.
            restart: its number.
        """
        return goal

    def searches(self):
        return [functools.partial(self._search, restart) for restart in range(self.restarts)]

    def _search(self, restart, task):
        return Search(self, task, restart).run()


class Search:
    """One restart over a set of examples: the state of all, and batches of those not done."""

    def __init__(self, attack, task, restart):
        if attack.needs not in NEEDS:
            raise unknown_name("`needs` of an attack", attack.needs, NEEDS)
        if attack.needs == "class_jacobian" and not task.goal.rule.classes:
            raise ValueError(
                f"Received {attack!r} for success={task.goal.rule.name!r}; expected an attack that "
                "is not about classes, such as PGD."
            )
        self.attack, self.task, self.restart = attack, task, restart
        self.goal = attack.aim(task.goal, task.logits, restart)

    def run(self) -> Candidates:
        """Iterates until all are done; the best image found, or the last one."""
        task, count = self.task, len(self.task.x)
        # With every example in step there is nothing to look for in between.
        length = ROUND if task.early_exit else 2**30
        state = self._start()
        active = np.arange(count)
        while len(active):
            now = active[: task.batch_size]
            for name, values in self._round(now, state, length).items():
                state[name][now] = values
            active = active[~state["done"][active]]
            if task.progress is not None:
                task.progress(count - len(active), count)
        kept = np.reshape(state["fooled"], (-1,) + (1,) * (task.x.ndim - 1))
        images = np.where(kept, state["best"], state["images"])
        passes = int(state["passes"].sum())
        costs = {"forward": 0, "gradient": 1, "class_jacobian": task.target.num_classes}
        return Candidates(images, passes, passes * costs[self.attack.needs])

    def _start(self):
        def start(x, examples):
            keys = noise.keys(self.attack.seed, self.restart, examples)
            return self.attack.start(ops.convert_to_tensor(x), keys)

        x = self.task.x
        state = in_batches(start, self.task.batch_size, x, self.task.examples)
        wrong = [name for name, values in state.items() if values.shape[:1] != (len(x),)]
        if wrong or "images" not in state:
            raise ValueError(
                f"Received a state {sorted(state)} from `start` of {type(self.attack).__name__}"
                + (f", in which {wrong} have not one entry an example" if wrong else "")
                + "; expected tensors with the batch as first axis, `images` among them."
            )
        no = np.zeros(len(x), "bool")
        zero = np.zeros(len(x), "int32")
        return {**state, "best": x.copy(), "fooled": no, "done": no.copy(), "passes": zero}

    def _round(self, now, state, length):
        """Up to `length` iterations of the examples `now`, in the smaller shape that fits."""
        attack, goal, early_exit = self.attack, self.goal, self.task.early_exit
        size = self.task.batch_size
        small = max(1, size // 4)
        size = small if len(now) <= small else size
        names = sorted(state)
        targets = goal.labels if goal.targets is None else goal.targets
        arrays = [pad(a[now], size) for a in (self.task.x, goal.labels, targets)]
        arrays += [pad(state[name][now], size) for name in names]
        arrays += [pad(a[now], size) for a in self.task.context]
        pursues = goal.targets is not None
        key = (_compiled_by(attack), tuple(names), pursues, goal.targeted, early_exit)

        def program(logits, length, x, labels, targets, *values):
            there = Goal(labels, targets if pursues else None, goal.targeted, goal.rule)
            return _iterate(attack, logits, there, early_exit, length, x, names, values)

        run = self.task.target.program(key, program, fold=True)
        values = run(np.asarray(length, "int32"), *arrays)
        return {
            name: ops.convert_to_numpy(value)[: len(now)]
            for name, value in zip(names, values, strict=True)
        }


def _compiled_by(attack):
    """All that the compiled program of an attack depends on, to be hashed.

    The class takes part by its attributes, so that a subclass which only has another constructor
    shares the program.
    """
    kind, no_part = type(attack), ("in_state", "label", "start", "aim")
    names = [name for name in dir(kind) if not name.startswith("__") and name not in no_part]
    settings = {**vars(attack), "threat": attack.threat.at(None)}
    settings |= {} if "epsilon" in attack.in_state else {"epsilon": attack.epsilon}
    # As they stand in the classes: a class method that is inherited is the same one.
    behaviour = {name: inspect.getattr_static(kind, name) for name in names}
    read = {name: value for name, value in settings.items() if name not in attack.in_state}
    return _content(behaviour), _content(read)


def _content(value):
    """What a value is, to be hashed: of what can change, the present content."""
    kind = type(value)
    if isinstance(value, dict):
        return kind, frozenset((key, _content(entry)) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return kind, tuple(map(_content, value))
    if isinstance(value, set | frozenset):
        return kind, frozenset(map(_content, value))
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if kind.__module__ == "builtins" or not hasattr(value, "__dict__") or isinstance(value, _WHOLE):
        return kind, value  # of True and 1, which are equal, programs are two
    return kind, _content(vars(value))


def _iterate(attack, logits, goal, early_exit, length, x, names, values):
    """`length` iterations, or fewer if all examples are done; compiled."""

    def evaluate(images):
        outputs, found = _derivatives(attack, logits, goal, images)
        fooled = goal.reached(outputs)
        # A clean image that is near the boundary by a rounding is not found, it has not moved.
        moved = ops.any(ops.not_equal(images, x), axis=tuple(range(1, len(x.shape))))
        fooled = ops.logical_and(fooled, moved)
        return Evaluated(outputs, fooled=fooled, labels=goal.labels, targets=goal.targets, **found)

    def body(i, *values):
        old = dict(zip(names, values, strict=True))
        found = attack.advance(old, evaluate(old["images"]), x)
        if "done" not in found or not old.keys() >= found.keys():
            raise ValueError(
                f"Received {sorted(found)} from `advance` of {type(attack).__name__}; expected "
                f"`done` (without which it never ends), and of {sorted(old)} what has changed."
            )
        new = {**old, **found}
        if early_exit:
            new["done"] = new["done"] | (attack.stops_when_fooled & new["fooled"])
        new["passes"] = old["passes"] + 1
        return (i + 1, *(where_rows(old["done"], old[n], new[n]) for n in names))

    def going(i, *values):
        done = values[names.index("done")]
        return ops.logical_and(i < length, ops.logical_not(ops.all(done)))

    start = (ops.zeros((), dtype="int32"), *values)
    return tuple(ops.while_loop(going, body, start)[1:])


def _derivatives(attack, logits, goal, images):
    """The logits, and a dict of losses and of what else the attack needs."""

    def losses_of(outputs):
        return goal.rule.loss(attack.loss)(outputs, goal.labels, goal.targets)

    if attack.needs == "gradient":

        def total(z):
            outputs = logits(z)
            each = losses_of(outputs)
            return ops.sum(each), (outputs, each)

        (_, (outputs, each)), gradient = value_and_grad(total, images, has_aux=True)
        return outputs, {"losses": each, "gradient": gradient}
    if attack.needs == "class_jacobian":
        outputs, matrix = jacobian(logits, images)
        return outputs, {"losses": losses_of(outputs), "class_jacobian": matrix}
    outputs = logits(images)
    return outputs, {"losses": losses_of(outputs)}
