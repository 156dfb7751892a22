import numpy as np

# Growth a step that is float rounding, no instability.
_ROUNDING = 1e-9


class Scheme:
    """How to make one step of y' = f(t, y): the base class of all integrators.

    A state is a tuple of tensors. `start` makes it from y(0), `step` advances it by h, `end` reads
    y from it. The right-hand side comes as `field(stage, y)`, with stage from 0 to `stages` - 1.

    Attributes:
        name: as users write it.
        order: p, if the error at a fixed time is O(h^p) for smooth problems.
        nodes: one `Fraction` a stage, its time within the step, in units of the step.
        parts: one number a stage: which of the fields it evaluates; schemes for one field have
            zeros.
        imaginary_limit: largest h w for which y' = i w y does not grow.
        real_limit: largest h m for which y' = -m y does not grow.
        reversible: whether `back` undoes `step` exactly, up to rounding.
    """

    name: str
    order: int
    nodes: tuple
    imaginary_limit: float
    real_limit: float
    reversible = False

    @property
    def stages(self):
        return len(self.nodes)

    @property
    def parts(self):
        return (0,) * self.stages

    def start(self, field, y, h):
        """The first state, and how many steps it has made already."""
        return (y,), 0

    def step(self, field, state, h):
        raise NotImplementedError

    def back(self, field, state, h):
        """The state before the step that led to this one."""
        raise ValueError(
            f"Received scheme {self.name!r}, whose steps cannot be undone; expected a reversible "
            "one, such as 'two_step_midpoint'."
        )

    def end(self, state):
        return state[0]

    def amplification(self, z):
        """The largest modulus by which one step with h lambda = z multiplies solutions.

        Of y' = lambda y; for pairs, of the oscillator q' = w p, p' = -w q, whose eigenvalues are
        lambda = i w and -i w. It is the spectral radius of the step's matrix.

        Args:
            z: array of complex numbers.

        Returns:
            An array of that shape.
        """
        z = np.asarray(z, "complex128")
        pairs = any(self.parts)
        w = -1j * z if pairs else z

        def linear(stage, y):
            return (-1) ** self.parts[stage] * w * y

        zero, one = np.zeros_like(z), np.ones_like(z)
        count = len(self.start(linear, (zero, zero) if pairs else zero, 1.0)[0])
        units = [tuple(one if i == j else zero for j in range(count)) for i in range(count)]
        columns = np.array([self.step(linear, unit, 1.0) for unit in units])
        return abs(np.linalg.eigvals(np.moveaxis(columns, (0, 1), (-1, -2)))).max(-1)

    def is_stable(self, z):
        """Whether a step multiplies no solution with h lambda among z by more than 1."""
        return bool(np.max(self.amplification(z)) <= 1 + _ROUNDING)

    def __repr__(self):
        return f"<scheme {self.name}: order {self.order}, {self.stages} stages>"
