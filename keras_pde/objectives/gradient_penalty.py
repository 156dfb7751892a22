from fractions import Fraction

from keras import ops

from keras_pde import geometry, noise
from keras_pde.checks import check_bounds, check_choice, check_number
from keras_pde.geometry import per_example
from keras_pde.objectives.objective import AT, STATISTICS, Penalty
from keras_pde.registry import register

_SELECTION = 1  # purpose of this term's noise within a step


@register("objective", "gradient_penalty", norm="l2", weight=0.1)
class GradientPenalty(Penalty):
    """Mean length of the loss's input gradient, to the first or second power.

    `power=1`: weight * mean |grad l(x_i)| (total variation). `power=2`:
    weight / 2 * mean |grad l(x_i)|^2 (Tikhonov).

    `method="double_backprop"` differentiates the gradient itself (Drucker and LeCun, 1992).
    `"finite_difference"` differentiates the quotient d_i = (l(x_i + h v_i) - l(x_i)) / h along the
    normalised gradient v_i, taken as a constant (Finlay and Oberman, 2019, arXiv 1905.11468);
    d_i tends to |grad l(x_i)| with h. It amplifies rounding by 1/h.

    With `statistics="batch"` the gradient is that of the training pass, which it shares whenever
    it can.

    Args:
        norm: `"l1" | "l2" | "linf"`, the norm of the *gradient*. It defends against perturbations
            in the dual norm: `"l1"` against `"linf"`, `"l2"` against `"l2"`.
        weight: factor, not negative.
        power: 1 or 2.
        method: `"double_backprop"` or `"finite_difference"`.
        step_size: h, the length of the difference in the dual norm. Positive.
        fraction: part of each batch, drawn at random, that is penalised, in (0, 1].
        at: `"clean"` or `"perturbed"` images (the same without an adversarial data term).
        statistics: of BatchNormalization: `"batch"` or `"inference"` (the moving ones).
        bounds: range of the images, as in `keras_pde.Threat`, where the data term states none: a
            step on images outside it is refused, since the gradient is in their units. `None` for
            no limit.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> tikhonov = Plain() + GradientPenalty("l2", weight=0.1, power=2)
    """

    name = "gradient_penalty"

    def __init__(
        self,
        norm,
        weight,
        power=1,
        method="double_backprop",
        step_size=0.01,
        fraction=1.0,
        at="clean",
        statistics="batch",
        bounds=(0.0, 1.0),
    ):
        check_choice(method, "method", ("double_backprop", "finite_difference"))
        check_choice(at, "`at`", AT)
        check_choice(statistics, "statistics", STATISTICS)
        self.norm = geometry.get(norm).name
        self.weight = check_number(weight, "weight", least=0)
        self.power = check_choice(power, "power", (1, 2))
        self.method, self.step_size = method, check_number(step_size, "step_size", above=0)
        self.fraction = check_number(fraction, "fraction", above=0, most=1)
        self.at, self.statistics = at, statistics
        self.bounds = check_bounds(bounds)

    @property
    def differentiates_twice(self):
        return self.method == "double_backprop"

    def needs_main_gradient(self, shared):
        # For a part of the batch, double backpropagation is cheaper on that part alone.
        partly = self.fraction < 1 and self.method == "double_backprop"
        return shared and self.statistics == "batch" and not partly

    def needs_batch_statistics(self):
        return self.statistics == "batch" and self.fraction < 1

    def value(self, step):
        index = self._index(step)
        length = self._slope if self.method == "finite_difference" else self._length
        lengths = length(step, index)
        if self.power == 2:
            lengths = ops.square(lengths) / 2.0
        return self.weight * ops.mean(step.weighted(lengths, index))

    def _index(self, step):
        """Numbers of the penalised examples, `None` for all."""
        if self.fraction == 1:
            return None
        order = ops.argsort(noise.uniform(step.keys(_SELECTION), (1,))[:, 0])
        # Rounded up in integers: the batch size may be a tensor (TensorFlow) or must not (JAX).
        part = max(Fraction(self.fraction).limit_denominator(1000), Fraction(1, 1000))
        size = step.batch_size()
        return order[: (size * part.numerator + part.denominator - 1) // part.denominator]

    def _length(self, step, index):
        there = step.penalised(self.at, self.statistics, index)
        return geometry.get(self.norm).norm(there.gradient)

    def _slope(self, step, index):
        here = self._base(step, index)
        v = ops.stop_gradient(geometry.get(self.norm).dual.steepest(here.gradient))
        moved = here.x + per_example(self.step_size, v) * v
        if index is None:
            there = step.run(moved, training=self.statistics == "batch")
        else:
            there = step.run_partial(moved, self.statistics, index)
        return (there.losses - here.losses) / self.step_size

    def _base(self, step, index):
        """The pass at the penalised images; a part of the batch reuses the main pass if it may."""
        reusable = self.statistics == "batch" and step.is_main(self.at)
        if index is None or not (reusable and step.main_is_deterministic()):
            return step.penalised(self.at, self.statistics, index)
        return step.main.part(index)
