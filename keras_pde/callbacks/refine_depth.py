import contextlib

import keras
import numpy as np

from keras_pde import _keras
from keras_pde.checks import check_count
from keras_pde.layers.continuous import bases
from keras_pde.models import depth
from keras_pde.optimizers import CyclicOptimizer, state


class RefineDepth(keras.callbacks.Callback):
    """Incremental-in-depth training: doubles steps and coefficients of all continuous blocks.

    Most of the training runs on a shallow, cheap network; each refinement splits the coefficients
    of depth so that theta(t) stays what it was, and training goes on. The optimizer goes on, too:
    its learning rate and iterations stay, and its slots travel with the coefficients, so that the
    updates of Adam and its relatives are continuous. (Plain SGD steps half as far in the space of
    functions after each refinement, since each of two coefficients has half the gradient.
    Optimizers that work in cycles end theirs before, and forget the momentum of outer steps.)

    Source: Queiruga et al., 2020 (arXiv 2008.02389), who start the optimizer anew.

    In `fit`, `model.optimizer` is another object after a refinement. Weights of another depth that
    `EarlyStopping` or `BackupAndRestore` put back bring the model to their depth. To resume a
    training otherwise, load the refined model and pass `initial_epoch`: refinements of earlier
    epochs are not repeated.

    Args:
        epochs: numbers of the epochs, as `fit` counts them from 0, before which to refine:
            `[30, 50, 70]` refines after 30, 50 and 70 epochs.
        verbose: whether to print each refinement.

    Raises:
        ValueError: the epochs are not distinct positive integers, or the model has no
            `ContinuousBlock`.

    Example:

    >>> refine = kp.callbacks.RefineDepth([30, 50, 70])  # 1 -> 8 steps
    >>> model.fit(x, y, epochs=120, callbacks=[refine])
    """

    def __init__(self, epochs, verbose=0):
        super().__init__()
        self.epochs = [check_count(epoch, "an epoch") for epoch in epochs]
        if len(set(self.epochs)) < len(self.epochs) or not self.epochs:
            raise ValueError(
                f"Received epochs={epochs!r}; expected distinct numbers of epochs, at least one."
            )
        self.verbose = verbose

    def set_model(self, model):
        super().set_model(model)
        self._depths, self._begins = {}, True
        if depth.has_blocks(model):
            self._note()
            self._take_care(model)

    def on_train_begin(self, logs=None):
        depth.blocks(self.model)  # refuses early
        self._note()

    def on_epoch_begin(self, epoch, logs=None):
        self._begins = False
        if epoch in self.epochs:
            self._refine()
            if self.verbose:
                steps = [block.steps for block in depth.blocks(self.model)]
                print(f"Refined before epoch {epoch + 1}: {steps} steps.")

    def _refine(self):
        with _scope(self.model):
            change_in_training(self.model, [*map(depth.refinement, depth.blocks(self.model))])
        self._note()

    def _note(self):
        """Remembers which depth has weights of these shapes."""
        if self.model.built:
            shapes = tuple(tuple(variable.shape) for variable in self.model.weights)
            self._depths[shapes] = [depth.arguments(block) for block in depth.blocks(self.model)]

    def _take_care(self, model):
        """Weights of another depth that others restore bring their depth with them.

        Those are the best ones of `EarlyStopping`, and the last ones of `BackupAndRestore`.
        """
        set_weights, load_weights = type(model).set_weights, type(model).load_weights

        def set_at_their_depth(weights):
            found = self._depths.get(tuple(np.shape(values) for values in weights))
            if found not in (None, [depth.arguments(block) for block in depth.blocks(model)]):
                with _scope(model):
                    change_in_training(model, found)
            set_weights(model, weights)

        def load_at_their_depth(*args, **kwargs):
            if not self._begins:
                return load_weights(model, *args, **kwargs)
            before = [depth.arguments(block) for block in depth.blocks(model)]
            for _ in self.epochs:
                try:
                    return load_weights(model, *args, **kwargs)
                except ValueError:  # of other shapes
                    self._refine()
            try:
                return load_weights(model, *args, **kwargs)
            except ValueError:
                with _scope(model):
                    change_in_training(model, before)
                raise

        model.set_weights, model.load_weights = set_at_their_depth, load_at_their_depth


def change_in_training(model, changes):
    """Changes the depth of a compiled model in place, with its optimizer and compiled functions.

    Args:
        model: the model.
        changes: for each block, the arguments of `change_depth`.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
    for optimizer in state.nested(model.optimizer):
        if isinstance(optimizer, CyclicOptimizer) and optimizer.built:
            optimizer.end_cycle()
    position = {id(v): i for i, v in enumerate(model.trainable_variables)}
    transfers = {}
    for block, change in zip(depth.blocks(model), changes, strict=True):
        stacks = [stack for rate in block.rates for stack in rate.stacks]
        before = (block.basis, block.num_basis)
        block.change_depth(**change)
        transfer = bases.slot_transfer(*before, block.basis, block.num_basis)
        transfers |= {position[id(v)]: transfer for v in stacks if id(v) in position}
    if model.optimizer.built:
        optimizer = state.carried_over(model.optimizer, model.trainable_variables, transfers)
        _keras.replace_optimizer(model, optimizer)
    model.train_function = model.test_function = model.predict_function = None
    model.make_train_function()


def _scope(model):
    if keras.backend.backend() == "tensorflow":
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()
