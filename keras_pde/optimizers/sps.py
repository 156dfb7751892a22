from keras import ops

from keras_pde.checks import check_number
from keras_pde.optimizers.loss_aware_optimizer import LossAwareOptimizer, squared_norm
from keras_pde.registry import register


@register("optimizer", "sps", learning_rate=0.5, c=0.7, f_star=-0.1, momentum=0.5)
class SPS(LossAwareOptimizer):
    """Stochastic Polyak step: SGD with the rate (f - f*) / (c |g|^2) of each batch.

    It needs no schedule where the network can fit every batch (interpolation); elsewhere, and early
    in a training, its rate does not decay, and the cap decides: choose it as SGD's rate.

    Source: Loizou, Vaswani, Laradji and Lacoste-Julien, "Stochastic Polyak step-size for SGD",
    AISTATS 2021 (arXiv 2002.10542), SPS_max. Deviation: the cap does not grow.

    Args:
        learning_rate: the cap.
        c: above 0; 1/2 is optimal for strongly convex losses, and 0.2 is the authors' for networks.
        f_star: lowest loss of a batch, 0 for cross entropy without label smoothing.
        momentum, nesterov, **kwargs: of `LossAwareOptimizer`.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> model.compile(kp.optimizers.SPS(1.0), loss)
    """

    def __init__(self, learning_rate=1.0, c=0.5, f_star=0.0, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.c, self.f_star = check_number(c, "c", above=0), check_number(f_star, "f_star")

    def rate(self, loss, gradients, variables, remembered):
        return (loss - self.f_star) / ops.maximum(self.c * squared_norm(gradients), 1e-30), {}

    def get_config(self):
        return {**super().get_config(), "c": self.c, "f_star": self.f_star}
