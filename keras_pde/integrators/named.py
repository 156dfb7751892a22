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
    RungeKutta(
        "tsit5",  # Tsitouras, 2011; weights to 12 digits, so that they add up to 1 exactly
        order=5,
        a=[
            [],
            ["0.161"],
            ["-0.008480655492356989", "0.335480655492357"],
            ["2.8971530571054935", "-6.359448489975075", "4.3622954328695815"],
            [
                "5.325864828439257",
                "-11.748883564062828",
                "7.4955393428898365",
                "-0.09249506636175525",
            ],
            [
                "5.86145544294642",
                "-12.92096931784711",
                "8.159367898576159",
                "-0.071584973281401",
                "-0.028269050394068383",
            ],
            [
                "0.096460766818",
                "0.01",
                "0.479889650414",
                "1.379008574104",
                "-3.290069515436",
                "2.3247105241",
            ],
        ],
        b=[
            "0.096460766818",
            "0.01",
            "0.479889650414",
            "1.379008574104",
            "-3.290069515436",
            "2.3247105241",
            0,
        ],
        lower=[
            "0.094680755766",
            "0.009183565540",
            "0.487770528424",
            "1.234297566931",
            "-2.707712349983",
            "1.866628418171",
            "0.015151515151",
        ],
    ),
    TwoStepMidpoint(),
    SymplecticEuler(),
    Verlet(),
)
_BY_NAME = {scheme.name: scheme for scheme in _SCHEMES}


def names(fields: int | None = None) -> list[str]:
    """The names of all schemes, or of those for so many fields."""
    return [s.name for s in _BY_NAME.values() if fields in (None, max(s.parts) + 1)]


def get(scheme: str | dict | Scheme) -> Scheme:
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


def serialize(scheme: Scheme) -> str | dict:
    """The name of a scheme, or the arguments of a `RungeKutta` of one's own; `get` reads both."""
    if _BY_NAME.get(scheme.name) is scheme:
        return scheme.name
    return scheme.get_config()
