"""How many batches a step should average, by what is known of the noise: rule -> function.

Each takes h, the learning rate; f - f*, the running mean of the loss above its lowest value; V, the
total variance of a batch's gradient; s = |grad f|^2; and theta, a number of the rule's.
"""

from keras import ops


def salr(h, gap, V, s, theta):
    """The largest batch that lets h be a Polyak step: h <= theta gap / (s + V / m)."""
    bracket = theta * gap - h * s
    return ops.where(bracket > 0, h * V / ops.maximum(bracket, 1e-30), 1e30)


def norm_test(h, gap, V, s, theta):
    """V / m <= theta^2 s (Byrd, Chin, Nocedal and Wu, 2012)."""
    return V / ops.maximum(theta**2 * s, 1e-30)


def cabs(h, gap, V, s, theta):
    """m = h V / gap (Balles, Romero and Hennig, "Coupling adaptive batch sizes", 2017)."""
    return theta * h * V / ops.maximum(gap, 1e-30)


def noise_scale(h, gap, V, s, theta):
    """m = V / s (McCandlish et al., "An empirical model of large-batch training", 2018)."""
    return theta * V / ops.maximum(s, 1e-30)


# With the published theta.
RULES = {
    "salr": (salr, 2.0),
    "norm_test": (norm_test, 1.0),
    "cabs": (cabs, 1.0),
    "noise_scale": (noise_scale, 1.0),
}
