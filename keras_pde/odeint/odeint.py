from collections.abc import Callable, Sequence
from typing import Any

from keras import ops, tree

from keras_pde import integrators
from keras_pde.integrators.rosenbrock import RODAS5P, Rosenbrock
from keras_pde.odeint import adaptive, checks, fixed, rows, symbolic
from keras_pde.odeint.explicit import Explicit
from keras_pde.odeint.implicit import Implicit
from keras_pde.odeint.results import DenseSolution, Events
from keras_pde.odeint.state import State
from keras_pde.registry import unknown_name

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
    event_fn: Callable[..., Any] | None = None,
    terminal: bool = True,
    direction: int = 0,
    max_events: int = 16,
    dense: bool = False,
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

    Stiff equations, of which explicit methods need steps far shorter than the solution asks for,
    are for `method="rodas5p"`: each step solves linear systems with the Jacobian of func, which is
    found by automatic differentiation, with one pass backwards for each number of an example. So
    it is for examples of some hundred numbers at most. Its steps end at each of the times; between
    them, where a dense solution and events look, it can be less accurate than the tolerance.

    Sources: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4 to II.6;
    Steinebach, 2023 (rodas5p); Tsitouras, 2011 (tsit5); Bogacki and Shampine, 1989
    (bosh3).

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
            embedded weights; `"rodas5p"` for stiff equations; with equal steps any `RungeKutta`,
            such as `"rk4"`. SciPy's "RK45" and "RK23" are dopri5 and bosh3.
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
            for one that needs more than `max_steps`, 2 for one whose steps became too short, 3 for
            one that a terminal event ended.
        args: further arguments: `func(t, y, *args)`, `event_fn(t, y, *args)`.
        event_fn: `event_fn(t, y)`, one number an example, that changes its sign where something
            happens. It is looked at the end of each step; two changes within a step are not seen,
            nor is one at `t[0]`.
        terminal: whether an example ends at its first event: later times are NaN.
        direction: 1 for changes from below 0 to above only, -1 for the others, 0 for both.
        max_events: how many an example keeps that does not end.
        dense: whether to return the solution as a function of time, too, which keeps all steps.

    On a symbolic Keras tensor it is a layer of the functional model, which has the weights that
    func uses; `layers.NeuralODE` is one that can be saved.

    Returns:
        The solution in the nesting of y0, with a leading time axis: `(T, batch, ...)`, of one
        system `(T, ...)`; the first is y0. Of what is asked for beside it, a tuple:
        `(solution, events, dense solution, statistics)`. Events have `t`, `y` and `count`, of a
        terminal event `(batch,)` and `(batch, ...)`, else with `max_events` in front; NaN where
        there is none. They are differentiable. `dense_solution(t)` takes a time or `(T,)`.

    Raises:
        ValueError: an argument is out of range, func changes the shape or type, rows of a batch act
            on each other, or an example does not arrive. Compiled code cannot raise: there, the
            times it does not reach are NaN.

    Example:

    >>> field = keras.layers.Dense(2, activation="tanh")
    >>> field.build((None, 2))
    >>> y = kp.odeint(lambda t, y: field(y), ops.ones((8, 2)), [0.0, 0.5, 1.0])  # (3, 8, 2)

    A ball that falls from 10 m reaches the ground after sqrt(2 * 10 / 9.81) = 1.43 s:

    >>> fall = lambda t, y: ops.stack([y[1], -9.81])
    >>> y, ground = kp.odeint(fall, [10.0, 0.0], [0.0, 5.0], event_fn=lambda t, y: y[0])
    >>> round(float(ground.t), 3)
    1.428
    """
    args = _arguments(args)
    if symbolic.is_symbolic((y0, t, args)):
        if return_stats or dense or event_fn is not None:
            raise ValueError(
                "Received return_stats=, dense= or event_fn= on a symbolic tensor; expected none: "
                "a layer of a model returns the solution. Call odeint in a layer of your own."
            )
        settings = {"rtol": rtol, "atol": atol, "steps": steps, "step_size": step_size}
        settings |= {"max_steps": max_steps, "memory": memory, "batched": batched}
        return symbolic.solution(odeint, func, y0, t, method, args=args, **settings)
    if args:
        func = _with_arguments(func, args)
        event_fn = event_fn and _with_arguments(event_fn, args)
    scheme, adapts = scheme_of(method, steps, step_size)
    checks.memory(memory)
    most = checks.event(event_fn, terminal, direction, max_events, dense, adapts)
    y0 = rows.as_tensors(y0)
    if one := rows.is_one(y0, batched):
        y0, func = tree.map_structure(lambda leaf: leaf[None], y0), rows.of_one(func)
        event_fn = event_fn and rows.of_one(event_fn)
    state = State(y0)
    times, values = checks.times(t, state.dtype)
    times = checks.for_rows(times, state, one)
    start, sign = times[0], ops.stop_gradient(ops.sign(times[-1] - times[0]))
    field = state.field(func, start, sign)
    elapsed = sign * (times - start)
    if adapts:
        checks.tolerances(rtol, atol, max_steps, state.dtypes)
        if values is not None:
            rows.check_apart(func, y0, times)
        method = (Implicit if isinstance(scheme, Rosenbrock) else Explicit)(scheme)
        event = event_fn and (state.event(event_fn, start, sign), direction, most, terminal)
        limits = (rtol, atol, max_steps, memory)
        solved, statistics, reached, found, made = adaptive.solve(
            method, field, state.rows, elapsed, ops.abs(start), *limits, dense, event
        )
        moved = start + sign * (reached[:, None] if len(start.shape) else reached)
        checks.arrival(statistics, moved, times, max_steps)
    else:
        counts = checks.step_counts(values, times.shape[0] - 1, steps, step_size)
        solved, statistics = fixed.solve(scheme, field, state.rows, elapsed, counts, memory)

    def unpacked(rows):
        """In the nesting of y0, without the batch of one system."""
        nested = state.unpack(rows)
        return tree.map_structure(lambda leaf: leaf[:, 0], nested) if one else nested

    result = [unpacked(solved)]
    if event_fn:
        result.append(_events(*found, start, sign, unpacked, one, terminal))
    if dense:
        result.append(DenseSolution(made, reached[:, None], start, sign, unpacked))
    if return_stats:
        result.append(type(statistics)(*(s[0] for s in statistics)) if one else statistics)
    return tuple(result) if len(result) > 1 else result[0]


def _events(elapsed, found, count, start, sign, unpacked, one, terminal):
    t, y, count = (start + sign * elapsed)[..., 0], unpacked(found), count[:, 0]
    t, count = (t[:, 0], count[0]) if one else (t, count)
    if terminal:
        t, y = t[0], tree.map_structure(lambda leaf: leaf[0], y)
    return Events(t, y, count)


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
        if method not in [*known, RODAS5P.name]:
            error = unknown_name("method", method, [*known, RODAS5P.name, *_SCIPY])
            raise ValueError(f"{error} For stiff equations: {RODAS5P.name!r}.")
    scheme = RODAS5P if method in (RODAS5P, RODAS5P.name) else integrators.get(method)
    if not _is_runge_kutta(scheme) and scheme is not RODAS5P:
        raise ValueError(
            f"Received method={scheme.name!r}, which is for layers; expected a Runge-Kutta method, "
            "such as 'rk4' or 'dopri5'."
        )
    if steps is not None and step_size is not None:
        raise ValueError(
            f"Received steps={steps!r} and step_size={step_size!r}; expected one of them."
        )
    adapts = steps is None and step_size is None
    if scheme is RODAS5P:
        if not adapts:
            raise ValueError(
                f"Received method={scheme.name!r} with steps={steps!r}, step_size={step_size!r}; "
                "expected neither: it chooses its steps, with rtol and atol."
            )
    elif adapts and scheme.lower is None:
        raise ValueError(
            f"Received method={scheme.name!r}, which cannot estimate its error, without steps; "
            "expected steps= or step_size=, or method='dopri5', 'tsit5' or 'bosh3'."
        )
    return scheme, adapts


def _is_runge_kutta(scheme):
    return isinstance(scheme, integrators.RungeKutta)
