"""Dense output: a polynomial through each step, whose weights follow from the tableau."""

from functools import cache

import numpy as np
from scipy.linalg import null_space


@cache
def weights(scheme):
    """Matrix W `(4, stages)` of y(t + x h) = y + h sum_ij x^i W_ij k_j, i = 1, ..., 4.

    The polynomial of degree 4 that has the values and slopes of both ends of a step, and at x = 1/2
    a value of order 4, or of the scheme's if that is less.

    Args:
        scheme: a `RungeKutta` whose last stage is the slope at the end of the step.
    """
    stages = scheme.stages
    unit, b = np.eye(stages), np.array([float(w) for w in scheme.b])
    # Rows: value at 1/2, value at 1, slope at 0, slope at 1, of x^1, ..., x^4.
    powers = np.arange(1, 5)
    system = np.array([0.5**powers, np.ones(4), powers == 1, powers])
    return np.linalg.solve(system, np.array([_middle(scheme), b, unit[0], unit[-1]]))


def _middle(scheme):
    """Weights w of y(t + h / 2) = y + h sum_i w_i k_i.

    They satisfy sum_i w_i Phi_i = 2^-r / gamma for all rooted trees of r nodes up to the order (see
    Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.6); the freedom that
    is left makes the error of the next order least.
    """
    a = np.zeros((scheme.stages, scheme.stages))
    for stage, row in enumerate(scheme.a):
        a[stage, :stage] = [float(entry) for entry in row]
    order = min(scheme.order, 4)
    conditions = [_condition(a, tree) for n in range(1, order + 1) for tree in _trees(n)]
    phi, target = _system(conditions)
    w = np.linalg.lstsq(phi, target, rcond=1e-12)[0]
    phi_next, target_next = _system([_condition(a, tree) for tree in _trees(order + 1)])
    free = null_space(phi, rcond=1e-10)
    return w + free @ np.linalg.lstsq(phi_next @ free, target_next - phi_next @ w, rcond=None)[0]


def _system(conditions):
    phi, nodes, gamma = (np.array(column) for column in zip(*conditions, strict=True))
    return phi, 0.5**nodes / gamma


def _condition(a, tree):
    """`(Phi, r, gamma)` of a rooted tree."""
    phi, nodes, gamma = np.ones(len(a)), 1, 1
    for branch in tree:
        inner, count, factor = _condition(a, branch)
        phi, nodes, gamma = phi * (a @ inner), nodes + count, gamma * factor
    return phi, nodes, gamma * nodes


def _trees(nodes):
    """All rooted trees of so many nodes, each the sorted tuple of its branches."""
    if nodes == 1:
        return {()}
    return {grown for tree in _trees(nodes - 1) for grown in _grown(tree)}


def _grown(tree):
    yield tuple(sorted((*tree, ())))
    for i, branch in enumerate(tree):
        for grown in _grown(branch):
            yield tuple(sorted((*tree[:i], grown, *tree[i + 1 :])))
