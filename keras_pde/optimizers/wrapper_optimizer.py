import keras

from keras_pde import _keras
from keras_pde.optimizers.base_optimizer import BaseOptimizer, end_with_averages
from keras_pde.optimizers.cyclic_optimizer import CyclicOptimizer


class WrapperOptimizer(CyclicOptimizer):
    """Base class of cyclic optimizers around another one, which makes the steps.

    Learning rate, clipping, weight decay and averages are those of the inner optimizer, where they
    are set and read: callbacks that change `learning_rate` change its.

    Args:
        inner_optimizer: a `keras.optimizers.Optimizer`, its name, or its config. It is not shared
            with other models.
        inner_steps: batches of a cycle.
        evaluation_weights: as in `CyclicOptimizer`.
        name: of the optimizer.

    Attributes:
        batches_a_step: how many batches the inner optimizer counts as one.

    Raises:
        ValueError: the inner optimizer is none, scales losses, has several optimizers, or
            accumulates gradients.
    """

    batches_a_step = 1

    def __init__(self, inner_optimizer, inner_steps, evaluation_weights="anchor", name=None):
        super().__init__(0.0, inner_steps, evaluation_weights, name=name)
        if isinstance(inner_optimizer, dict):
            inner_optimizer = dict(inner_optimizer)  # Keras changes what it reads
        self.inner_optimizer = _checked(_found(inner_optimizer))

    def build(self, variables):
        if self.built:
            return
        self.inner_optimizer.build(variables)
        super().build(variables)

    @property
    def variables(self):
        return _keras.own_variables(self) + self.inner_optimizer.variables

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            self.build(list(trainable_variables))
        if trainable_variables is None:
            trainable_variables = self.trained
        _keras.check_known(self, trainable_variables)
        pairs = self.with_gradients(grads, trainable_variables)
        self.step(*self.without_overwritten(*pairs))
        _keras.batches_of(self).assign_add(1)

    def step(self, gradients, variables):
        """One batch: everything but the count of batches."""
        raise NotImplementedError

    def finalize_variable_values(self, var_list):
        super().finalize_variable_values(var_list)
        if self.inner_optimizer.use_ema and not isinstance(self.inner_optimizer, BaseOptimizer):
            end_with_averages(self.inner_optimizer)  # Keras' own shares buffers on JAX
        else:
            self.inner_optimizer.finalize_variable_values(var_list)

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def get_config(self):
        """Subclasses add their own arguments; the length of the cycle follows from these."""
        return {
            "inner_optimizer": keras.optimizers.serialize(self.inner_optimizer),
            "name": self.name,
        }


def _found(inner):
    try:
        found = keras.optimizers.get(inner)
    except (ValueError, TypeError, KeyError):
        found = None
    if not isinstance(found, keras.optimizers.Optimizer):
        raise ValueError(
            f"Received inner_optimizer={inner!r}; expected an optimizer, such as "
            "keras.optimizers.SGD(0.1), Keras' name of one, such as 'sgd', or its config."
        )
    return found


def _checked(inner):
    kind = type(inner).__name__
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"Received inner_optimizer={kind}; expected an optimizer that makes steps itself, such "
            "as keras.optimizers.SGD. Put the loss scaling around this optimizer instead."
        )
    if isinstance(inner, CyclicOptimizer) or hasattr(inner, "optimizers"):
        raise ValueError(
            f"Received inner_optimizer={kind}, which works in cycles or with several optimizers; "
            "expected one that makes a step of all weights with each batch, such as "
            "keras.optimizers.SGD."
        )
    if inner.gradient_accumulation_steps:
        raise ValueError(
            f"Received inner_optimizer={kind} with gradient_accumulation_steps="
            f"{inner.gradient_accumulation_steps}; expected None, since a cycle counts batches."
        )
    return inner
