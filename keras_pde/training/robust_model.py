import contextlib

import keras
import numpy as np
from keras import ops

from keras_pde import _keras, replicas
from keras_pde.attacks import differentiable
from keras_pde.attacks.batches import check_stateless
from keras_pde.attacks.perturbed import Perturbed
from keras_pde.checks import check_images, check_number, check_seed, class_labels, optional
from keras_pde.objectives.objective import compose
from keras_pde.training import averaging, heads, lagging, second_derivatives, supported
from keras_pde.training.objective_loss import ObjectiveLoss, check_single, per_example

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

    Works with Functional, Sequential and subclassed models of one output, any Keras
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
        at: name of a layer whose output is perturbed and penalised in place of the input, such as a
            text's embedding. The objective's `bounds` are then those of that output, mostly `None`.
        perturb: which input is perturbed and penalised, of several: its key, name or number.

    Raises:
        ValueError: not a Keras model, an unknown objective; in `compile`, a loss that does not fit
            the model's head; in `fit`, images outside the objective's bounds, NaN, labels out of
            range, or an option that Keras cannot do under a distribution strategy.

    Example:

    >>> robust = kp.RobustModel(model, kp.objectives.Adversarial("l2", epsilon=0.1))
    >>> robust.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> robust.fit(x_train, y_train, epochs=5)
    >>> robust.model.save("robust.keras")

    The output of an embedding (Miyato, Dai and Goodfellow, 2017, arXiv 1605.07725):

    >>> text = keras.Sequential([
    ...     keras.Input((20,), dtype="int32"), keras.layers.Embedding(1000, 16, name="embedding"),
    ...     keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)])
    >>> objective = kp.objectives.Adversarial("l2", epsilon=0.1, bounds=None)
    >>> robust = kp.RobustModel(text, objective, at="embedding")
    """

    def __init__(
        self,
        model,
        objective,
        seed=0,
        average=None,
        at=None,
        perturb=None,
        name=None,
        **kwargs,
    ):
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"Received model of type {type(model).__name__}; expected a `keras.Model`."
            )
        for what in ("inputs", "outputs") if at is None and perturb is None else ("outputs",):
            count = len(getattr(model, what, None) or [None])
            if count != 1:
                fix = "; of several inputs, name one by perturb=..." if what == "inputs" else ""
                raise ValueError(
                    f"Received a model with {count} {what}; expected one input and one output, "
                    f"which perturbations and input gradients are about{fix}."
                )
        perturbed = Perturbed(model, at, perturb)
        average = optional(check_number, average, "average", above=0, below=1)
        seed = check_seed(seed)
        kwargs.setdefault("dtype", model.dtype_policy)
        super().__init__(name=name, **kwargs)
        self.model = model
        self.built = model.built
        self.objective = compose(objective)
        if self._perturbs():
            check_stateless(model)
        self.seed = seed
        self.average = average
        self.averaged = None if average is None else averaging.twin(model)
        self.at, self.perturb = perturbed.at, perturb
        self.objective_loss = ObjectiveLoss(perturbed, self.objective, seed)
        # Keras finds metrics in attributes.
        self.term_trackers = [*self.objective_loss.trackers, self.objective_loss.outside]
        self._evaluating = self._looked = False

    # The plain model's behaviour

    @property
    def result(self):
        """The model to keep: the averaged one if there is one, else the trained one."""
        return self.averaged or self.model

    @property
    def perturbed(self) -> Perturbed:
        """What is perturbed of the model to keep, as attacks take it."""
        return self.objective_loss.perturbed.of(self.result)

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

    def export(self, *args, **kwargs):
        """Exports the model to keep, as `keras.Model.export` does."""
        return self.result.export(*args, **kwargs)

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
            "at": self.at,
            "perturb": self.perturb,
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
        self._check_metrics(kwargs.get("metrics"), kwargs.get("weighted_metrics"))
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        self.objective_loss.example_loss = per_example(loss)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)  # a file's state goes there

    def fit(self, x=None, y=None, *args, **kwargs):
        self._check_data(x, y)
        self._check_distribution()
        self._check_differentiable(x)
        history = super().fit(x, y, *args, **kwargs)
        if replicas.count() == 1:
            lagging.warn(self.perturbed, self.objective_loss.example_loss, x, y)
        return history

    def train_on_batch(self, x, y=None, *args, **kwargs):
        self._check_data(x, y)
        self._check_differentiable(x)
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
        results = self.objective_loss.checked(super().get_metrics_result())
        if self._evaluating:
            results = {k: v for k, v in results.items() if k not in self.objective.names}
        return results

    # Early refusals

    def _check_metrics(self, *metrics):
        """Refuses metrics that would be logged under the name of a term."""
        taken = {*self.objective.names, self.objective_loss.outside.name}
        for metric in keras.tree.flatten(metrics):
            name = metric if isinstance(metric, str) else heads.name_of(metric)
            if name in taken:
                raise ValueError(
                    f"Received a metric named {name!r}, under which the objective logs a term; "
                    "expected another name, as in keras.metrics.SparseCategoricalAccuracy"
                    "(name='my_accuracy')."
                )

    def _check_data(self, x, y):
        perturbed = self.objective_loss.perturbed
        if perturbed.is_plain and x is not None:
            check_single(x, "x")
        arrays = keras.tree.flatten(x)
        if not all(hasattr(array, "__array__") for array in arrays):
            return  # generators and datasets are consumed by looking at them
        if perturbed.at is None:
            images = ops.convert_to_numpy(perturbed.chosen(x))
            check_images(images, self.objective.image_range, "x")
        check_single(y, "y")
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
            class_labels(y, outputs[-1], len(arrays[0]))

    def _perturbs(self):
        """Whether the objective needs an input gradient."""
        return bool(self.objective.data.perturbs or self.objective.penalties)

    def _check_differentiable(self, x):
        """Refuses, once, a model without an input gradient, for an objective that needs it."""
        if self._looked or not self._perturbs():
            return
        inputs = differentiable.few(x, self.objective.image_range)
        if inputs is None:
            return
        if not self.built:
            self(inputs, training=False)  # creates the weights, as the first step would
        perturbed = self.objective_loss.perturbed
        tensors = keras.tree.map_structure(ops.convert_to_tensor, inputs)
        images = ops.convert_to_numpy(perturbed.start(tensors, training=False))
        images = images.astype(keras.config.floatx())
        if not np.isfinite(images).all():
            return  # others say what is wrong
        self._looked = True
        context = () if perturbed.is_plain else (inputs,)
        for training in (False, True) if _keras.has_random_layers(self.model) else (False,):
            slope = differentiable.slope_of(perturbed, training)
            differentiable.check(perturbed, slope, images, context, may_saturate=True)
        if any(penalty.differentiates_twice for penalty in self.objective.penalties):
            second_derivatives.check(perturbed, images, *([tensors] if context else []))

    def _check_distribution(self):
        if _BACKEND != "tensorflow" or self.distribute_strategy.num_replicas_in_sync == 1:
            return
        if not self.compiled:
            return  # Keras says so
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)  # of loss scaling
        supported.check_supported(optimizer, self.model)
