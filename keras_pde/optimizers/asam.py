from keras import ops

from keras_pde.checks import check_number
from keras_pde.optimizers.sam import SAM
from keras_pde.registry import register


@register("optimizer", "asam", inner_optimizer="adam", rho=0.3, eta=0.1)
class ASAM(SAM):
    """Adaptive sharpness-aware minimisation: as `SAM`, in units of each weight.

        y = x + rho T^2 g(x) / |T g(x)|,    T = |x| + eta,

    so that the neighbourhood does not change when two layers exchange a factor.

    Source: Kwon, Kim, Park and Choi, "ASAM: adaptive sharpness-aware minimization for
    scale-invariant learning of deep neural networks", ICML 2021 (arXiv 2102.11600), equation 7 and
    the offset of its section 4. Deviation: as for `SAM`.

    Args:
        inner_optimizer: the optimizer that descends, its name, or its config.
        rho: radius, above 0; about ten times that of SAM.
        eta: offset, at least 0, in the units of the weights.
        name: of the optimizer.

    Raises:
        ValueError: an argument is out of range, or the inner optimizer cannot be wrapped.

    Example:

    >>> model.compile(kp.optimizers.ASAM(keras.optimizers.SGD(0.1, 0.9), rho=0.5), loss)
    """

    def __init__(self, inner_optimizer="sgd", rho=0.5, eta=0.01, name=None):
        super().__init__(inner_optimizer, rho, name)
        self.eta = check_number(eta, "eta", least=0)

    def scale(self, weights):
        return ops.abs(weights) + self.eta

    def get_config(self):
        return {**super().get_config(), "eta": self.eta}
