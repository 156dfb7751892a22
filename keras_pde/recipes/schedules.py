"""Learning rates over a training, by name; times are shares of the training, so that a recipe keeps
its shape when it is shortened."""

import itertools

import keras
from keras import ops

from keras_pde import registry
from keras_pde.registry import unknown_name

_STRETCH = "schedule_stretch"


def constant(rate):
    """The same rate throughout."""
    if not rate > 0:
        raise ValueError(f"Received rate={rate}; expected a positive one.")
    return lambda steps: rate


def step(rate, factors, at):
    """`rate`, multiplied by `factors[i]` from the share `at[i]` of the training on.

    Factors are of the initial rate: `factors = [0.2, 0.04], at = [0.3, 0.6]`.
    """
    rates = [rate, *(rate * factor for factor in factors)]
    increasing = all(a < b for a, b in itertools.pairwise([0, *at, 1]))
    if not (len(factors) == len(at) > 0 and increasing and min(rates) > 0):
        raise ValueError(
            f"Received rate={rate}, factors={factors} and at={at}; expected positive rates, as "
            "many factors as shares of the training, and shares that increase between 0 and 1."
        )

    def build(steps):
        # The boundary is the last step of the former rate.
        boundaries = [max(0, round(share * steps) - 1) for share in at]
        if any(a >= b for a, b in itertools.pairwise(boundaries)):
            return rate  # too short a training to have steps
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)

    return build


def one_cycle(peak, warm_up=0.3, start=None, end=0.0):
    """Linear from `start` (default a tenth of the peak) to `peak`, then a half cosine to `end`."""
    start = peak / 10 if start is None else start
    if not (peak > 0 and 0 <= warm_up < 1 and 0 <= end <= peak and 0 <= start <= peak):
        raise ValueError(
            f"Received peak={peak}, warm_up={warm_up}, start={start}, end={end}; expected a "
            "positive rate, a share in [0, 1), and ends from 0 to the peak."
        )

    def build(steps):
        rise = round(warm_up * steps)
        return keras.optimizers.schedules.CosineDecay(
            start if rise else peak,
            max(1, steps - rise),
            alpha=end / peak,
            warmup_target=peak if rise else None,
            warmup_steps=rise,
        )

    return build


def cosine(peak, end=0.0):
    """A half cosine from `peak` to `end`."""
    return one_cycle(peak, warm_up=0.0, end=end)


SCHEDULES = {f.__name__: f for f in (constant, step, one_cycle, cosine)}


def create(name, arguments, steps):
    """The learning rate of a training of so many steps: a number or a Keras schedule.

    Raises:
        ValueError: the name or an argument is unknown or out of range.
    """
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    return registry.create(SCHEDULES[name], arguments, f"schedule {name!r}")(steps)


def make_adaptable(optimizer, schedule):
    """Lets `adapt` change how many steps an optimizer's schedule takes; before it is built.

    The factor is a variable of the optimizer, as its moments are: it is saved with them, and to
    change it compiles nothing.
    """
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        stretch = optimizer.add_variable((), "ones", "float32", name=_STRETCH)
        optimizer.learning_rate = Stretched(schedule, stretch)


def adapt(optimizer, planned, steps):
    """From here on, the schedules of a training of `planned` steps are those of so many."""
    for variable in optimizer.variables:
        if variable.name == _STRETCH:
            variable.assign(planned / steps)


@keras.saving.register_keras_serializable(package="keras_pde")
class Stretched(keras.optimizers.schedules.LearningRateSchedule):
    """`schedule(stretch * step)`, where `stretch` is a variable; a copy of it has none.

    A stretch of 1 changes no bit: float32 holds all numbers of steps below 2^24.
    """

    def __init__(self, schedule, stretch=None):
        self.schedule, self.stretch = schedule, stretch

    def __call__(self, step):
        if self.stretch is None:
            return self.schedule(step)
        return self.schedule(ops.cast(step, "float32") * ops.convert_to_tensor(self.stretch))

    def get_config(self):
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]))
