import numbers

import keras
from keras import ops

from keras_pde import _keras, replicas
from keras_pde.checks import check_flag, check_number
from keras_pde.optimizers.base_optimizer import BaseOptimizer


class LossAwareOptimizer(BaseOptimizer):
    """Base class of optimizers whose rate depends on the loss, in plain `compile` and `fit`.

    Keras hands the loss to `scale_loss` before it takes the gradient; it is kept until the step. On
    several replicas each keeps its own; losses and gradients are summed before anything is made of
    them. Subclasses say what rate follows from the whole batch's loss, penalties included, and its
    gradients after clipping. The step is

        v <- momentum v + (1 - momentum) g,    w <- w - rate v,

    with Nesterov's extrapolation if asked for; `weight_decay` is decoupled and acts with the rate.

    A batch whose loss or gradient is not finite changes neither weights nor what is remembered, and
    is counted in `skipped`.

    Where gradients come from a loop of one's own, pass the loss through `scale_loss` first.

    Attributes:
        last_rate: rate of the last step, a scalar variable; None until the optimizer is built.
        skipped: how many batches were left out, an integer variable; None until then.

    Args:
        learning_rate: the largest rate, a float, a schedule or a function without arguments.
        momentum: in [0, 1).
        nesterov: whether to extrapolate.
        **kwargs: of `keras.optimizers.Optimizer`; not `gradient_accumulation_steps`.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, learning_rate, momentum=0.0, nesterov=False, **kwargs):
        if kwargs.get("gradient_accumulation_steps"):
            raise ValueError(
                "Received gradient_accumulation_steps, with which a step would see the loss of its "
                "last batch only; expected None. `keras_pde.optimizers.SAGD` accumulates batches."
            )
        if isinstance(learning_rate, numbers.Real):
            learning_rate = check_number(learning_rate, "learning_rate", least=0)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.momentum = check_number(momentum, "momentum", least=0, below=1)
        self.nesterov = check_flag(nesterov, "nesterov")
        self._losses, self._scalars = {}, {}  # by replica; by name
        self.last_rate = self.skipped = None

    def rate(self, loss, gradients, variables, remembered):
        """The step's rate before the cap, a scalar, and what has changed of what is remembered.

        Args:
            loss: scalar tensor.
            gradients, variables: lists.
            remembered: name -> scalar tensor, of `remembered`.
        """
        raise NotImplementedError

    @property
    def remembered(self):
        """What `rate` keeps from step to step: name -> value at the beginning."""
        return {}

    @property
    def logged(self):
        """What `keras_pde.callbacks.OptimizerLogger` logs: name -> scalar."""
        return {"last_rate": self.last_rate, "skipped": self.skipped}

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._scalars = {
            name: self._scalar(name, value, "float32") for name, value in self.remembered.items()
        }
        self.last_rate = self._scalar("last_rate", 0.0, "float32")
        self.skipped = self._scalar("skipped", 0, "int32")
        if self.momentum:
            self._average_gradients = self.add_optimizer_variables(variables, "velocity")

    def _scalar(self, name, value, dtype):
        """A variable that all replicas share."""
        start = keras.initializers.Constant(value)
        return self.add_variable((), start, dtype, "only_first_replica", name=name)

    def scale_loss(self, loss):
        self._losses[replicas.number()] = ops.stop_gradient(loss)
        return super().scale_loss(loss)

    def update_step(self, gradient, variable, learning_rate, active=True, new=False):
        """The step of one variable.

        Args:
            gradient, variable: of the same shape.
            learning_rate: scalar, 0 where the variable should stay.
            active: boolean scalar: whether this is a step, of which slots and average know.
            new: boolean scalar: whether it is the first of a `fit`.
        """
        index = self.place(variable)
        rate, g = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        w = ops.convert_to_tensor(variable)
        if self.momentum:
            slot = self._average_gradients[index]
            velocity = ops.convert_to_tensor(slot)
            v = velocity + (1 - self.momentum) * (g - velocity)
            self.assign(slot, ops.where(active, v, velocity))
            g = v + (1 - self.momentum) * (g - v) if self.nesterov else v
        if self.weight_decay and self.decays(variable):
            g = g + self.weight_decay * w
        after = w - rate * g
        self.assign(variable, after)
        if self.use_ema:
            slot = _keras.moving_averages(self)[index]
            average = ops.where(new, w, ops.convert_to_tensor(slot))
            momentum = ops.cast(ops.where(new, 0.0, self.ema_momentum), w.dtype)
            self.assign(slot, ops.where(active, after + momentum * (average - after), average))

    def decay_weights(self, variables):
        """Is part of `update_step`, since the base class would use the largest rate."""

    def update_all(self, gradients, variables, learning_rate):
        loss = self._losses.pop(replicas.number(), None)
        if loss is None:
            raise ValueError(
                f"{type(self).__name__} has not seen the loss of this step. Under "
                "`mixed_float16` wrap it in `keras_pde.optimizers.LossScaleOptimizer`, since that "
                "of Keras hides the loss; it cannot be part of a `MultiOptimizer`. In a custom "
                "loop call `loss = optimizer.scale_loss(loss)` before the gradient is taken."
            )
        loss = replicas.summed(loss)
        gradients = self.whole_gradients(gradients, variables)
        gradients, *scalars = self._judged(loss, gradients, variables, learning_rate)
        scalars.append(ops.equal(self._passed(), 0))

        def step(variable, gradient, *scalars):
            self.update_step(gradient, variable, *scalars)

        every = ([scalar] * len(gradients) for scalar in scalars)
        replicas.update(self, step, variables, gradients, *every)

    def _judged(self, loss, gradients, variables, most):
        """The gradients and the rate, zeros if something is not finite; and whether all is."""
        loss = ops.cast(loss, "float32")
        finite = ops.logical_and(ops.isfinite(loss), ops.isfinite(squared_norm(gradients)))
        remembered = {name: ops.convert_to_tensor(v) for name, v in self._scalars.items()}
        rate, changed = self.rate(loss, gradients, variables, remembered)
        for name, value in changed.items():
            self._scalars[name].assign(ops.where(finite, value, remembered[name]))
        rate = ops.where(finite, ops.clip(rate, 0.0, ops.cast(most, "float32")), 0.0)
        self.last_rate.assign(ops.where(finite, rate, ops.convert_to_tensor(self.last_rate)))
        self.skipped.assign_add(ops.cast(ops.logical_not(finite), "int32"))
        return [ops.where(finite, g, ops.zeros_like(g)) for g in gradients], rate, finite

    def get_config(self):
        own = {"momentum": self.momentum, "nesterov": self.nesterov}
        return {**super().get_config(), **own}


def squared_norm(tensors):
    """Sum of the squares of all entries, in float32."""
    return sum(ops.sum(ops.square(ops.cast(x, "float32"))) for x in tensors)
