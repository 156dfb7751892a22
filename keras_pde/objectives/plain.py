from keras_pde.objectives.objective import DataTerm
from keras_pde.registry import register


@register("objective", "plain")
class Plain(DataTerm):
    """The compiled loss at the clean images: E[l(x)], J0 of Finlay, Oberman and Abbasi (2018)."""

    name = "plain"
    perturbs = False

    def images(self, step):
        return step.x
