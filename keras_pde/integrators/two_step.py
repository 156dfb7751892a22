from fractions import Fraction

from keras_pde.integrators.scheme import Scheme


class TwoStepMidpoint(Scheme):
    """The explicit midpoint rule over two steps, or leapfrog: y_{n+1} = y_{n-1} + 2 h f(y_n).

    It needs one evaluation a step, can be undone, and neither damps nor amplifies oscillations with
    h w < 1; any damping in f makes it unstable. The first step is Euler's, which makes the same
    order 2. Sources: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, III.1;
    as a network, Chang et al., 2018 (arXiv 1709.03698).
    """

    name = "two_step_midpoint"
    order = 2
    nodes = (Fraction(0),)
    imaginary_limit = 1.0
    real_limit = 0.0
    reversible = True

    # The state is (y_n, y_{n-1}).
    def start(self, field, y, h):
        return (y + h * field(0, y), y), 1

    def step(self, field, state, h):
        y, before = state
        return before + 2 * h * field(0, y), y

    def back(self, field, state, h):
        y, before = state
        return before, y - 2 * h * field(0, before)
