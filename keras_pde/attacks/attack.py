"""What is common to all attacks: the call, its checks, and the last word on what was found."""

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import ops

from keras_pde import geometry
from keras_pde.attacks.ascent import feasible
from keras_pde.attacks.perturbed import Perturbed
from keras_pde.attacks.programs import host, in_batches
from keras_pde.attacks.success import MISCLASSIFIED, Success, predicted
from keras_pde.attacks.target import Target
from keras_pde.checks import check_count, check_images, class_labels
from keras_pde.registry import Component
from keras_pde.threat import Threat, within


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


@dataclass(frozen=True)
class Goal:
    """What counts as success, and the class that is pursued on the way.

    Attributes:
        labels: true classes `(batch,)`, or others that fit the rule.
        targets: classes that the loss goes for, or `None` to go just away from the true ones.
        targeted: whether only a target counts as success, not any wrong class.
        rule: which outputs are wrong, and the losses that say how far they are from it.
    """

    labels: np.ndarray
    targets: np.ndarray | None = None
    targeted: bool = False
    rule: Success = MISCLASSIFIED

    def reached(self, outputs):
        """bool `(batch,)`, of outputs as tensors or arrays."""
        if self.targeted:
            return predicted(outputs) == self.targets
        return self.rule.wrong(outputs, self.labels)

    def take(self, index) -> "Goal":
        targets = None if self.targets is None else self.targets[index]
        return replace(self, labels=self.labels[index], targets=targets)


@dataclass(frozen=True)
class Task:
    """Examples that are left, and how to go about them.

    Attributes:
        target: the model.
        goal: of these examples.
        x: clean images: what is perturbed.
        context: arrays of all inputs of the model, if that is not its one input.
        logits: the model's at the clean images.
        examples: their numbers in the whole set, to which noise belongs.
        batch_size, early_exit, progress: as in the call of an attack.
    """

    target: Target
    goal: Goal
    x: np.ndarray
    context: list
    logits: np.ndarray
    examples: np.ndarray
    batch_size: int
    early_exit: bool
    progress: Callable | None


@dataclass(frozen=True)
class Candidates:
    """An image for each example of a task, not yet checked, and the passes that it took."""

    images: np.ndarray
    forward_passes: int
    backward_passes: int


def _at(value, epsilon):
    """Attacks at a radius, also within lists and tuples; what is no attack stays what it is."""
    if isinstance(value, Attack):
        return value if value.minimal else value.at(epsilon)
    if type(value) in (list, tuple):
        return type(value)(_at(entry, epsilon) for entry in value)
    return value


class Attack(Component):
    """Base class: what can be called, and is checked. `IteratedAttack` is below nearly all of them.

    A subclass gives `searches`. Whatever these believe, what comes out is projected on the ball,
    clipped to the bounds and predicted once more.

    Args:
        norm: `"l1" | "l2" | "linf"`, norm of the perturbation.
        epsilon: its largest length: a number, text such as `"8/255"`, or `None` for an attack that
            gets it later (`at`), or that is `minimal`.
        bounds: range of valid images, as in `keras_pde.Threat`.
    """

    minimal = False  # whether it looks for the smallest perturbation, and so has no epsilon

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

    @property
    def label(self) -> str:
        """Short name for tables."""
        return type(self).__name__

    @abstractmethod
    def searches(self) -> Iterable[Callable[[Task], Candidates]]:
        """What is tried, one after another, each on the examples that are left.

        An attack made of others chains theirs. Those that it holds as attributes, alone or in lists
        or tuples, have its radius when they run.
        """

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
        vars(other).update({name: _at(value, epsilon) for name, value in vars(self).items()})
        other.threat = self.threat.at(epsilon)
        return other

    def __call__(
        self,
        model,
        x,
        y,
        *,
        targets=None,
        batch_size=128,
        early_exit=True,
        progress=None,
        at=None,
        perturb=None,
        output=None,
        success=None,
    ) -> AttackResult:
        """Attacks a model.

        Args:
            model: Keras model (logits recommended), or a `Target` of it, which keeps what has been
                compiled for the next attack.
            x: images `(batch, ...)` within `bounds`; or all inputs, where `at` or `perturb` say
                which of them are images.
            y: true labels, integers or one-hot.
            targets: classes to reach, one an example or one for all, for a targeted attack; success
                is then that class, not just any wrong one.
            batch_size: images at a time; the result does not depend on it (but for rounding).
            early_exit: whether an example is finished when it is fooled.
            progress: function of (finished, total), called now and then.
            at: name of a layer whose output is perturbed in place of an input, such as a text's
                embedding; the attack's `bounds` are then of that, mostly `None`.
            perturb: which input is perturbed, of several: its key, name or number.
            output: which output has the logits, of several.
            success: when an attack has succeeded, as in `keras_pde.evaluate`.

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
        batch_size = check_count(batch_size, "batch_size")
        which = {"at": at, "perturb": perturb, "output": output}
        if not isinstance(model, Target) and at is None:  # before the model sees them
            check_images(Perturbed(model, **which).chosen(x), self.bounds, "x")
        target = Target.of(model, x, **which, success=success)
        x, context = target.parts(x, batch_size)
        check_images(x, self.bounds, "x")
        batch_size = min(batch_size, len(x))  # of all, whoever is left: on JAX shapes compile anew
        y = target.labels(y, len(x))
        if targets is not None and not target.success.classes:
            raise ValueError(
                f"Received targets for success={target.success.name!r}; expected none: targets are "
                "classes."
            )
        if targets is not None:
            targets = np.full(len(x), targets) if np.ndim(targets) == 0 else targets
            targets = class_labels(targets, target.num_classes, len(x))
            if np.any(targets == y):
                raise ValueError("Received targets that equal the true label; expected others.")
        goal = Goal(y, targets, targets is not None, target.success)

        forward, backward = len(x), 0
        logits = target.outputs(x, context, batch_size)
        initially = goal.reached(logits)
        adversarial, success = x.copy(), initially.copy()
        distance = np.where(initially, 0.0, np.inf)
        whole = self if self.minimal else self.at(self.epsilon)  # with its members, if it has any
        for search in whole.searches():
            todo = np.flatnonzero(~success)
            if not len(todo):
                break
            left = Task(
                target,
                goal.take(todo),
                x[todo],
                [array[todo] for array in context],
                logits[todo],
                todo,
                batch_size,
                early_exit,
                progress,
            )
            found = search(left)
            images, length, wrong = self._verify(left, found.images)
            adversarial[todo[wrong]] = images[wrong]
            distance[todo[wrong]] = length[wrong]
            success[todo] = wrong
            forward += found.forward_passes + len(todo)
            backward += found.backward_passes
        status = np.where(initially, "misclassified", np.where(success, "found", "not_found"))
        seconds = time.perf_counter() - began
        return AttackResult(adversarial, success, distance, status, forward, backward, seconds)

    def _verify(self, task, candidates):
        """Brings candidates back into ball and box, and predicts them again."""
        norm, x = geometry.get(self.norm), task.x
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
            images, length = in_batches(project, task.batch_size, candidates, x)
        finite = np.isfinite(images).reshape(len(x), -1).all(axis=1)
        allowed = finite & (length > 0) & within(length, epsilon)
        outputs = task.target.outputs(images, task.context, task.batch_size)
        return images, length, task.goal.reached(outputs) & allowed
