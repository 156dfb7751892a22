from keras_pde.optimizers.loss_aware_optimizer import LossAwareOptimizer, squared_norm
from keras_pde.registry import register


@register("optimizer", "alig", learning_rate=0.5, momentum=0.5, nesterov=False)
class ALIG(LossAwareOptimizer):
    """ALI-G: the rate min(f / (|g|^2 + 1e-5), learning_rate) of each batch, Nesterov's momentum.

    For networks that fit every batch. Regularise by a norm constraint of the weights
    (`keras.constraints.MaxNorm`), not by a penalty, which makes the lowest loss unknown.

    Source: Berrada, Zisserman and Kumar, "Training neural networks for and by interpolation", ICML
    2020 (arXiv 1906.05661), equation 6 and section 4. Deviation: the momentum is an average of
    gradients, as everywhere here, so 1 / (1 - momentum) times smaller than the authors'.

    Args:
        learning_rate: the largest rate.
        momentum, nesterov, **kwargs: of `LossAwareOptimizer`.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> model.compile(kp.optimizers.ALIG(1.0), loss)
    """

    def __init__(self, learning_rate=1.0, momentum=0.9, nesterov=True, **kwargs):
        super().__init__(learning_rate, momentum, nesterov, **kwargs)

    def rate(self, loss, gradients, variables, remembered):
        return loss / (squared_norm(gradients) + 1e-5), {}
