"""Depth as a dial: the same model with more or fewer coefficients, steps, or another scheme."""

import warnings

import keras

from keras_pde import _keras
from keras_pde.checks import check_count
from keras_pde.integrators import RungeKutta
from keras_pde.layers.continuous.continuous_block import ContinuousBlock
from keras_pde.optimizers import state


def refine(model: keras.Model) -> keras.Model:
    """The model with twice as many steps, and coefficients that give each block the same theta(t).

    It computes the same, up to what the error of the coarser grid was, and has room to learn more.
    Source: Queiruga et al., 2020 (arXiv 2008.02389).

    Args:
        model: built Keras model or layer with at least one `ContinuousBlock`, at any depth.

    Returns:
        A new model; compiled as the old one is, with an optimizer that has not begun.

    Raises:
        ValueError: there is no such block, or the model cannot be copied.

    Example:

    >>> model = kp.models.continuous_net(width=8, steps=2)
    >>> finer = kp.models.refine(model)
    """
    return _compiled(model, refinement)


def project(
    model: keras.Model, basis: str | None = None, num_basis: int | None = None
) -> keras.Model:
    """The model with weights that are projected onto another depth basis: compression without data.

    Each theta(t) becomes the nearest one in the mean square over depth, by exact quadrature; moving
    statistics become means over the new elements. Source: Queiruga et al., 2021 (arXiv 2106.10820).

    Args:
        model: as for `refine`.
        basis: name of a depth basis; None for each block's own.
        num_basis: number of coefficients; None for each block's own.

    Returns:
        A new model, as `refine` returns it.

    Raises:
        ValueError: as for `refine`, or the basis does not exist or takes no such number.
    """
    changes = _given(basis=basis, num_basis=num_basis)
    return _compiled(model, lambda block: changes)


def with_solver(
    model: keras.Model, scheme: str | RungeKutta | None = None, steps: int | None = None
) -> keras.Model:
    """The model with another scheme and number of steps; its weights are untouched.

    Args:
        model: as for `refine`.
        scheme: name of a scheme, or a `RungeKutta`; None for each block's own.
        steps: number of steps of each block; None for each block's own.

    Returns:
        A new model, as `refine` returns it.

    Raises:
        ValueError: as for `refine`, or a block cannot have that scheme or number of steps.
    """
    changes = _given(scheme=scheme, steps=steps)
    return _compiled(model, lambda block: changes)


def shorten(model: keras.Model, steps: int, scheme: str | RungeKutta | None = None) -> keras.Model:
    """The model with fewer steps: cheaper, at the price of the error that these make.

    `analysis.convergence_report` shows the price.

    Args:
        model: as for `refine`.
        steps: number of steps of each block, at most its own.
        scheme: as for `with_solver`.

    Returns:
        A new model, as `refine` returns it.

    Raises:
        ValueError: as for `with_solver`, or a block makes fewer steps already.
    """
    check_count(steps, "steps")
    changes = _given(scheme=scheme, steps=steps)

    def fewer(block):
        if steps > block.steps:
            raise ValueError(
                f"Received steps={steps} for block {block.name!r}, which makes {block.steps}; "
                "expected fewer. Use `with_solver` for more."
            )
        return changes

    return _compiled(model, fewer)


def blocks(model) -> list[ContinuousBlock]:
    """All continuous blocks within a model or layer.

    Raises:
        ValueError: there is none.
    """
    found = [layer for layer in _keras.layers_of(model) if isinstance(layer, ContinuousBlock)]
    if not found:
        raise ValueError(
            f"Received {model.name!r}, which has no ContinuousBlock; expected a model with one."
        )
    return found


def has_blocks(model) -> bool:
    """Whether there is one."""
    return any(isinstance(layer, ContinuousBlock) for layer in _keras.layers_of(model))


def arguments(block) -> dict:
    """Those of `change_depth` that make it what it is."""
    found = {name: getattr(block, name) for name in ("steps", "scheme", "num_basis")}
    return {**found, "basis": block.basis.name}


def refinement(block):
    """The arguments of `change_depth` that refine a block."""
    return {"steps": 2 * block.steps, "num_basis": block.basis.refined(block.num_basis)}


def _given(**arguments):
    given = {name: value for name, value in arguments.items() if value is not None}
    if not given:
        raise ValueError(f"Received none of {list(arguments)}; expected at least one.")
    return given


def changed(model, changes):
    """A copy, not compiled, whose blocks have other arguments: a function of the block."""
    blocks(model)
    if not model.built:
        raise ValueError(f"Received {model.name!r}, which is not built; call it on a batch first.")
    try:
        config = keras.saving.serialize_keras_object(model)
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"Received {model.name!r}, which cannot be copied: a layer in it has no configuration. "
            f"Give it a get_config. ({str(error).splitlines()[0]})"
        ) from error
    config.pop("compile_config", None)
    rates = [rate.template.layer for block in blocks(model) for rate in block.rates]
    try:
        copy = keras.saving.deserialize_keras_object(
            config, custom_objects=_keras.own_objects(model, *rates)
        )
    except TypeError as error:
        raise ValueError(
            f"Received {model.name!r} with a layer that its own configuration does not make: its "
            "`__init__` has to take all that `get_config` gives, by **kwargs those of Keras (name, "
            f"dtype, trainable). ({str(error).splitlines()[-1]})"
        ) from error
    if len(copy.weights) != len(model.weights):
        raise ValueError(
            f"Received {model.name!r} with a layer that several nested models share, which Keras "
            "copies for each of them; expected such a layer in one model only."
        )
    _keras.set_weights(copy, model.get_weights())
    # From the whole to its parts, since each passes it on.
    for old, new in zip(_keras.layers_of(model), _keras.layers_of(copy), strict=True):
        if new.trainable != old.trainable or not old.trainable:
            new.trainable = old.trainable
    for block in blocks(copy):
        block.change_depth(**changes(block))
    return copy


def _trained(model):
    return model.trainable_variables


def _compiled(model, changes):
    """The same, compiled as the model is; its optimizer reads the new weights."""
    copy = changed(model, changes)
    if getattr(model, "compiled", False):
        try:
            copy.compile_from_config(model.get_compile_config())
            state.carry_exclusions(model.optimizer, copy.optimizer, *map(_trained, (model, copy)))
        except (TypeError, ValueError) as error:
            warnings.warn(
                f"The new model is not compiled, since something that {model.name!r} was compiled "
                f"with cannot be made again: {error}. Compile it, or give what is your own a name "
                "by keras.saving.register_keras_serializable.",
                stacklevel=3,
            )
    return copy
