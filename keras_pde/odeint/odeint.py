from collections.abc import Callable, Sequence
from typing import Any

from keras import ops, tree

from keras_pde import compiled, integrators
from keras_pde.odeint import adaptive, checks, fixed, rows, symbolic
from keras_pde.odeint.state import State
from keras_pde.registry import unknown_name

_MEMORY = ("store", "remat")
_SCIPY = {"RK45": "dopri5", "RK23": "bosh3"}


def odeint(
    func: Callable[..., Any],
    y0: Any,
    t: Any,
    method: str | integrators.RungeKutta = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-6,
    *,
    steps: int | None = None,
    step_size: float | None = None,
    max_steps: int = 256,
    memory: str = "store",
    batched: bool | None = None,
    return_stats: bool = False,
    args: Sequence[Any] = (),
) -> Any:
    """Solves ordinary differential equations for a batch of examples or one system, at given times:

        dy/dt = func(t, y),    y(t[0]) = y0.

    With `steps` or `step_size` it makes equal steps. Otherwise each example has its own time, steps
    and error, so that it gets the same solution in any batch: a step is accepted if its estimated
    error is below atol + rtol |y|, root mean square over the example, and the solution between two
    steps is a polynomial of degree 4. One compiled loop in either case, within `fit`, `tf.function`
    and `jax.jit`, with XLA or without.

    Rows of one system, such as particles that attract each other, or the points of a grid, need
    one clock: `batched=False`, which is the default for a vector y0. Outside of compiled code, rows
    of a batch that act on each other are refused.

    Gradients are those of the steps that were made, whose lengths count as constants ("discretise,
    then optimise"). They reach y0, t and whatever func closes over. What a rejected step has seen
    is left out; still, func should be differentiable a little beyond the domain of the solution.
    XLA on TensorFlow keeps memory for `max_steps` steps, made or not; JAX for about twice the
    square root of that, and computes each step once more.

    Sources: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4 to II.6;
    Tsitouras, 2011 (tsit5); Bogacki and Shampine, 1989 (bosh3).

    Args:
        func: `func(t, y)`, the slopes dy/dt in the nesting and shapes of y. t is the time of each
            example, `(batch, 1, ..., 1)` of the rank of y (of the largest, in a nesting), float32
            or float64; of one system a scalar. It is called in a loop: layers in it must be built,
            and must not change their state (dropout, batch normalization in training:
            `layers.ContinuousBlock`).
        y0: tensor `(batch, ...)` of floats, or a nesting of such tensors; of one system, of any
            shape. Half precision is computed with in float32; func gets it as it was.
        t: at least two times, increasing or decreasing: `(T,)`, or `(T, batch)` with times of each
            example's own.
        method: `"dopri5"`, `"tsit5"` or `"bosh3"`, or a `integrators.RungeKutta` of one's own with
            embedded weights; with equal steps any `RungeKutta`, such as `"rk4"`. SciPy's "RK45" and
            "RK23" are dopri5 and bosh3.
        rtol: relative tolerance of a step, at least the rounding of y0's type. Not for equal steps.
        atol: absolute tolerance of a step, in the units of y, > 0. Not for equal steps.
        steps: number of equal steps from each time to the next.
        step_size: largest length of equal steps, in the units of t, in place of `steps`.
        max_steps: number of steps, rejected ones included, that an example may take.
        memory: `"store"` keeps what the gradient needs, `"remat"` one state a step, and computes
            the rest again (not on TensorFlow).
        batched: whether the first axis of y0 is a batch of examples that have nothing to do with
            each other, or y0 is one system. `None`: one system if all its tensors are scalars and
            vectors.
        return_stats: whether to return `(solution, statistics)`; statistics has `evaluations`,
            `accepted` and `rejected` steps and `status` of each example: 0 for one that arrived, 1
            for one that needs more than `max_steps`, 2 for one whose steps became too short.
        args: further arguments: `func(t, y, *args)`.

    On a symbolic Keras tensor it is a layer of the functional model, which has the weights that
    func uses; `layers.NeuralODE` is one that can be saved.

    Returns:
        The solution in the nesting of y0, with a leading time axis: `(T, batch, ...)`, of one
        system `(T, ...)`; the first is y0.

    Raises:
        ValueError: an argument is out of range, func changes the shape or type, rows of a batch act
            on each other, or an example does not arrive. Compiled code cannot raise: there, the
            times it does not reach are NaN.

    Example:

    >>> field = keras.layers.Dense(2, activation="tanh")
    >>> field.build((None, 2))
    >>> y = kp.odeint(lambda t, y: field(y), ops.ones((8, 2)), [0.0, 0.5, 1.0])  # (3, 8, 2)
    """
    args = _arguments(args)
    if symbolic.is_symbolic((y0, t, args)):
        if return_stats:
            raise ValueError(
                "Received return_stats=True on a symbolic tensor; expected False: a layer of a "
                "model returns the solution."
            )
        settings = {"rtol": rtol, "atol": atol, "steps": steps, "step_size": step_size}
        settings |= {"max_steps": max_steps, "memory": memory, "batched": batched}
        return symbolic.solution(odeint, func, y0, t, method, args=args, **settings)
    if args:
        func = _with_arguments(func, args)
    scheme, adapts = scheme_of(method, steps, step_size)
    if memory not in _MEMORY:
        raise unknown_name("memory mode", memory, _MEMORY)
    if memory == "remat" and compiled.BACKEND == "tensorflow":
        raise ValueError(
            "Received memory='remat' on TensorFlow, which cannot compute again what func closes "
            "over; expected memory='store'. `layers.ContinuousBlock` can save memory there."
        )
    y0 = rows.as_tensors(y0)
    if one := rows.is_one(y0, batched):
        y0, func = tree.map_structure(lambda leaf: leaf[None], y0), rows.of_one(func)
    state = State(y0)
    times, values = checks.times(t, state.dtype)
    times = checks.for_rows(times, state, one)
    start, sign = times[0], ops.stop_gradient(ops.sign(times[-1] - times[0]))
    field = state.field(func, start, sign)
    elapsed = sign * (times - start)
    if adapts:
        checks.tolerances(rtol, atol, max_steps, state.dtypes)
        if values is not None:
            rows.check_apart(func, y0, start)
        solved, statistics, reached = adaptive.solve(
            scheme, field, state.rows, elapsed, ops.abs(start), rtol, atol, max_steps, memory
        )
        reached = start + sign * (reached[:, None] if len(start.shape) else reached)
        checks.arrival(statistics, reached, times, max_steps)
    else:
        counts = checks.step_counts(values, times.shape[0] - 1, steps, step_size)
        solved, statistics = fixed.solve(scheme, field, state.rows, elapsed, counts, memory)
    solution = state.unpack(solved)
    if one:
        solution = tree.map_structure(lambda leaf: leaf[:, 0], solution)
        statistics = type(statistics)(*(entry[0] for entry in statistics))
    return (solution, statistics) if return_stats else solution


def _arguments(args):
    if not isinstance(args, list | tuple):
        raise ValueError(f"Received args={args!r}; expected a tuple, as in args=(2.0,).")
    return tuple(args)


def _with_arguments(func, args):
    def field(t, y):
        return func(t, y, *args)

    return field


def scheme_of(method, steps, step_size):
    """The scheme, and whether it adapts its steps; a `ValueError` if it cannot."""
    known = [n for n in integrators.names() if _is_runge_kutta(integrators.get(n))]
    if isinstance(method, str):
        method = _SCIPY.get(method, method)
        if method not in known:
            raise unknown_name("method", method, [*known, *_SCIPY])
    scheme = integrators.get(method)
    if not _is_runge_kutta(scheme):
        raise ValueError(
            f"Received method={scheme.name!r}, which is for layers; expected a Runge-Kutta method, "
            "such as 'rk4' or 'dopri5'."
        )
    if steps is not None and step_size is not None:
        raise ValueError(
            f"Received steps={steps!r} and step_size={step_size!r}; expected one of them."
        )
    adapts = steps is None and step_size is None
    if adapts and scheme.lower is None:
        raise ValueError(
            f"Received method={scheme.name!r}, which cannot estimate its error, without steps; "
            "expected steps= or step_size=, or method='dopri5', 'tsit5' or 'bosh3'."
        )
    return scheme, adapts


def _is_runge_kutta(scheme):
    return isinstance(scheme, integrators.RungeKutta)
