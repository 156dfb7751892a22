"""The engine of all attacks: what is common to them, so that an attack is its mathematics only."""

import copy
import time
from abc import abstractmethod
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_pde import geometry, noise
from keras_pde.attacks import losses
from keras_pde.attacks.ascent import feasible, where_rows
from keras_pde.attacks.target import Target, host, in_batches, pad
from keras_pde.autodiff import value_and_grad
from keras_pde.checks import check_images, class_labels
from keras_pde.registry import Component
from keras_pde.threat import Threat, within

ROUND = 5  # iterations between two looks at who is finished


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, as checked by the engine.

    Attributes:
        adversarial: float32 array of the images' shape; the clean image where nothing was found.
        success: bool `(batch,)`: wrongly classified, from the start or by the perturbation.
        distance: float `(batch,)` in the attack's norm: 0 if misclassified from the start,
            infinite if not found.
        status: `(batch,)` of `"misclassified" | "found" | "not_found"`.
        forward_passes, backward_passes: number of images that went through the model.
        seconds: wall time.
    """

    adversarial: np.ndarray
    success: np.ndarray
    distance: np.ndarray
    status: np.ndarray
    forward_passes: int
    backward_passes: int
    seconds: float

    @property
    def robust_accuracy(self) -> float:
        """Share of all images that are classified correctly and stay so."""
        return float(np.mean(~self.success))


class Attack(Component):
    """Base class. A subclass gives `start` and `advance`; the engine does the rest.

    An attack is a small machine whose state has one entry an example. `advance` makes one
    iteration (one forward and one backward pass) of every example; those that are done stay as
    they are, leave the batch, and waiting ones take their place. What comes out is projected,
    clipped and predicted once more, whatever the attack believes.

    Subclasses have the attributes `loss`, `restarts` and `seed`, and list in `program` the
    arguments that change the compiled program (others belong into the state).

    Args:
        norm: `"l1" | "l2" | "linf"`, norm of the perturbation.
        epsilon: its largest length: a number, text such as `"8/255"`, or `None` for an attack that
            gets it later (`at`), or that is `minimal`.
        bounds: range of valid images, as in `keras_pde.Threat`.
    """

    program = ("norm", "loss", "bounds")
    restarts = 1
    stops_when_fooled = True
    minimal = False  # whether it looks for the smallest perturbation, and so has no epsilon
    seed = 0

    def __init__(self, norm, epsilon=None, bounds=(0.0, 1.0)):
        self.threat = Threat(norm, epsilon, bounds)

    @property
    def norm(self) -> str:
        """Norm of the perturbation."""
        return self.threat.norm

    @property
    def epsilon(self) -> float | None:
        """Largest length of the perturbation; `None` if it is not said, or not limited."""
        return self.threat.epsilon

    @property
    def bounds(self) -> tuple | None:
        """Range of valid images."""
        return self.threat.bounds

    def at(self, epsilon):
        """A copy of this attack with another radius.

        Example:

        >>> attack = PGD("linf", steps=40)
        >>> [attack.at(epsilon)(model, x, y).robust_accuracy for epsilon in ("4/255", "8/255")]

        Raises:
            ValueError: no length, or the attack looks for the smallest perturbation.
        """
        if self.minimal:
            raise ValueError(
                f"Received epsilon={epsilon!r} for {self.label}, which looks for the smallest "
                "perturbation and has no radius; expected an attack such as PGD."
            )
        other = copy.copy(self)
        other.threat = self.threat.at(epsilon)
        return other

    @property
    def label(self) -> str:
        """Short name for tables."""
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

    def __call__(
        self, model, x, y, *, targets=None, batch_size=128, early_exit=True, progress=None
    ) -> AttackResult:
        """Attacks a model.

        Args:
            model: Keras model (logits recommended), or a `Target` of it, which keeps what has been
                compiled for the next attack.
            x: images `(batch, ...)` within `bounds`.
            y: true labels, integers or one-hot.
            targets: classes to reach, one an example, for a targeted attack; success is then that
                class, not just any wrong one.
            batch_size: images at a time; the result does not depend on it (but for rounding).
            early_exit: whether an example is finished when it is fooled.
            progress: function of (finished, total), called now and then.

        Raises:
            ValueError: the attack has no radius, or unfit images, labels or model: says what was
                received and expected.
        """
        if self.epsilon is None and not self.minimal:
            raise ValueError(
                f"Received {self!r}, which has no radius yet; expected one, as in "
                f"{type(self).__name__}({self.norm!r}, epsilon=0.1) or attack.at(0.1)."
            )
        began = time.perf_counter()
        x = np.asarray(x)
        check_images(x, self.bounds, "x")
        x = x.astype(keras.config.floatx())
        target = Target.of(model, x)
        batch_size = min(batch_size, len(x))  # of all, whoever is left: on JAX shapes compile anew
        y = class_labels(y, target.num_classes, len(x))
        if targets is not None:
            targets = class_labels(targets, target.num_classes, len(x))
            if np.any(targets == y):
                raise ValueError("Received targets that equal the true label; expected others.")
        goal = Goal(y if targets is None else targets, targets is not None)

        passes = {"forward": len(x), "backward": 0}
        initially = goal.reached(target.predict(x, batch_size))
        adversarial, success = x.copy(), initially.copy()
        distance = np.where(initially, 0.0, np.inf)
        for restart in range(self.restarts):
            todo = np.flatnonzero(~success)
            if not len(todo):
                break
            search = Search(self, target, goal.take(todo), x[todo], todo, restart)
            candidates = search.run(batch_size, early_exit, progress)
            candidates, length, wrong = self._verify(
                target, goal.take(todo), x[todo], candidates, batch_size
            )
            adversarial[todo[wrong]] = candidates[wrong]
            distance[todo[wrong]] = length[wrong]
            success[todo] = wrong
            passes["forward"] += search.passes + len(todo)
            passes["backward"] += search.passes
        status = np.where(initially, "misclassified", np.where(success, "found", "not_found"))
        seconds = time.perf_counter() - began
        return AttackResult(
            adversarial, success, distance, status, passes["forward"], passes["backward"], seconds
        )

    def _verify(self, target, goal, x, candidates, batch_size):
        """Brings candidates back into ball and box, and predicts them again."""
        norm = geometry.get(self.norm)
        epsilon = float("inf") if self.minimal else self.epsilon

        def measure(images, x):
            return ops.convert_to_numpy(norm.norm(ops.convert_to_tensor(images - x)))

        def project(candidates, x):
            candidates, clean = ops.convert_to_tensor(candidates), ops.convert_to_tensor(x)
            images = ops.convert_to_numpy(feasible(candidates, clean, norm, epsilon, self.bounds))
            # clean + delta is rounded, by more than the tolerance of a small epsilon: one step of
            # the grid of floating-point numbers towards the clean image brings it back.
            beyond = np.reshape(measure(images, x) > epsilon, (-1,) + (1,) * (x.ndim - 1))
            images = np.where(beyond, np.nextafter(images, x), images)
            return images, measure(images, x)

        with keras.device(host()):
            images, length = in_batches(project, batch_size, candidates, x)
        finite = np.isfinite(images).reshape(len(x), -1).all(axis=1)
        allowed = finite & (length > 0) & within(length, epsilon)
        wrong = goal.reached(target.predict(images, batch_size)) & allowed
        return images, length, wrong


@dataclass(frozen=True)
class Goal:
    """Classes to leave, or to reach."""

    labels: np.ndarray
    targeted: bool

    def reached(self, predicted):
        return (predicted == self.labels) == self.targeted

    def take(self, index) -> "Goal":
        return Goal(self.labels[index], self.targeted)


@dataclass(frozen=True)
class Evaluated:
    """The model at the current images: gradient of the attack's loss, and who is fooled."""

    gradient: object
    fooled: object


class Search:
    """One restart over a set of examples: the state of all, and batches of those not done."""

    def __init__(self, attack, target, goal, x, examples, restart):
        self.attack, self.target, self.goal, self.x = attack, target, goal, x
        self.examples, self.restart = examples, restart
        self.passes = 0

    def run(self, batch_size, early_exit, progress):
        """Iterates until all are done; the best image found, or the last one."""
        count = len(self.x)
        # With every example in step there is nothing to look for in between.
        length = ROUND if early_exit else 2**30
        state = self._start(batch_size)
        active = np.arange(count)
        while len(active):
            now = active[:batch_size]
            new = self._round(now, state, length, early_exit, batch_size)
            for name, values in new.items():
                state[name][now] = values
            active = active[~state["done"][active]]
            if progress is not None:
                progress(count - len(active), count)
        self.passes = int(state["passes"].sum())
        kept = np.reshape(state["fooled"], (-1,) + (1,) * (self.x.ndim - 1))
        return np.where(kept, state["best"], state["images"])

    def _start(self, batch_size):
        def start(x, examples):
            keys = noise.keys(self.attack.seed, self.restart, examples)
            return self.attack.start(ops.convert_to_tensor(x), keys)

        state = in_batches(start, batch_size, self.x, self.examples)
        no = np.zeros(len(self.x), "bool")
        zero = np.zeros(len(self.x), "int32")
        return {**state, "best": self.x.copy(), "fooled": no, "done": no.copy(), "passes": zero}

    def _round(self, now, state, length, early_exit, size):
        """Up to `length` iterations of the examples `now`, in the smaller shape that fits."""
        small = max(1, size // 4)
        size = small if len(now) <= small else size
        names = sorted(state)
        arrays = [pad(a[now], size) for a in (self.x, self.goal.labels)]
        arrays += [pad(state[name][now], size) for name in names]
        attack, targeted = self.attack, self.goal.targeted
        settings = tuple((name, getattr(attack, name)) for name in attack.program)
        rules = (type(attack).advance, attack.stops_when_fooled, tuple(names))
        key = (*rules, settings, targeted, early_exit)

        def program(logits, length, x, labels, *values):
            return _iterate(attack, logits, targeted, early_exit, length, x, labels, names, values)

        run = self.target.program(key, program, fold=True)
        values = run(np.asarray(length, "int32"), *arrays)
        return {
            name: ops.convert_to_numpy(value)[: len(now)]
            for name, value in zip(names, values, strict=True)
        }


def _iterate(attack, logits, targeted, early_exit, length, x, labels, names, values):
    """`length` iterations, or fewer if all examples are done; compiled."""
    loss = losses.get(attack.loss, targeted)

    def evaluate(images):
        def total(z):
            outputs = logits(z)
            return ops.sum(loss(outputs, labels)), outputs

        (_, outputs), gradient = value_and_grad(total, images, has_aux=True)
        hit = ops.equal(ops.cast(ops.argmax(outputs, axis=-1), "int32"), labels)
        fooled = hit if targeted else ops.logical_not(hit)
        # A clean image that is near the boundary by a rounding is not found, it has not moved.
        moved = ops.any(ops.not_equal(images, x), axis=tuple(range(1, len(x.shape))))
        return Evaluated(gradient, ops.logical_and(fooled, moved))

    def body(i, *values):
        old = dict(zip(names, values, strict=True))
        new = {**old, **attack.advance(old, evaluate(old["images"]), x)}
        if early_exit:
            new["done"] = new["done"] | (attack.stops_when_fooled & new["fooled"])
        new["passes"] = old["passes"] + 1
        return (i + 1, *(where_rows(old["done"], old[n], new[n]) for n in names))

    def going(i, *values):
        done = values[names.index("done")]
        return ops.logical_and(i < length, ops.logical_not(ops.all(done)))

    start = (ops.zeros((), dtype="int32"), *values)
    return tuple(ops.while_loop(going, body, start)[1:])
