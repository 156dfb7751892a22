from fractions import Fraction

from keras_pde.integrators.scheme import Scheme

_HALF = Fraction(1, 2)


class SymplecticEuler(Scheme):
    """Euler's method for q' = f(p), p' = g(q) that uses the new q for p.

    y is the pair (q, p); part 0 is f, part 1 is g. It is symplectic for Hamiltonian systems, so the
    energy error stays bounded, and can be undone. Source: Hairer, Lubich and Wanner, Geometric
    Numerical Integration, I.1.2.
    """

    name = "symplectic_euler"
    order = 1
    nodes = (Fraction(0), Fraction(0))
    parts = (0, 1)
    imaginary_limit = 2.0
    real_limit = 0.0
    reversible = True

    def start(self, field, y, h):
        return y, 0

    def step(self, field, state, h):
        q, p = state
        q = q + h * field(0, p)
        return q, p + h * field(1, q)

    def back(self, field, state, h):
        q, p = state
        p = p - h * field(1, q)
        return q - h * field(0, p), p

    def end(self, state):
        return state


class Verlet(SymplecticEuler):
    """The Stoermer-Verlet method for q' = f(p), p' = g(q): half a step of p, one of q, half of p.

    Symplectic, symmetric, can be undone. Source: Hairer, Lubich and Wanner, Geometric Numerical
    Integration, I.1.4.
    """

    name = "verlet"
    order = 2
    nodes = (Fraction(0), _HALF, Fraction(1))
    parts = (1, 0, 1)

    def step(self, field, state, h):
        q, p = state
        p = p + h / 2 * field(0, q)
        q = q + h * field(1, p)
        return q, p + h / 2 * field(2, q)

    def back(self, field, state, h):
        q, p = state
        p = p - h / 2 * field(2, q)
        q = q - h * field(1, p)
        return q, p - h / 2 * field(0, q)
