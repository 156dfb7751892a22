import numbers
import warnings

from keras import ops

from keras_pde import _keras
from keras_pde.checks import check_count, check_number
from keras_pde.optimizers.base_optimizer import BaseOptimizer, averages, put
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

    Learning-rate schedules count batches; with `gradient_accumulation_steps`, as cycles do,
    accumulated ones.

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
        self._ended = self.add_variable(
            (), dtype=_keras.batches_of(self).dtype, name="ended_cycles"
        )

    @property
    def comes_back_after(self):
        return 0 if self.use_ema else self.inner_steps

    @property
    def phase(self):
        """Which step of its cycle comes next, from 0: an integer tensor."""
        return ops.mod(self._passed(), self.inner_steps)

    @property
    def cycle(self):
        """How many cycles have ended: an integer tensor, constant within a cycle."""
        ended = ops.convert_to_tensor(self._ended)
        return ended + ops.floor_divide(self._passed(), self.inner_steps)

    @property
    def evaluated_slots(self):
        return [self._anchors, *super().evaluated_slots]

    def evaluation_values(self):
        """The weights to evaluate, one tensor a trainable variable: anchors within a cycle."""
        return chosen(ops.equal(self.phase, 0), self.trained, self._anchors)

    def evaluation_pairs(self):
        """Pairs of variables and the values to judge them by: averages with `use_ema`."""
        if self.use_ema:
            return averages(self)
        return list(zip(self.trained, self.evaluation_values(), strict=True))

    def end_cycle(self):
        """Puts the evaluation weights into the model, from which the next step begins a cycle."""
        for variable, value in zip(self.trained, self.evaluation_values(), strict=True):
            put(variable, value)
        self.begin_fit()

    def begin_fit(self):
        """The next step begins a cycle, from what the model holds."""
        self._ended.assign(int(ops.convert_to_numpy(self.cycle)))
        super().begin_fit()

    def finalize_variable_values(self, var_list):
        """Ends the cycle; the model has the evaluation weights, or with `use_ema` the average."""
        if not _keras.holds_values(self):
            return
        if int(self.phase):
            count = self.gradient_accumulation_steps or 1  # batches that Keras counts as one
            cycle, lost = count * self.inner_steps, count * int(self.phase)
            warnings.warn(
                f"{type(self).__name__} ends within a cycle of {cycle} batches: the last {lost} "
                f"are lost, the model has the {self.evaluation_weights} with which the cycle "
                f"began, and the next `fit` begins a cycle. Train a multiple of {cycle} batches, "
                "or take shorter cycles.",
                stacklevel=2,
            )
        if self.use_ema:
            super().finalize_variable_values(var_list)
        else:
            self.end_cycle()

    def get_config(self):
        names = ("inner_steps", "evaluation_weights")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def chosen(condition, variables, others):
    """The values of the variables where the scalar condition holds, else of the others.

    Where one of both is None, as Keras has it for slots of what gradients overwrite (float8), those
    of the other one.
    """

    def one(a, b):
        if a is None or b is None:
            return ops.convert_to_tensor(b if a is None else a)
        return ops.where(condition, ops.convert_to_tensor(a), ops.convert_to_tensor(b))

    return [one(a, b) for a, b in zip(variables, others, strict=True)]
