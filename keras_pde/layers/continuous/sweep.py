import keras
import numpy as np
from keras import ops

from keras_pde.layers.continuous import bases

# Random numbers that one generator may draw at one stage.
_APART = 1024


class Sweep:
    """One pass through a continuous block: its rates at every stage, and what these leave behind.

    What is left behind is summed over the stages in a log: first the losses, then, in training, for
    everything that a rate keeps, its mean over the stages in each element.

    Args:
        block: the `ContinuousBlock`, built.
        unroll: whether the number n of a step is a Python integer.
        training: whether what the rates keep moves.
        mask: of the input, for rates that take one.
    """

    def __init__(self, block, unroll, training, mask=None):
        self.block, self.unroll = block, unroll
        self.scheme, self.h = block.scheme, block.horizon / block.steps
        self.plans = [
            _Plan(rate, self.scheme, block.steps, part, unroll)
            for part, rate in enumerate(block.rates)
        ]
        self.moving = [plan for plan in self.plans if training]
        self._training, self._mask = training, mask
        self._structure = [plan.stacks for plan in self.plans]
        self.weights = keras.tree.flatten(self._structure)
        self._seed = block.seed_generator.next() if hasattr(block, "seed_generator") else None
        self._has_loss = False

    def start(self, y):
        """`(state, log, n)`: the first state of the scheme, which may have made steps already."""
        log = self.log()
        state, first = self.scheme.start(self.field(0, self.weights, log), y, self.h)
        return list(state), keras.tree.flatten(log), first

    def step(self, n, state, weights):
        log = self.log()
        state = self.scheme.step(self.field(n, weights, log), state, self.h)
        return list(state), keras.tree.flatten(log)

    def back(self, n, state, weights):
        return list(self.scheme.back(self.field(n, weights, self.log()), state, self.h))

    def finish(self, log):
        """Gives the block the losses of the pass, and the rates what they keep."""
        loss, *kept = keras.tree.pack_sequence_as(self.log(), log)
        if self._has_loss:
            self.block.add_loss(loss)
        for plan, means in zip(self.moving, kept, strict=True):
            plan.keep(means)

    def log(self):
        return [ops.zeros(()), *([ops.zeros_like(c) for c in p.cells] for p in self.moving)]

    def field(self, n, weights, log):
        """The right-hand side in step n: a function of stage and state. It adds to the log."""
        weights = keras.tree.pack_sequence_as(self._structure, weights)

        def field(stage, y):
            part = self.scheme.parts[stage]
            plan = self.plans[part]
            x = ops.cast(y, self.block.compute_dtype)
            slope, kept, losses = plan.evaluate(
                n, stage, x, weights[part], self._seed, self._training, self._mask, self.h
            )
            if losses:
                self._has_loss = True
                log[0] = log[0] + sum(losses)
            if self.moving:
                log[1 + part] = plan.added(log[1 + part], n, stage, kept)
            return ops.cast(slope, y.dtype)

        return field


class _Plan:
    """A rate at every stage of every step."""

    def __init__(self, rate, scheme, steps, part, unroll):
        self.rate, self.part, self.stages = rate, part, scheme.stages
        self._nodes = [float(node) for node in scheme.nodes]
        constant, elements = bases.get("constant"), rate.basis.elements(rate.count)
        rows = bases.rows(rate.basis, rate.count, steps, scheme.nodes)
        cells = bases.rows(constant, elements, steps, scheme.nodes)
        own = np.array([p == part for p in scheme.parts])
        visits = (cells * own[:, None]).sum((0, 1))
        self._unvisited = visits == 0
        shares = cells / np.maximum(visits, 1)
        # Copies: TensorFlow cannot read a variable while it runs a step again in a loop.
        split = ops.unstack if unroll else ops.copy
        self.stacks = [split(ops.convert_to_tensor(stack)) for stack in rate.stacks]
        self.cells = [ops.copy(ops.convert_to_tensor(cells)) for cells in rate.cells]
        self._parts = [split(cells) for cells in self.cells]
        dtype = keras.backend.result_type("float32", *(stack.dtype for stack in rate.stacks))
        fixed = (lambda a: a) if unroll else (lambda a: ops.convert_to_tensor(a, dtype))
        self._rows, self._cells, self._shares = fixed(rows), fixed(cells), fixed(shares)

    def evaluate(self, n, stage, x, stacks, seed, training, mask, h):
        """The rate at that stage: `(slope, kept, losses)`."""
        row, cell = self._rows[n, stage], self._cells[n, stage]
        # Counted, not drawn one after the other: a stage that is run again draws the same mask.
        turn = self.stages * n + stage
        seeds = [
            seed + ops.cast(ops.stack([generator, turn * _APART]), seed.dtype)
            for generator in range(self.rate.seed_count)
        ]
        t = h * (ops.cast(n, x.dtype) + self._nodes[stage])
        return self.rate.evaluate(x, row, cell, stacks, self._parts, seeds, training, mask, t)

    def added(self, sums, n, stage, kept):
        shares = self._shares[n, stage]
        return [
            total
            + ops.reshape(ops.cast(shares, total.dtype), (-1,) + (1,) * len(value.shape)) * value
            for total, value in zip(sums, kept, strict=True)
        ]

    def keep(self, means):
        for variable, old, mean in zip(self.rate.cells, self.cells, means, strict=True):
            unvisited = self._unvisited.reshape((-1,) + (1,) * (len(old.shape) - 1))
            variable.assign(ops.where(unvisited, old, mean))
