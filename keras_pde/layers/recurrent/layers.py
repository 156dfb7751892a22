from keras_pde.layers.recurrent.antisymmetric_rnn_cell import AntisymmetricRNNCell
from keras_pde.layers.recurrent.co_rnn_cell import CoRNNCell
from keras_pde.layers.recurrent.layer import DifferentialRNN
from keras_pde.layers.recurrent.lipschitz_rnn_cell import LipschitzRNNCell
from keras_pde.registry import register


@register("layer", "antisymmetric_rnn", units=5, step_size=0.2, gamma=0.1, gated=True, scheme="rk4")
class AntisymmetricRNN(DifferentialRNN, cell=AntisymmetricRNNCell):
    """A recurrent layer of `AntisymmetricRNNCell`, which has the equation and its limits.

    Args:
        units: number n of units, at least 2.
        step_size: h, > 0.
        gamma: diffusion, not negative.
        gated: whether the increments are gated.
        scheme: explicit Runge-Kutta method: a name of `keras_pde.integrators`, or one's own.
        **kwargs: of `keras.layers.SimpleRNN`: initializers, dropout, `return_sequences`, ...

    Input shape: `(batch, steps, features)`. Output shape: `(batch, units)`, or
    `(batch, steps, units)` with `return_sequences`.

    Raises:
        ValueError: an argument is out of range, or the scheme is no method of single steps.

    Example:

    >>> x = kp.layers.AntisymmetricRNN(128, step_size=0.1, gamma=0.01, scheme="rk4")(sequences)
    """


@register("layer", "lipschitz_rnn", units=5, step_size=0.1, beta=0.9, gamma=0.2, scheme="rk4")
class LipschitzRNN(DifferentialRNN, cell=LipschitzRNNCell):
    """A recurrent layer of `LipschitzRNNCell`, which has the equation and its limits.

    Args:
        units: number n of units.
        step_size: h, > 0.
        beta: share of the antisymmetric parts, in [0, 1].
        gamma: damping, not negative.
        scheme: explicit Runge-Kutta method: a name of `keras_pde.integrators`, or one's own.
        **kwargs: of `keras.layers.SimpleRNN`: initializers, dropout, `return_sequences`, ...

    Input shape: `(batch, steps, features)`. Output shape: `(batch, units)`, or
    `(batch, steps, units)` with `return_sequences`.

    Raises:
        ValueError: an argument is out of range, or the scheme is no method of single steps.

    Example:

    >>> x = kp.layers.LipschitzRNN(128)(sequences)
    """


@register("layer", "co_rnn", units=5, step_size=0.1, frequency=3, damping=2)
class CoRNN(DifferentialRNN, cell=CoRNNCell):
    """A recurrent layer of `CoRNNCell`, which has the equation and its limits.

    Args:
        units: number n of oscillators.
        step_size: h, > 0.
        frequency: square of the angular frequency of an undamped oscillator, > 0.
        damping: not negative.
        **kwargs: of `keras.layers.SimpleRNN`: initializers, dropout, `return_sequences`, ...;
            `return_state` gives positions and velocities.

    Input shape: `(batch, steps, features)`. Output shape: `(batch, units)`, or
    `(batch, steps, units)` with `return_sequences`.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> x = kp.layers.CoRNN(256)(sequences)
    """
