"""Stability limits from the literature."""

import math

# Largest h w on the imaginary axis and h m on the negative real axis, from the literature.
LIMITS = {
    "euler": (0, 2),
    "midpoint": (0, 2),
    "heun": (0, 2),
    "ssp_rk3": (math.sqrt(3), 2.513),
    "kutta3": (math.sqrt(3), 2.513),
    "bosh3": (math.sqrt(3), 2.513),
    "rk4": (2 * math.sqrt(2), 2.785),
    "rk4_38": (2 * math.sqrt(2), 2.785),
    "dopri5": (0.997, 3.307),
    "tsit5": (0.478, 3.507),
    "two_step_midpoint": (1, 0),
    "symplectic_euler": (2, 0),
    "verlet": (2, 0),
}
