import contextlib
import inspect

import keras
import numpy as np
from keras import ops

from keras_pde import _keras
from keras_pde.layers.continuous import bases


class StackedRate(keras.layers.Layer):
    """A layer whose weights depend on depth: K coefficients for each, in a depth basis.

    The layer is a template: it is built once, its own variables are never used, and each evaluation
    runs it with the values that the coefficients give at that depth. What is not trained but kept,
    such as the moving statistics of a batch normalization, is piecewise constant in depth, with one
    value an element. Each value becomes the mean of what the stages in its element leave behind;
    elements that no stage visits keep theirs.

    Args:
        rate: a Keras layer or Sequential that keeps the shape of its input. Its configuration is
            used, not its weights.
        basis: a `bases.Basis`.
        count: number of coefficients K.
        initial: `"fresh"` draws each coefficient, `"rate"` takes the weights of the rate for all.
    """

    def __init__(self, rate, basis, count, initial="fresh", **kwargs):
        super().__init__(**kwargs)
        self.initial = initial
        self.template = _Template(rate)
        self.basis, self.count = basis, count

    def build(self, input_shape):
        self.shape = tuple(input_shape)
        pieces = self._pieces(input_shape)
        template = self.template
        template.layer = pieces[0]
        template.layer.supports_masking = True  # which the block takes care of
        template.trained = list(pieces[0].trainable_variables)
        others = pieces[0].non_trainable_variables
        template.kept = [v for v in others if not _is_seed(v)]
        if any("int" in v.dtype for v in template.kept):
            raise ValueError(
                f"Received rate {template.layer.name!r} with a state of integers, of which there "
                "is no mean over depth; expected states of floats, such as moving averages."
            )
        template.seeds = [v for v in others if _is_seed(v)]
        mix = self._from_pieces()
        drawn = zip(*(piece.trainable_variables for piece in pieces), strict=True)
        stacks = [_mixed(mix, np.stack([numpy_of(v) for v in draws])) for draws in drawn]
        elements = self.basis.elements(self.count)
        self._create(stacks, [np.stack([numpy_of(v)] * elements) for v in template.kept])

    def _create(self, stacks, cells):
        """The variables, with these values."""
        template = self.template
        self.stacks = [
            self._add(v, values, True) for v, values in zip(template.trained, stacks, strict=True)
        ]
        self.cells = [
            self._add(v, values, False) for v, values in zip(template.kept, cells, strict=True)
        ]

    def transfer(self, basis, count):
        """Replaces the variables by those of the L2 projection onto another basis, in place."""
        constant = bases.get("constant")
        before, after = self.basis.elements(self.count), basis.elements(count)
        matrix = bases.transfer(self.basis, self.count, basis, count)
        # Means over the new elements: variances stay positive.
        means = bases.transfer(constant, before, constant, after)
        stacks = [_mixed(matrix, numpy_of(stack)) for stack in self.stacks]
        cells = [_mixed(means, numpy_of(cell)) for cell in self.cells]
        trainable = self.trainable
        with _keras.replacing_variables(self, [*self.stacks, *self.cells]):
            self.basis, self.count = basis, count
            self._create(stacks, cells)
        self.trainable = trainable

    def _pieces(self, input_shape):
        """The rate with the weights of each coefficient."""
        rate = self.template.layer
        try:
            config = unshared(configuration(rate))
            pieces = [self._copy(config, k) for k in range(self.count)]
        except (NotImplementedError, TypeError):  # of layers without a configuration
            pieces, alone = [rate], True
        else:
            alone = self.initial == "rate"
        for piece in pieces:
            self._call_once(piece, input_shape)
        if self.initial == "rate" and pieces[0] is not rate:
            self._call_once(rate, input_shape)
            for ours, theirs in zip(pieces[0].weights, rate.weights, strict=True):
                values = numpy_of(theirs)
                with _outside_of_graphs():
                    ours.assign(values)
        return pieces[:1] * self.count if alone else pieces

    def _copy(self, config, k):
        objects = _keras.own_objects(self.template.layer)
        return keras.saving.deserialize_keras_object(_reseeded(config, k), custom_objects=objects)

    def _call_once(self, piece, input_shape):
        """Builds a copy of the rate by a symbolic call, which creates every variable."""
        with _outside_of_graphs():
            build_by_state(piece, (None, *input_shape[1:]))
            image = keras.KerasTensor((None, *input_shape[1:]), dtype=self.compute_dtype)
            time = [keras.KerasTensor((), dtype=self.compute_dtype)] * takes_time(piece)
            shape = tuple(piece(*time, image).shape)
        if shape[1:] != tuple(input_shape[1:]):
            raise ValueError(
                f"Received rate {piece.name!r}, which maps {tuple(input_shape[1:])} to "
                f"{shape[1:]}; expected a layer that keeps the shape, since its output is added "
                "to its input."
            )

    def _from_pieces(self):
        if self.basis.nodal:
            return np.eye(self.count)
        # Coefficients of modes are no weights: project a piecewise constant theta.
        constant = bases.get("constant")
        return bases.transfer(constant, self.count, self.basis, self.count)

    def _add(self, variable, values, trainable):
        name = variable.path.split("/", 1)[-1].replace("/", "_")
        extra = {"aggregation": "mean"}
        if trainable:
            extra = {
                "regularizer": variable.regularizer and self._integrated(variable.regularizer),
                "constraint": variable.constraint and self._for_each(variable.constraint),
            }
        return self.add_weight(
            name=name,
            shape=values.shape,
            dtype=variable.dtype,
            initializer=lambda shape, dtype: ops.convert_to_tensor(values, dtype=dtype),
            trainable=trainable,
            autocast=False,
            **extra,
        )

    def _integrated(self, regularizer):
        """A penalty of one layer as its integral over depth, which no refinement changes."""
        return _Integrated(regularizer, *bases.quadrature(self.basis, self.count))

    def _for_each(self, constraint):
        if not self.basis.nodal:
            raise ValueError(
                f"Received a rate with the constraint {constraint!r} and basis="
                f"{self.basis.name!r}, whose coefficients are no weights; expected no constraint, "
                "or a basis such as 'hat'."
            )
        return _ForEach(constraint)

    def evaluate(self, x, row, cell, stacks, cells, seeds, training, mask=None, t=None):
        """The rate at one depth.

        Args:
            x: `(batch, ...)`.
            row: `(K,)` values of the basis.
            cell: `(elements,)`, one at the element and zeros elsewhere.
            stacks, cells: the coefficients of the weights, and of what is kept.
            seeds: one state a random generator.
            mask, t: of the input, and the time; passed on to a rate that takes them.
            training: passed on; not left to Keras' context of the call, which is gone when a step
                runs again for the gradient.

        Returns:
            `(slope, kept, losses)`: the second as the evaluation left it.
        """
        template = self.template
        mapping = [
            *zip(template.trained, [_combined(row, s) for s in stacks], strict=True),
            *zip(template.kept, [_combined(cell, c) for c in cells], strict=True),
            *zip(template.seeds, seeds, strict=True),
        ]
        time = [ops.cast(t, x.dtype)] if takes_time(template.layer) else []
        masked = {} if mask is None or not takes_mask(template.layer) else {"mask": mask}
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            slope = template.layer(*time, x, training=training, **masked)
        return slope, [scope.get_current_value(v) for v in template.kept], scope.losses or []

    @property
    def seed_count(self):
        return len(self.template.seeds)


def takes_time(layer):
    """Whether its `call` is one of time and state: (t, y) or (time, ...)."""
    names = list(inspect.signature(layer.call).parameters)
    return len(names) > 1 and names[0] in ("t", "time") and names[1] not in ("training", "mask")


def build_by_state(layer, shape):
    """Builds a rate of time and state whose `build` takes one shape: Keras gives it the time's."""
    own = type(layer).build is not keras.layers.Layer.build
    of_one = own and len(inspect.signature(layer.build).parameters) == 1
    if of_one and not layer.built and takes_time(layer):
        layer.build(shape)
        layer.built = True


def takes_mask(layer):
    return "mask" in inspect.signature(layer.call).parameters


class _Template:
    """Holds a layer so that Keras neither tracks nor saves its variables, which no one uses."""

    def __init__(self, layer):
        self.layer = layer
        self.trained, self.kept, self.seeds = [], [], []


class _Integrated(keras.regularizers.Regularizer):
    """The integral over depth of another penalty."""

    def __init__(self, regularizer, rows, weights):
        self.regularizer, self.rows, self.weights = regularizer, rows, weights.tolist()

    def __call__(self, stack):
        stack = ops.unstack(ops.convert_to_tensor(stack))
        return sum(
            w * self.regularizer(_combined(row, stack))
            for row, w in zip(self.rows, self.weights, strict=True)
        )


class _ForEach(keras.constraints.Constraint):
    """Another constraint for each coefficient."""

    def __init__(self, constraint):
        self.constraint = constraint

    def __call__(self, stack):
        return ops.stack([self.constraint(theta) for theta in stack])


def _combined(row, stack):
    """sum_k row_k stack_k; a row of NumPy with a single one picks."""
    if isinstance(row, np.ndarray):
        terms = [float(r) * s if r != 1 else s for r, s in zip(row, stack, strict=True) if r]
        return sum(terms[1:], terms[0])
    return ops.tensordot(ops.cast(row, stack.dtype), stack, axes=1)


def _mixed(matrix, stack):
    return np.tensordot(matrix, stack, axes=1)


def _is_seed(variable):
    return "int" in variable.dtype and tuple(variable.shape) == (2,) and "seed" in variable.path


def numpy_of(variable):
    """A variable's values, also while a graph is built."""
    with _outside_of_graphs():
        return ops.convert_to_numpy(variable.value)


def _outside_of_graphs():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    if keras.backend.backend() == "jax":
        import jax

        return jax.ensure_compile_time_eval()
    return contextlib.nullcontext()


def configuration(layer):
    """As serialized, but not built: inner layers would count as built, without weights."""
    return _without({"build_config"}, keras.saving.serialize_keras_object(layer))


def unshared(config):
    """A configuration whose objects are its own.

    While Keras loads a file, it marks objects of one id() as one object, also where the first is
    gone by now: what is made of the configuration would be another layer's.
    """
    return _without({"shared_object_id"}, config)


def _without(names, config):
    if isinstance(config, dict):
        return {k: _without(names, value) for k, value in config.items() if k not in names}
    return [_without(names, item) for item in config] if isinstance(config, list) else config


def _reseeded(config, k):
    """A configuration whose initializers draw other numbers than those of piece 0."""
    if isinstance(config, dict):
        config = {key: _reseeded(value, k) for key, value in config.items()}
        if (
            config.get("module") == "keras.initializers"
            and config["config"].get("seed") is not None
        ):
            config["config"]["seed"] += 7919 * k
        return config
    return [_reseeded(item, k) for item in config] if isinstance(config, list) else config
