import math

from keras_pde.checks import check_count, check_number
from keras_pde.optimizers.anchored_optimizer import AnchoredOptimizer
from keras_pde.registry import register


@register(
    "optimizer",
    "heat_sgd",
    learning_rate=0.05,
    inner_steps=3,
    scope=2.0,
    temperature=1e-3,
)
class HeatSGD(AnchoredOptimizer):
    """Gradient descent on the loss smoothed by the heat equation.

        g(x) = E f(x + sqrt(temperature / scope) z),  z ~ N(0, I),    x <- x - learning_rate grad g,

    the gradient being the mean of L - 1 draws, each with a batch of its own. The first batch of a
    cycle meets the anchor itself and is left out, so that the model holds the anchor between
    cycles. Unlike local entropy, the smoothing leaves the curvature of a quadratic as it is.

    Source: Chaudhari et al., "Deep relaxation", 2018 (arXiv 1704.04932), section 2. Deviation: the
    authors' code draws from Langevin dynamics with a large scope; this is the definition.

    Args:
        learning_rate: in the units of SGD's.
        inner_steps: L, at least 2.
        scope: 1 / t, above 0.
        temperature: 1 / beta, at least 0: the variance of the smoothing is temperature / scope.
        **kwargs: of `AnchoredOptimizer`; `weight_decay` is part of the outer step.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> model.compile(kp.optimizers.HeatSGD(0.1, inner_steps=5, temperature=1e-4), loss)
    """

    def __init__(self, learning_rate=0.1, inner_steps=5, scope=1.0, temperature=1e-4, **kwargs):
        super().__init__(learning_rate, check_count(inner_steps, "inner_steps", least=2), **kwargs)
        self.scope = check_number(scope, "scope", above=0)
        self.temperature = check_number(temperature, "temperature", least=0)

    @property
    def slots(self):
        return ("slope",)

    def begin(self, x, gradient):
        return {"slope": -gradient / (self.inner_steps - 1)}  # cancels the first batch

    def inner_step(self, step):
        slope = step.slots["slope"] + step.gradient / (self.inner_steps - 1)
        deviation = math.sqrt(self.temperature / self.scope)
        return step.x + deviation * step.normal(), {"slope": slope}

    def outer_step(self, x, slots, learning_rate):
        return x - learning_rate * slots["slope"], {}

    def get_config(self):
        own = {"scope": self.scope, "temperature": self.temperature}
        return {**super().get_config(), **own}
