from keras_pde.registry import register
from keras_pde.training.objective import DataTerm


@register("objective", "plain")
class Plain(DataTerm):
    """The compiled loss at the clean images: E[l(x)], J0 of Finlay, Oberman and Abbasi (2018)."""

    name = "plain"
    perturbs = False

    def images(self, step):
        return step.x
