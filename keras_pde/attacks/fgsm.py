from keras_pde.attacks.pgd import PGD
from keras_pde.registry import register


@register("attack", "fgsm", norm="linf", epsilon=0.1)
class FGSM(PGD):
    """Fast gradient method: one step of length epsilon from the clean image.

    x + epsilon * steepest(grad f(x)): the sign of the gradient for `"linf"` (Goodfellow, Shlens and
    Szegedy, 2015, arXiv 1412.6572), the normalised gradient for `"l2"`, one pixel for `"l1"`. Weak;
    it serves as a check: an attack with more steps must not be weaker.

    Args:
        norm, epsilon, loss, bounds: as in `PGD`.

    Example:

    >>> FGSM("linf", epsilon=0.1)(model, x_test, y_test).robust_accuracy
    """

    def __init__(self, norm, epsilon=None, loss="ce", bounds=(0.0, 1.0)):
        super().__init__(norm, epsilon, steps=1, random_start=False, loss=loss, bounds=bounds)

    @property
    def label(self):
        return f"FGSM-{self.loss}"
