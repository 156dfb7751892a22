from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_pde import _keras, noise, replicas
from keras_pde.optimizers.cyclic_optimizer import CyclicOptimizer, chosen


@dataclass(frozen=True)
class InnerStep:
    """What an inner step may read: tensors of one variable's shape.

    Attributes:
        y: the weights, at which the gradient was taken.
        x: their anchor.
        gradient: of the batch's loss, clipped, and summed over replicas.
        slots: name -> value of the slots.
        common: name -> scalar, of `common`.
        normal: function without arguments that returns standard normal numbers.
    """

    y: Any
    x: Any
    gradient: Any
    slots: dict
    common: dict
    normal: Any


class AnchoredOptimizer(CyclicOptimizer):
    """Base class: L steps of the model's weights y around an anchor x, then one step of x.

    Each batch makes an inner step,

        y, slots <- inner_step(y, x, gradient, slots),

    and every L-th one ends its cycle with an outer step, from which the next begins:

        x, slots <- outer_step(x, slots, learning_rate),    y <- x.

    A cycle takes its anchor from the model when it begins: weights that were set in between are
    respected.

    `weight_decay` is decoupled: weights shrink by their share `weight_decay * inner_learning_rate`
    an inner step, whatever the outer learning rate. `use_ema` averages the anchors, once a cycle.
    Clipping is of the batch's gradient.

    Attributes:
        inner_learning_rate: of the inner steps; None where they have none: `weight_decay` is then
            part of the outer step.

    Args:
        learning_rate: of the outer step; a float, a schedule, or a function without arguments.
        inner_steps: L, at least 1.
        evaluation_weights: `"anchor"`, or what the subclass offers.
        seed: integer, of the noise.
        **kwargs: of `CyclicOptimizer`.

    Raises:
        ValueError: an argument is out of range.
    """

    inner_learning_rate = None

    def __init__(self, learning_rate, inner_steps, evaluation_weights="anchor", seed=0, **kwargs):
        super().__init__(learning_rate, inner_steps, evaluation_weights, **kwargs)
        self.seed = seed

    @property
    def slots(self):
        """Names of the slots beside the anchor, each as large as the weights."""
        return ()

    def begin(self, x, gradient):
        """Which slots start anew with each cycle: name -> value."""
        return {}

    def inner_step(self, step):
        """The weights after one more batch, and the slots that have changed: name -> value."""
        raise NotImplementedError

    def outer_step(self, x, slots, learning_rate):
        """The next anchor, and the slots that have changed: name -> value."""
        raise NotImplementedError

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._anchors = self.add_optimizer_variables(variables, "anchor")
        self._slots = {name: self.add_optimizer_variables(variables, name) for name in self.slots}

    def common(self, learning_rate):
        """What all variables of a step share, computed once: name -> scalar tensor."""
        phase = self.phase
        return {
            "batch": ops.convert_to_tensor(self.iterations),
            "cycle": self.cycle,
            "new": ops.equal(self._passed(), 0),
            "early": self._passed() < self.inner_steps,
            "first": ops.equal(phase, 0),
            "last": ops.equal(phase, self.inner_steps - 1),
            "rate": learning_rate,
        }

    def update_all(self, gradients, variables, learning_rate):
        common = self.common(learning_rate)
        gradients = self.whole_gradients(gradients, variables)
        every = [common] * len(gradients)
        replicas.update(self, self._step, variables, gradients, every)

    def _step(self, variable, gradient, common):
        index, dtype = self.place(variable), variable.dtype
        rate, gradient = ops.cast(common["rate"], dtype), ops.cast(gradient, dtype)
        first, last = common["first"], common["last"]
        decay = self.weight_decay if self.decays(variable) else None

        y = ops.convert_to_tensor(variable)
        x = ops.where(first, y, ops.convert_to_tensor(self._anchors[index]))
        slots = {name: ops.convert_to_tensor(slot[index]) for name, slot in self._slots.items()}
        for name, value in self.begin(x, gradient).items():
            slots[name] = ops.where(first, value, slots[name])

        if decay and self.inner_learning_rate:
            y = y * (1 - decay * self.inner_learning_rate)

        def normal():
            return noise.normal_at(self.seed, common["batch"], index, variable.shape, dtype)

        y, changed = self.inner_step(InnerStep(y, x, gradient, slots, common, normal))
        slots |= changed
        x_next, changed = self.outer_step(x, slots, rate)
        slots |= {name: ops.where(last, new, slots[name]) for name, new in changed.items()}
        if decay and not self.inner_learning_rate:
            x_next = x_next - decay * rate * x

        self.assign(variable, ops.where(last, x_next, y))
        self.assign(self._anchors[index], ops.where(last, x_next, x))
        for name, slot in self._slots.items():
            self.assign(slot[index], slots[name])
        if self.use_ema:
            slot = _keras.moving_averages(self)[index]
            average = ops.where(common["new"], x, ops.convert_to_tensor(slot))
            momentum = ops.where(common["early"], 0.0, self.ema_momentum)
            later = x_next + ops.cast(momentum, dtype) * (average - x_next)
            self.assign(slot, ops.where(last, later, average))

    def decay_weights(self, variables):
        """Is part of the step, since the base class would use the outer learning rate."""

    @property
    def evaluated_slots(self):
        means = [slots for name, slots in self._slots.items() if name == "mean"]
        return [*super().evaluated_slots, *means]

    def evaluation_values(self):
        slots = self._anchors if self.evaluation_weights == "anchor" else self._slots["mean"]
        return chosen(ops.equal(self.phase, 0), self.trained, slots)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
