"""One compiled loop over the steps of a block, and what it keeps in memory for the gradient.

A step is a pure function `step(n, state, weights) -> (state, increments)` of lists of tensors: the
increments are summed over the steps. Everything that is differentiated comes in through its
arguments, so that a step can be run again. Assigning variables inside would not survive that: with
`keras.remat` around a stateful layer the moving statistics move twice and dropout draws another
mask for the gradient.
"""

import math

import keras
from keras import ops

from keras_pde import _keras, autodiff, compiled

MEMORY = ("store", "remat", "checkpoint", "reversible")


def run(step, state, sums, weights, first, last, unroll, memory, back=None):
    """Runs steps `first` to `last` - 1.

    Args:
        step: as above.
        state: list of tensors.
        sums: list of tensors to which the increments are added.
        weights: list of tensors.
        first, last: integers.
        unroll: whether to write the loop out; `n` is then a Python integer, a tensor otherwise.
        memory: `"store"` keeps every intermediate tensor, `"remat"` one state a step, and
            `"checkpoint"` about 2 sqrt(N) states; they compute the others again. `"reversible"`
            keeps the last state only and undoes the steps by `back`.
        back: `back(n, state, weights) -> state`, the state before step n.

    Returns:
        `(state, sums)`.
    """
    if memory == "reversible":
        return _reversible(step, back, state, sums, weights, first, last, unroll)
    if memory == "checkpoint":
        length = max(math.isqrt(last - first), 1)
        blocks, rest = divmod(last - first, length)

        def segment(begin, count):
            def inner(k, state, weights):
                def shifted(n, state, weights):
                    return step(begin(k) + n, state, weights)

                zeros = [ops.zeros_like(s) for s in sums]
                return _loop(shifted, state, zeros, weights, 0, count, unroll)

            return _again(inner)

        outer = segment(lambda k: first + k * length, length)
        state, sums = _loop(outer, state, sums, weights, 0, blocks, unroll)
        remaining = segment(lambda _: last - rest, rest)
        return _loop(remaining, state, sums, weights, 0, int(rest > 0), True)
    step = _again(step) if memory == "remat" else step
    return _loop(step, state, sums, weights, first, last, unroll)


def _loop(step, state, sums, weights, first, last, unroll):
    count = len(state)

    def body(n, carry):
        state, increments = step(n, list(carry[:count]), weights)
        sums = [s + i for s, i in zip(carry[count:], increments, strict=True)]
        return (*state, *sums)

    carry = (*state, *sums)
    if unroll:
        for n in range(first, last):
            carry = body(n, carry)
    else:
        carry = compiled.repeat(lambda n, *carry: body(first + n, carry), carry, last - first)
    return list(carry[:count]), list(carry[count:])


def _again(step):
    """The step, of which only the arguments are kept for the gradient."""

    def again(n, state, weights):
        def flat(*tensors):
            new, increments = step(n, list(tensors[: len(state)]), list(tensors[len(state) :]))
            return (*new, *increments)

        result = keras.remat(flat)(*state, *weights)
        return list(result[: len(state)]), list(result[len(state) :])

    return again


def _reversible(step, back, state, sums, weights, first, last, unroll):
    count, weight_count = len(state), len(weights)

    @ops.custom_gradient
    def solve(*tensors):
        state, weights = list(tensors[:count]), list(tensors[count : count + weight_count])
        final, sums = _loop(
            step, state, list(tensors[count + weight_count :]), weights, first, last, unroll
        )

        def gradient(*upstream, **_):
            upstream = keras.tree.flatten(upstream)

            def undo(m, tensors, _):
                n = first + last - 1 - m
                before = back(n, tensors[:count], weights)

                def paired(point):
                    after, increments = step(n, point[:count], point[count:])
                    cotangents = [*tensors[count : 2 * count], *upstream[count:]]
                    pairs = zip([*after, *increments], cotangents, strict=True)
                    return sum(ops.sum(a * ops.cast(c, a.dtype)) for a, c in pairs)

                _, slopes = autodiff.value_and_grad(paired, [*before, *weights])
                return [*before, *slopes[:count]], slopes[count:]

            zeros = [ops.zeros_like(w) for w in weights]
            ends = [*final, *upstream[:count]]
            found, by_weight = _loop(undo, ends, zeros, [], first, last, unroll)
            return (*found[count:], *by_weight, *upstream[count:])

        return (*final, *sums), gradient

    result = solve(*state, *weights, *sums)
    return list(result[:count]), list(result[count:])


def must_write_out(rates):
    """Whether a compiled loop cannot run these rates, or runs them far too slowly."""
    backend = keras.backend.backend()
    if backend == "torch":
        return True
    layers = [layer for rate in rates for layer in _keras.layers_of(rate.template.layer)]
    if backend == "jax":
        import jax

        # XLA's convolution gradients are about 25 times slower in loops on a CPU (jax 12868).
        return jax.default_backend() == "cpu" and any(
            "conv" in type(x).__name__.lower() for x in layers
        )
    import tensorflow as tf

    # Replicas cannot exchange statistics from within a loop.
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return replicas > 1 and any(getattr(layer, "synchronized", False) for layer in layers)
