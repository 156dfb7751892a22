"""The schemes by name."""

from keras_pde.integrators.partitioned import SymplecticEuler, Verlet
from keras_pde.integrators.runge_kutta import RungeKutta
from keras_pde.integrators.scheme import Scheme
from keras_pde.integrators.two_step import TwoStepMidpoint
from keras_pde.registry import unknown_name

_SCHEMES = (
    RungeKutta("euler", order=1, a=[[]], b=[1]),
    RungeKutta("midpoint", order=2, a=[[], ["1/2"]], b=[0, 1]),
    RungeKutta("heun", order=2, a=[[], [1]], b=["1/2", "1/2"]),
    RungeKutta(
        "ssp_rk3", order=3, a=[[], [1], ["1/4", "1/4"]], b=["1/6", "1/6", "2/3"]
    ),  # Shu and Osher, 1988
    RungeKutta("kutta3", order=3, a=[[], ["1/2"], [-1, 2]], b=["1/6", "2/3", "1/6"]),
    RungeKutta(
        "rk4",
        order=4,
        a=[[], ["1/2"], [0, "1/2"], [0, 0, 1]],
        b=["1/6", "1/3", "1/3", "1/6"],
    ),
    RungeKutta(
        "rk4_38",  # Kutta's 3/8 rule
        order=4,
        a=[[], ["1/3"], ["-1/3", 1], [1, -1, 1]],
        b=["1/8", "3/8", "3/8", "1/8"],
    ),
    RungeKutta(
        "bosh3",  # Bogacki and Shampine, 1989
        order=3,
        a=[[], ["1/2"], [0, "3/4"], ["2/9", "1/3", "4/9"]],
        b=["2/9", "1/3", "4/9", 0],
        lower=["7/24", "1/4", "1/3", "1/8"],
    ),
    RungeKutta(
        "dopri5",  # Dormand and Prince, 1980
        order=5,
        a=[
            [],
            ["1/5"],
            ["3/40", "9/40"],
            ["44/45", "-56/15", "32/9"],
            ["19372/6561", "-25360/2187", "64448/6561", "-212/729"],
            ["9017/3168", "-355/33", "46732/5247", "49/176", "-5103/18656"],
            ["35/384", 0, "500/1113", "125/192", "-2187/6784", "11/84"],
        ],
        b=["35/384", 0, "500/1113", "125/192", "-2187/6784", "11/84", 0],
        lower=["5179/57600", 0, "7571/16695", "393/640", "-92097/339200", "187/2100", "1/40"],
    ),
    TwoStepMidpoint(),
    SymplecticEuler(),
    Verlet(),
)
_BY_NAME = {scheme.name: scheme for scheme in _SCHEMES}


def names() -> list[str]:
    """The names of all schemes."""
    return list(_BY_NAME)


def get(scheme) -> Scheme:
    """A scheme from its name, from the config of a `RungeKutta`, or itself.

    Raises:
        ValueError: no scheme has that name.
    """
    if isinstance(scheme, Scheme):
        return scheme
    if isinstance(scheme, dict):
        return RungeKutta(**scheme)
    if scheme not in _BY_NAME:
        raise unknown_name("scheme", scheme, names())
    return _BY_NAME[scheme]


def serialize(scheme):
    """The name of a scheme, or the arguments of a `RungeKutta` of one's own; `get` reads both."""
    if _BY_NAME.get(scheme.name) is scheme:
        return scheme.name
    return scheme.get_config()
