from keras import ops

from keras_pde import _keras, replicas
from keras_pde.checks import check_flag, check_number, optional
from keras_pde.optimizers.never_shown import Watch


class BaseOptimizer(_keras.Optimizer):
    """Keras' base class, made right in what Keras leaves to chance.

    - Moving averages (`use_ema`) begin anew with each `fit`, which begins with the average in the
      model: so weights that were set in between are respected. Keras ends `fit` with averages of
      zeros where no step was made, and with those of other variables after some were frozen.
    - Clipping is of the gradient of the whole batch. Keras clips each replica's share.
    - What ends `fit` satisfies the constraints of the variables.
    - Where others are to be judged than those that are trained, and nobody ever asks for them, it
      warns when the optimizer is gone.

    Subclasses update the averages within their steps, and take gradients from `whole_gradients`.
    """

    def __init__(self, learning_rate, weight_decay=None, use_ema=False, **kwargs):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=optional(check_number, weight_decay, "weight_decay", least=0),
            use_ema=check_flag(use_ema, "use_ema"),
            **kwargs,
        )

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._origin = self.add_variable((), dtype=_keras.batches_of(self).dtype, name="origin")
        if self.use_ema or hasattr(self, "evaluation_pairs"):
            self._watch = Watch(self, self._origin, self.comes_back_after)
        else:
            self._watch = None

    @property
    def comes_back_after(self):
        """Steps after which the model itself holds the weights to judge by; 0 for never."""
        return self.ema_overwrite_frequency or 0

    def was_asked(self):
        """Somebody has been shown the weights to judge by."""
        if self._watch is not None:
            self._watch.asked = True

    def _passed(self):
        """Batches since this `fit` began."""
        return ops.convert_to_tensor(self.iterations) - ops.convert_to_tensor(self._origin)

    def begin_fit(self):
        """What follows is another `fit`, from what the model holds."""
        count = int(ops.convert_to_numpy(self.iterations))  # JAX takes no buffer twice
        self._origin.assign(count)

    @property
    def evaluated_slots(self):
        """The lists of slots that the model may hold at the end of `fit`."""
        return [_keras.moving_averages(self)] if self.use_ema else []

    def with_gradients(self, gradients, variables):
        """What has no gradient stays, and so does what is evaluated in its place."""
        gradients, variables = super().with_gradients(gradients, variables)
        if self._watch is not None:
            self._watch.stepped = True
        moving = {self.place(variable) for variable in variables}
        staying = [v for i, v in enumerate(self.trained) if i not in moving]

        def stay(variable):
            for slots in self.evaluated_slots:
                slot = slots[self.place(variable)]
                if slot is not None:
                    self.assign(slot, ops.copy(ops.convert_to_tensor(variable)))

        if staying:
            replicas.update(self, stay, staying)
        return gradients, variables

    def clip_all(self, gradients):
        """Is part of `whole_gradients`."""
        return gradients

    def whole_gradients(self, gradients, variables):
        """The gradients of the whole batch: dense, summed over the replicas, and clipped."""
        return super().clip_all(replicas.summed_gradients(self, gradients, variables))

    def update_averages(self, variables):
        """Is part of the step."""

    def finalize_variable_values(self, var_list):
        if _keras.holds_values(self):
            end_with_averages(self)
            self.begin_fit()


def end_with_averages(optimizer):
    """Puts the moving averages of `use_ema`, if there are any, into the model."""
    for variable, average in averages(optimizer):
        put(variable, ops.copy(average))


def averages(optimizer):
    """Pairs of variables and their moving averages; none without `use_ema` or before a step."""
    if not (optimizer.use_ema and _keras.holds_values(optimizer)):
        return []
    passed = optimizer._passed() if isinstance(optimizer, BaseOptimizer) else optimizer.iterations
    if not int(ops.convert_to_numpy(passed)):
        return []
    pairs = zip(_keras.trained_by(optimizer), _keras.moving_averages(optimizer), strict=True)
    # Keras has none of variables that it overwrites with gradients (float8).
    return [(variable, average) for variable, average in pairs if average is not None]


def put(variable, value):
    """Assigns the value, or what the variable's constraint makes of it."""
    constraint = variable.constraint
    variable.assign(constraint(ops.convert_to_tensor(value)) if constraint else value)
