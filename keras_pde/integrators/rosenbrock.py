from functools import cached_property

import numpy as np


class Rosenbrock:
    """A linearly implicit Runge-Kutta method, for stiff equations: a row of linear systems a step.

    With the Jacobian J of f, and U_i in place of h sum_j Gamma_ij k_j,

        (I / (gamma h) - J) U_i = f(t + alpha_i h, y + sum_j a_ij U_j) + sum_j c_ij U_j / h
                                  + gamma_i h df/dt,

    and y_new is the argument of the last stage plus U of that stage, which is also the estimate of
    the error: such methods are stiffly accurate. Between the ends of a step,

        y(t + x h) = (1 - x) y + x (y_new + (1 - x) sum_i (d_1i + x d_2i + x^2 d_3i) U_i).

    Source: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.7; Steinebach,
    "Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the Julia
    Differential Equations package", 2023.

    Args:
        name: as users write it.
        order: of the error.
        gamma: the diagonal.
        a, c: the rows below the diagonal, the first one empty.
        d: three rows of dense output.
    """

    def __init__(self, name, order, gamma, a, c, d):
        self.name, self.order, self.gamma, self.a, self.c, self.d = name, order, gamma, a, c, d

    @property
    def stages(self):
        return len(self.a)

    @cached_property
    def matrices(self):
        """`(alpha, Gamma)` of the method as it is written with slopes, whose rows add up to the
        times of the stages and to the weights of df/dt."""
        a, c = np.zeros((2, self.stages, self.stages))
        for i, (row, other) in enumerate(zip(self.a, self.c, strict=True)):
            a[i, :i], c[i, :i] = row, other
        gamma = np.linalg.inv(np.eye(self.stages) / self.gamma - c)
        return a @ gamma, gamma

    @cached_property
    def nodes(self):
        return self.matrices[0].sum(axis=1).tolist()

    @cached_property
    def time_weights(self):
        return self.matrices[1].sum(axis=1).tolist()

    def amplification(self, z):
        """|R(z)|, by which one step with h lambda = z multiplies solutions of y' = lambda y."""
        alpha, gamma = self.matrices
        b = alpha[-1] + gamma[-1]
        z = np.asarray(z, "complex128")[..., None, None]
        ones = np.ones((self.stages, 1))
        slopes = np.linalg.solve(np.eye(self.stages) - z * (alpha + gamma), ones)
        return abs(1 + (z * b @ slopes)[..., 0, 0])


_LAST = [
    -7.502846399306121,
    2.561846144803919,
    -11.627539656261098,
    -0.18268767659942256,
    0.030198172008377946,
]

# Steinebach, 2023: L-stable, and without loss of order where a fast part follows a slow one.
RODAS5P = Rosenbrock(
    "rodas5p",
    order=5,
    gamma=0.21193756319429014,
    a=[
        [],
        [3.0],
        [2.849394379747939, 0.45842242204463923],
        [-6.954028509809101, 2.489845061869568, -10.358996098473584],
        [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641],
        _LAST,
        [*_LAST, 1.0],
        [*_LAST, 1.0, 1.0],
    ],
    c=[
        [],
        [-14.155112264123755],
        [-17.97296035885952, -2.859693295451294],
        [147.12150275711716, -1.41221402718213, 71.68940251302358],
        [165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306],
        [
            24.854864614690072,
            -3.0009227002832186,
            47.4931110020768,
            5.5814197821558125,
            -0.6610691825249471,
        ],
        [
            30.91273214028599,
            -3.1208243349937974,
            77.79954646070892,
            34.28646028294783,
            -19.097331116725623,
            -28.087943162872662,
        ],
        [
            37.80277123390563,
            -3.2571969029072276,
            112.26918849496327,
            66.9347231244047,
            -40.06618937091002,
            -54.66780262877968,
            -9.48861652309627,
        ],
    ],
    d=[
        [
            25.948786856663858,
            -2.5579724845846235,
            10.433815404888879,
            -2.3679251022685204,
            0.524948541321073,
            1.1241088310450404,
            0.4272876194431874,
            -0.17202221070155493,
        ],
        [
            -9.91568850695171,
            -0.9689944594115154,
            3.0438037242978453,
            -24.495224566215796,
            20.176138334709044,
            15.98066361424651,
            -6.789040303419874,
            -6.710236069923372,
        ],
        [
            11.419903575922262,
            2.8879645146136994,
            72.92137995996029,
            80.12511834622643,
            -52.072871366152654,
            -59.78993625266729,
            -0.15582684282751913,
            4.883087185713722,
        ],
    ],
)
