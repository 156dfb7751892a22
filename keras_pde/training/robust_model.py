import contextlib

import keras
from keras import ops

from keras_pde import _keras
from keras_pde.checks import check_images, class_labels
from keras_pde.compiled import known
from keras_pde.training import averaging, heads, image_range, replicas
from keras_pde.training.objective import compose
from keras_pde.training.step import Step

_BACKEND = keras.backend.backend()

if _BACKEND == "tensorflow":
    from keras_pde.training.tensorflow_hook import Hook
elif _BACKEND == "jax":
    from keras_pde.training.jax_hook import Hook
else:

    class Hook:
        """Refuses to train on other backends."""

        def compile(self, *args, **kwargs):
            raise ValueError(
                f"Received the Keras backend {_BACKEND!r}; `RobustModel` trains on TensorFlow and "
                "JAX. Attacks, evaluation and `load_model` work here: train elsewhere, load here."
            )


@keras.saving.register_keras_serializable(package="keras_pde")
class RobustModel(Hook, keras.Model):
    """Trains a Keras model with a robust objective, through `compile` and `fit`.

    Training minimises the objective's data term (the compiled loss at clean or perturbed images)
    plus its penalties. Everything else is the plain model's: `evaluate`, `predict` and all `val_*`
    run the model on clean data with the compiled loss, weights files are the model's own, and
    `.model` gives it back (weights are shared). `loss` is the total; each term is a metric as well.
    Compiled metrics see the predictions of the pass that trains, so they are robust accuracies of a
    kind when the data term is adversarial.

    Works with Functional, Sequential and subclassed models of one input and one output, any Keras
    loss, class and sample weights, mixed precision, `steps_per_execution`, and on TensorFlow under
    `tf.distribute.MirroredStrategy`. Activity and weight regularisers count as usual.

    A `.keras` file of the wrapper needs `import keras_pde` when it is loaded; publish `.model`.

    Args:
        model: the Keras model to train, with images in [0, 1] (any normalisation inside).
        objective: a term or a sum of terms from `keras_pde.objectives`.
        seed: integer; noise is a function of (seed, training step, example).
        average: decay in (0, 1), such as 0.999, of an exponential moving average of the weights and
            of BatchNormalization's statistics over training steps; `None` for none. The average is
            a model too, `.averaged`; `evaluate`, `predict` and all `val_*` are then about it, and
            `fit` trains `.model` as before. The decay grows to its value as (1 + t) / (10 + t).
            Weights files of the wrapper then hold both networks, and `.averaged.save_weights`
            writes one for the plain model.

    Raises:
        ValueError: not a Keras model, an unknown objective; in `compile`, a loss that does not fit
            the model's head; in `fit`, images outside the objective's bounds, NaN, labels out of
            range, or an option that Keras cannot do under a distribution strategy.

    Example:

    >>> robust = kp.RobustModel(model, kp.objectives.Adversarial("l2", epsilon=0.1))
    >>> robust.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> robust.fit(x_train, y_train, epochs=5)
    >>> robust.model.save("robust.keras")
    """

    def __init__(self, model, objective, seed=0, average=None, name=None, **kwargs):
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"Received model of type {type(model).__name__}; expected a `keras.Model`."
            )
        for what in ("inputs", "outputs"):
            count = len(getattr(model, what, None) or [None])
            if count != 1:
                raise ValueError(
                    f"Received a model with {count} {what}; expected one input and one output, "
                    "which perturbations and input gradients are about."
                )
        if average is not None and not 0 < average < 1:
            raise ValueError(f"Received average={average!r}; expected a decay in (0, 1), or None.")
        kwargs.setdefault("dtype", model.dtype_policy)
        super().__init__(name=name, **kwargs)
        self.model = model
        self.built = model.built
        self.objective = compose(objective)
        self.seed = seed
        self.average = average
        self.averaged = None if average is None else averaging.twin(model)
        self.term_trackers = [keras.metrics.Mean(name=n) for n in self.objective.names]
        self._outside_tracker = keras.metrics.Mean(name="outside")  # share of steps out of range
        self._evaluating = False

    # The plain model's behaviour

    @property
    def result(self):
        """The model to keep: the averaged one if there is one, else the trained one."""
        return self.averaged or self.model

    def call(self, inputs, training=None):
        return (self.model if training else self.result)(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return self.model.compute_output_shape(input_shape)

    def save_weights(self, filepath, *args, **kwargs):
        if self.averaged:
            return super().save_weights(filepath, *args, **kwargs)  # both networks
        with self._lent_optimizer():
            return self.model.save_weights(filepath, *args, **kwargs)

    def load_weights(self, filepath, *args, **kwargs):
        if self.averaged:
            return super().load_weights(filepath, *args, **kwargs)
        with self._lent_optimizer():
            return self.model.load_weights(filepath, *args, **kwargs)

    @contextlib.contextmanager
    def _lent_optimizer(self):
        """Within it the model has the optimizer: weights files hold its state, as usual in Keras.

        `BackupAndRestore` resumes from such a file. The model's own compilation is not touched.
        """
        own = getattr(self.model, "optimizer", None)
        lent = getattr(self, "optimizer", None)
        object.__setattr__(self.model, "optimizer", lent)  # without Keras' tracking
        try:
            yield
        finally:
            object.__setattr__(self.model, "optimizer", own)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "model": serialize(self.model),
            "objective": serialize(self.objective),
            "seed": self.seed,
            "average": self.average,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("model", "objective"):
            config[key] = keras.saving.deserialize_keras_object(
                config[key], custom_objects=custom_objects
            )
        return cls(**config)

    # Training

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        heads.check_loss(self.model, loss)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        self._example_loss = _per_example(loss)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)  # a file's state goes there

    def fit(self, x=None, y=None, *args, **kwargs):
        self._check_data(x, y)
        self._check_distribution()
        return super().fit(x, y, *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        self._check_data(x, y)
        return super().train_on_batch(x, y, *args, **kwargs)

    def evaluate(self, *args, **kwargs):
        with self._plain_metrics():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args, **kwargs):
        with self._plain_metrics():
            return super().test_on_batch(*args, **kwargs)

    @contextlib.contextmanager
    def _plain_metrics(self):
        """Within it the objective's terms are no metrics: they have no values to show."""
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False

    def get_metrics_result(self):
        results = super().get_metrics_result()
        outside = known(results.pop(self._outside_tracker.name))
        if outside is not None and outside > 0:
            raise ValueError(image_range.message(self.objective.image_range))
        if self._evaluating:
            results = {k: v for k, v in results.items() if k not in self.objective.names}
        return results

    def _step(self, trainable, non_trainable, x, y, sample_weight, iteration) -> Step:
        x, y = _tensor(x, "x"), _tensor(y, "y")
        if not keras.backend.is_float_dtype(x.dtype):
            x = ops.cast(x, keras.config.floatx())
        loss = self._example_loss
        return Step(
            self.model, loss, trainable, non_trainable, x, y, sample_weight, self.seed, iteration
        )

    def _objective_loss(self, x, y, sample_weight, step):
        """Runs the objective; the total loss (scaled for replicas) and the main pass.

        Term trackers are updated on the way.
        """
        outside = image_range.outside(step.x, self.objective.image_range)
        step.x = self._unless(outside, step.x)
        self._outside_tracker.update_state(outside)
        penalties = self.objective(step)
        main = step.main
        # The trainer's own loss, with the regularisers of the main pass (Keras' JAX trainer hands
        # them over in the same way).
        with _keras.regularisers(self, main.extra_losses):
            loss = self.compute_loss(x, y, main.outputs, sample_weight, training=True)
        # The data term is what the compiled loss made of it: its weights and its reduction.
        extra = sum(_keras.as_added(self, value) for value in main.extra_losses)
        data = (loss - extra) * replicas.count()
        for tracker, value in zip(self.term_trackers, [data, *penalties], strict=True):
            tracker.update_state(value, sample_weight=step.batch_size())
        for penalty in penalties:
            loss = loss + ops.cast(penalty, loss.dtype) / replicas.count()
        return loss, main

    def _averages(self):
        return averaging.pairs(self.averaged, self.model) if self.averaged else []

    # Early refusals

    def _check_data(self, x, y):
        if x is not None:
            _check_single(x, "x")
        if not hasattr(x, "__array__"):
            return  # generators and datasets are consumed by looking at them
        check_images(ops.convert_to_numpy(x), self.objective.image_range, "x")
        _check_single(y, "y")
        outputs = getattr(self.model, "output_shape", None)
        loss = heads.loss_name(self.loss).lower().replace("_", "")
        # Other losses take soft labels, and outputs of higher rank a label for each position.
        one_label = "sparsecategorical" in loss and outputs and len(outputs) == 2
        if one_label and len(y.shape) == 2 and y.shape[1] > 1:
            raise ValueError(
                f"Received labels of shape {tuple(y.shape)} for {heads.loss_name(self.loss)}, "
                "which takes class numbers; pass `y.argmax(axis=1)`, or use "
                "keras.losses.CategoricalCrossentropy for one-hot labels."
            )
        if one_label and getattr(self.loss, "ignore_class", None) is None:
            class_labels(y, outputs[-1], len(x))

    def _check_distribution(self):
        if _BACKEND != "tensorflow" or self.distribute_strategy.num_replicas_in_sync == 1:
            return
        if not self.compiled:
            return  # Keras says so
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)  # of loss scaling
        replicas.check_supported(optimizer, self.model)


def _check_single(value, what):
    if value is None or isinstance(value, dict | list | tuple):
        received = "None" if value is None else f"a {type(value).__name__}"
        raise ValueError(
            f"Received {what} as {received}; `RobustModel` needs one tensor, since perturbations "
            "and input gradients are about one input and one output."
        )


def _tensor(value, what):
    _check_single(value, what)
    return ops.convert_to_tensor(value)


def _per_example(loss):
    """`(y, outputs) -> (batch,)` from anything that `compile` takes as a loss."""
    if loss is None or isinstance(loss, dict | list | tuple):
        raise ValueError(f"Received loss={loss!r}; expected one loss, for one output.")
    loss = keras.losses.get(loss)
    call = loss.call if isinstance(loss, keras.losses.Loss) else loss
    dtype = getattr(loss, "dtype", keras.config.floatx())

    def losses(y, outputs):
        y, outputs = ops.cast(y, dtype), ops.cast(outputs, dtype)
        if len(y.shape) == len(outputs.shape) - 1 and outputs.shape[-1] == 1:
            y = ops.expand_dims(y, -1)  # (batch,) against (batch, 1) would broadcast to a square
        values = call(y, outputs)
        if len(values.shape) == 0:
            raise ValueError(
                f"Received a loss function ({loss}) that returns one number for the whole batch; "
                "expected one for each example: do not average over the batch."
            )
        return ops.mean(ops.reshape(values, (ops.shape(outputs)[0], -1)), axis=1)

    return losses
