import numbers
import warnings

from keras import ops

from keras_pde.checks import check_count, check_number
from keras_pde.optimizers import replicas
from keras_pde.optimizers.base_optimizer import BaseOptimizer
from keras_pde.registry import unknown_name


class CyclicOptimizer(BaseOptimizer):
    """Base class of optimizers that work in cycles of several batches.

    Each call of `apply`, so each batch of `fit`, is one step of a cycle. There are no branches:
    masks of the phase choose what a step does, which is legal in compiled loops, under
    `MirroredStrategy` and in JAX's stateless calls. All state lies in tracked variables, so a saved
    training goes on from the middle of a cycle, with the same noise.

    Within a cycle the model holds other weights than those that should be evaluated. At the end of
    `fit` it holds the latter, and the next `fit` begins a cycle. Validation and checkpoints at the
    end of an epoch see them if `inner_steps` divides the batches of an epoch, and with
    `keras_pde.callbacks.EvaluationWeights` in any case.

    Learning-rate schedules count batches.

    Args:
        learning_rate: as in `keras.optimizers.Optimizer`.
        inner_steps: L, the batches of a cycle, at least 1.
        evaluation_weights: one of the class attribute `evaluation_choices`.
        **kwargs: of `keras.optimizers.Optimizer`; not `ema_overwrite_frequency`.

    Raises:
        ValueError: an argument is out of range.
    """

    evaluation_choices = ("anchor",)

    def __init__(self, learning_rate, inner_steps, evaluation_weights="anchor", **kwargs):
        if kwargs.get("ema_overwrite_frequency"):
            raise ValueError(
                "Received ema_overwrite_frequency, which would move the weights away from their "
                "anchor within a cycle; expected None. `use_ema` averages what a cycle ends with, "
                "and `keras_pde.callbacks.EvaluationWeights` evaluates the average."
            )
        if isinstance(learning_rate, numbers.Real):
            learning_rate = check_number(learning_rate, "learning_rate", least=0)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.inner_steps = check_count(inner_steps, "inner_steps")
        if evaluation_weights not in self.evaluation_choices:
            raise unknown_name("evaluation_weights", evaluation_weights, self.evaluation_choices)
        self.evaluation_weights = evaluation_weights

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._origin = self.add_variable((), dtype=self._iterations.dtype, name="cycle_origin")

    @property
    def phase(self):
        """Which step of its cycle comes next, from 0: an integer tensor."""
        return ops.mod(self._passed(), self.inner_steps)

    @property
    def cycle(self):
        """How many cycles have ended: an integer tensor, constant within a cycle."""
        before = ops.floor_divide(ops.convert_to_tensor(self._origin), self.inner_steps)
        return before + ops.floor_divide(self._passed(), self.inner_steps)

    def _passed(self):
        """Batches since the first cycle of this `fit` began."""
        return ops.convert_to_tensor(self.iterations) - ops.convert_to_tensor(self._origin)

    def _filter_empty_gradients(self, grads, vars):
        """What has no gradient stays, and so does what is evaluated in its place."""
        grads, vars = super()._filter_empty_gradients(grads, vars)
        moving = {self._get_variable_index(variable) for variable in vars}
        staying = [v for i, v in enumerate(self._trainable_variables) if i not in moving]

        def stay(variable):
            for slots in self.evaluated_slots:
                slot = slots[self._get_variable_index(variable)]
                self.assign(slot, ops.copy(ops.convert_to_tensor(variable)))

        if staying:
            replicas.update(self, stay, staying)
        return grads, vars

    @property
    def evaluated_slots(self):
        """The lists of slots that `evaluation_values`, or an average, may put into the model."""
        return [self._anchors]

    def evaluation_values(self):
        """The weights to evaluate, one tensor a trainable variable: anchors within a cycle."""
        return chosen(ops.equal(self.phase, 0), self._trainable_variables, self._anchors)

    def end_cycle(self):
        """Puts the evaluation weights into the model, from which the next step begins a cycle."""
        for variable, value in zip(
            self._trainable_variables, self.evaluation_values(), strict=True
        ):
            variable.assign(value)
        self.begin_cycle()

    def begin_cycle(self):
        """The next step begins a cycle, from what the model holds."""
        count = int(ops.convert_to_numpy(self.iterations))  # JAX takes no buffer twice
        self._origin.assign(count)

    def finalize_variable_values(self, var_list):
        """Ends the cycle; the model has the evaluation weights, or with `use_ema` the average."""
        if not self.built:
            return
        if int(self.phase):
            warnings.warn(
                f"{type(self).__name__} ends within a cycle of {self.inner_steps} batches: the "
                f"last {int(self.phase)} are lost, the model has the {self.evaluation_weights} of "
                "before, and the next `fit` begins a cycle. Train a multiple of "
                f"{self.inner_steps} batches, or take shorter cycles.",
                stacklevel=2,
            )
        self.end_cycle()
        super().finalize_variable_values(var_list)

    def get_config(self):
        names = ("inner_steps", "evaluation_weights")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def chosen(condition, variables, others):
    """The values of the variables where the scalar condition holds, else of the others."""
    pairs = zip(variables, others, strict=True)
    return [
        ops.where(condition, ops.convert_to_tensor(a), ops.convert_to_tensor(b)) for a, b in pairs
    ]
