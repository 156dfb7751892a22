import math
import warnings

import keras
from keras import ops

from keras_pde.checks import check_number
from keras_pde.optimizers.anchored_optimizer import AnchoredOptimizer
from keras_pde.registry import register, unknown_name

_STALLS = 0.2  # outer rates below are hardly meant


@register(
    "optimizer",
    "entropy_sgd",
    learning_rate=0.9,
    inner_learning_rate=0.05,
    inner_steps=3,
    scope=0.1,
    scope_growth=0.01,
    average_weight=0.6,
    temperature=1e-4,
    momentum=0.5,
    inner_momentum=0.4,
)
class EntropySGD(AnchoredOptimizer):
    """Entropy-SGD: gradient descent on the local entropy of the loss, which is low in wide valleys.

    L steps of Langevin dynamics explore the neighbourhood of the anchor x,

        d = grad f(y) + scope (y - x),
        y <- y - inner_learning_rate d + sqrt(2 inner_learning_rate temperature) N(0, I),
        mean <- (1 - average_weight) mean + average_weight y,

    each on another batch, then x follows their mean, an estimate of the gradient of

        u(x) = -temperature log E exp(-f(y) / temperature),  y ~ N(x, temperature / scope):

        x <- x - learning_rate (x - mean),    scope <- scope (1 + scope_growth).

    Time in the Hamilton-Jacobi equation of u is 1 / scope. With `inner_steps=1`,
    `average_weight=1` and no noise this is SGD with rate `inner_learning_rate`; with `scope=0` and
    `average_weight=1` it is Lookahead.

    Sources: Chaudhari et al., "Entropy-SGD: biasing gradient descent into wide valleys", ICLR 2017
    (arXiv 1611.01838), algorithm 1; Chaudhari, Oberman, Osher, Soatto and Carlier, "Deep
    relaxation", 2018 (arXiv 1704.04932). Of the printed outer step the factor scope is left out, as
    the authors do. The published codes differ from it: they weigh the new sample with 0.25, and
    theirs in PyTorch never changes the scope. Deviations: with momentum, the elastic force goes
    through it (as in the authors' later code), and the inner one starts anew in each cycle.

    Independent reproductions find it on a par with SGD for convolutional networks at the same
    number of gradients. At the paper's noise, 1e-4 to 1e-3, the temperature is 5e-9 to 5e-7: then
    u is the Moreau envelope of the loss, whose minima are those of the loss itself; wide valleys
    are preferred only at temperatures comparable with differences of the loss.

    Args:
        learning_rate: of the outer step, a share of the way to the mean; what schedules change. A
            warning says so where it begins below 0.2.
        inner_learning_rate: of the inner steps, in the units of other optimizers' learning rates.
        inner_steps: L, at least 1; the paper has 5 to 20. Epochs of `fit` are effective epochs: all
            batches count, as they do for other optimizers.
        scope: gamma, at least 0: how strongly y is drawn to x.
        scope_growth: gamma_1, at least 0, a cycle.
        average_weight: alpha, in (0, 1]: of the new sample in the mean.
        temperature: at least 0, in units of the loss. `thermal_noise=epsilon`, the paper's, may be
            given instead: the temperature is epsilon^2 / 2.
        momentum: of the outer step, in [0, 1), Nesterov's.
        inner_momentum: of the inner steps, in [0, 1), Nesterov's.
        seed: integer, of the noise.
        **kwargs: of `AnchoredOptimizer`.

    Raises:
        ValueError: an argument is out of range, or both temperature and noise are given.

    Example:

    >>> model.compile(kp.optimizers.EntropySGD(inner_learning_rate=0.1), loss)
    """

    evaluation_choices = ("anchor", "mean")
    has_noise = True

    def __init__(
        self,
        learning_rate=1.0,
        inner_learning_rate=0.1,
        inner_steps=20,
        scope=1e-4,
        scope_growth=1e-3,
        average_weight=0.75,
        temperature=0.0,
        momentum=0.0,
        inner_momentum=0.0,
        **kwargs,
    ):
        if "thermal_noise" in kwargs:
            thermal_noise = check_number(kwargs.pop("thermal_noise"), "thermal_noise", least=0)
            if temperature:
                raise ValueError(
                    f"Received temperature={temperature!r} and thermal_noise={thermal_noise!r}; "
                    "expected one of them: temperature = thermal_noise^2 / 2."
                )
            temperature = thermal_noise**2 / 2
        if temperature and not self.has_noise:
            raise ValueError(
                f"Received temperature={temperature!r} for {type(self).__name__}, which is the "
                "limit without noise; expected 0. `EntropySGD` has a temperature."
            )
        super().__init__(learning_rate, inner_steps, **kwargs)
        self.inner_learning_rate = check_number(inner_learning_rate, "inner_learning_rate", above=0)
        self.scope = check_number(scope, "scope", least=0)
        self.scope_growth = check_number(scope_growth, "scope_growth", least=0)
        self.average_weight = check_number(average_weight, "average_weight", above=0, most=1)
        self.temperature = check_number(temperature, "temperature", least=0)
        self.momentum = check_number(momentum, "momentum", least=0, below=1)
        self.inner_momentum = check_number(inner_momentum, "inner_momentum", least=0, below=1)
        self._warn_of_stalling(learning_rate)

    def _warn_of_stalling(self, learning_rate):
        schedule = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        rate = float(ops.convert_to_numpy(learning_rate(0) if schedule else learning_rate))
        if 0 < rate < _STALLS:
            warnings.warn(
                f"{type(self).__name__} with learning_rate={rate:g} goes {rate:.1%} of the way to "
                f"the mean of each cycle of {self.inner_steps} batches, and trains about "
                f"{1 / rate:.0f} times slower than with 1. What other optimizers call their "
                "learning rate is inner_learning_rate here.",
                stacklevel=3,
            )

    @classmethod
    def paper(cls, network, batches, **kwargs):
        """The setting of the ICLR paper for one of its networks, with its schedule.

        Outer epochs of the paper are `inner_steps` epochs of `fit`. `HamiltonJacobi` has the same
        without noise.

        Args:
            network: `"mnistfc"`, `"lenet"`, `"allcnn"` or `"ptb"`.
            batches: of an epoch.
            **kwargs: instead of the paper's.

        Raises:
            ValueError: the network is none of the paper's.
        """
        if network not in _PAPER:
            raise unknown_name("network", network, _PAPER)
        arguments, drops, factor = _PAPER[network]
        noise = {} if cls.has_noise else {"thermal_noise": 0.0}
        arguments = {**arguments, **noise, **kwargs}
        boundaries = [epoch * arguments["inner_steps"] * batches for epoch in drops]
        rates = [factor**i for i in range(len(drops) + 1)]
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
        return cls(**{"learning_rate": schedule, **arguments})

    @property
    def slots(self):
        moving = {"velocity": self.inner_momentum, "outer_velocity": self.momentum}
        return ("mean", *(name for name, momentum in moving.items() if momentum))

    def begin(self, x, gradient):
        restarted = {"mean": x, "velocity": ops.zeros_like(x)}
        return {name: value for name, value in restarted.items() if name in self.slots}

    @property
    def logged(self):
        """What `keras_pde.callbacks.OptimizerLogger` logs: name -> scalar."""
        return {"scope": self._grown(self.cycle)}

    def _grown(self, cycle):
        return self.scope * ops.exp(math.log1p(self.scope_growth) * ops.cast(cycle, "float32"))

    def common(self, learning_rate):
        common = super().common(learning_rate)
        return {**common, "scope": self._grown(common["cycle"])}

    def inner_step(self, step):
        rate = self.inner_learning_rate
        force = ops.cast(step.common["scope"], step.y.dtype) * (step.y - step.x)
        d, changed = nesterov(step.gradient + force, step.slots, "velocity", self.inner_momentum)
        y = step.y - rate * d
        if self.temperature:
            y = y + math.sqrt(2 * rate * self.temperature) * step.normal()
        mean = step.slots["mean"]
        return y, {"mean": mean + self.average_weight * (y - mean), **changed}

    def outer_step(self, x, slots, learning_rate):
        d, changed = nesterov(x - slots["mean"], slots, "outer_velocity", self.momentum)
        return x - learning_rate * d, changed

    def get_config(self):
        names = ("inner_learning_rate", "scope", "scope_growth", "average_weight", "temperature")
        names += ("momentum", "inner_momentum")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


# Table 1 and section 5: arguments, outer epochs after which the outer rate drops, and its factor.
# Momentum is said to be Nesterov's in both loops.
_MNIST = {
    "inner_learning_rate": 0.1,
    "inner_steps": 20,
    "scope": 1e-4,
    "scope_growth": 1e-3,
    "thermal_noise": 1e-3,
    "momentum": 0.9,
    "inner_momentum": 0.9,
}
_PAPER = {
    "mnistfc": (_MNIST, (2,), 0.1),
    "lenet": (_MNIST, (2,), 0.1),
    "allcnn": ({**_MNIST, "scope": 0.03, "thermal_noise": 1e-4}, (4, 8), 0.2),
    "ptb": (
        {
            **_MNIST,
            "inner_learning_rate": 1.0,
            "inner_steps": 5,
            "scope": 1e-3,
            "scope_growth": 0.0,
            "thermal_noise": 1e-4,
            "momentum": 0.5,
            "inner_momentum": 0.5,
        },
        (3, 4),
        0.1,
    ),
}


def nesterov(d, slots, name, momentum):
    """The direction with Nesterov's momentum, and the velocity that has changed, if there is."""
    if not momentum:
        return d, {}
    velocity = momentum * slots[name] + d
    return d + momentum * velocity, {name: velocity}
