import keras
import numpy as np
from keras import ops

from keras_pde.optimizers import state
from keras_pde.optimizers.base_optimizer import BaseOptimizer, averages, put


class evaluation_weights:
    """Within it the model holds the weights that its optimizer wants to be judged by.

    Optimizers that work in cycles train other weights than those to evaluate: their anchor, or a
    mean; any optimizer with `use_ema` evaluates a moving average. Afterwards the training goes on
    with the same bits. Optimizers that are judged by what they train, or have not begun, leave all
    as it is, so a loop need not know which one it has. What a training is resumed from is saved
    outside.

    In a stateless loop on JAX, assign the current values to the variables before.

    This is for loops of one's own; `fit` has `keras_pde.callbacks.EvaluationWeights`. Such a loop
    ends with `optimizer.finalize_variable_values(model.trainable_variables)`, as `fit` does: then
    the model keeps these weights. The average of `RobustModel(average=...)` is not the optimizer's
    but a model of its own, `.averaged`, since it averages BatchNormalization's statistics, too.

    An optimizer of one's own takes part by `evaluation_pairs()`, which returns pairs of variables
    and the values to judge them by.

    Args:
        optimizer: a `keras.optimizers.Optimizer`; those inside it are asked, too.

    Raises:
        ValueError: it is none, or the call is inside a compiled function, whose variables have no
            values.

    Example:

    >>> optimizer = kp.optimizers.Lookahead("adam")
    >>> for x, y in batches:
    ...     step(x, y)
    >>> with kp.optimizers.evaluation_weights(optimizer):
    ...     predicted = model(x_test)
    """

    def __init__(self, optimizer):
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                f"Received {optimizer!r}; expected a keras.optimizers.Optimizer, such as "
                "`model.optimizer`."
            )
        self.optimizer = optimizer
        self._kept, self._shown = [], {}

    def are_in_place(self) -> bool:
        """Whether the model still holds the weights that were shown, and no others since."""
        return bool(self._kept) and all(
            np.array_equal(_copy(variable), self._shown[id(variable)]) for variable, _ in self._kept
        )

    def __enter__(self):
        if self._kept:
            raise ValueError(
                "Received an evaluation_weights that is entered already; expected another one, of "
                "`evaluation_weights(optimizer)`, which changes nothing within it."
            )
        try:
            parts = list(state.nested(self.optimizer))
            for part in judged_by_others(self.optimizer):
                if isinstance(part, BaseOptimizer) and part.built:
                    part.was_asked()
                # As `fit` ends: only Keras' own optimizers do not constrain their averages.
                outer = parts[: parts.index(part) + 1]
                ours = any(isinstance(o, BaseOptimizer) for o in outer)
                ours |= hasattr(part, "evaluation_pairs")
                assign = put if ours else keras.Variable.assign
                for variable, value in _pairs(part) if part.built else []:
                    self._kept.append((variable, _copy(variable)))
                    assign(variable, _copy(value))
                    self._shown[id(variable)] = _copy(variable)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error):
        for variable, value in reversed(self._kept):  # an average hides the end of a cycle
            variable.assign(value)
        self._kept, self._shown = [], {}


def judged_by_others(optimizer) -> list:
    """Those of the optimizer and the ones inside it that evaluate other weights than they train."""
    parts = state.nested(optimizer)
    return [part for part in parts if part.use_ema or hasattr(part, "evaluation_pairs")]


def _pairs(part):
    try:
        int(ops.convert_to_numpy(part.iterations))
    except Exception as error:
        raise ValueError(
            "Received an optimizer whose variables have no values, as within a compiled function; "
            "expected a call outside of it: compile what is evaluated, and call that within "
            "evaluation_weights."
        ) from error
    return part.evaluation_pairs() if hasattr(part, "evaluation_pairs") else averages(part)


def _copy(variable):
    return np.array(ops.convert_to_numpy(variable))  # JAX takes no buffer twice
