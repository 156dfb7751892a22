import keras
import numpy as np

from keras_pde.attacks import PGD, Attack, Target
from keras_pde.checks import check_images
from keras_pde.data.examples import arrays


class RobustValidation(keras.callbacks.Callback):
    """Attacks held-out images after each epoch and logs `val_robust_accuracy`.

    That number is what checkpoints, early stopping and Keras Tuner should go by: in adversarial
    training it peaks long before the clean accuracy does (robust overfitting: Rice, Wong and
    Kolter, 2020, arXiv 2002.11569), and single-step training can lose all of it within an epoch.
    Put it before the callbacks that read it. Under `kp.RobustModel` the model to keep is attacked,
    the averaged one if weights are averaged. `val_clean_accuracy` is of the same images without the
    attack; `val_accuracy` of `fit` may be of more.

    Args:
        x: images `(n, ...)` that no training step sees, in the attack's bounds.
        y: integer labels `(n,)`.
        attack: an attack of `kp.attacks` with an epsilon; default `PGD("linf", 8 / 255, steps=10)`.
        every: epochs between two attacks. The last epoch is always attacked; on others the log has
            the last value.
        batch_size: images attacked at a time.
        name: of the logged number; with "clean" for "robust", or at its end, of the other one.
        at, perturb, output: what is perturbed, as in the call of an attack; under `kp.RobustModel`
            what that perturbs.
        success: when an attack has succeeded, as in `keras_pde.evaluate`.

    Raises:
        ValueError: `attack` is not one or has no epsilon, `every` is less than 1, or the images or
            labels are unfit.

    Example:

    >>> attack = kp.attacks.PGD("linf", epsilon=0.1, steps=10)
    >>> robust = kp.callbacks.RobustValidation(x_held_out, y_held_out, attack)
    >>> best = keras.callbacks.ModelCheckpoint(
    ...     "best.weights.h5", "val_robust_accuracy", mode="max", save_best_only=True,
    ...     save_weights_only=True)
    >>> model.fit(x, y, epochs=20, callbacks=[robust, best])
    """

    def __init__(
        self,
        x,
        y,
        attack=None,
        every=1,
        batch_size=128,
        name="val_robust_accuracy",
        at=None,
        perturb=None,
        output=None,
        success=None,
    ):
        super().__init__()
        attack = PGD("linf", epsilon=8 / 255, steps=10) if attack is None else attack
        if not isinstance(attack, Attack):
            raise ValueError(
                f"Received attack={attack!r}; expected an attack of `keras_pde.attacks`, such as "
                "PGD('linf', epsilon=0.1, steps=10)."
            )
        if attack.epsilon is None:
            raise ValueError(
                f"Received the attack {attack!r}, which has no epsilon at which to be robust; "
                "expected one that has, such as PGD."
            )
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"Received every={every!r}; expected at least 1, an integer.")
        x = arrays(x)
        if hasattr(x, "shape") and at is None:
            check_images(x, attack.bounds, "x")
        count = len(keras.tree.flatten(x)[0])
        if count != len(y):
            raise ValueError(f"Received {len(y)} labels for {count} images; expected as many.")
        self.x, self.y, self.attack = x, y, attack
        self.every, self.batch_size, self.name = every, batch_size, name
        self.which = {"at": at, "perturb": perturb, "output": output}
        self.success = success
        self.last = self.clean = None
        self._target = None

    def __deepcopy__(self, memo):
        # Keras Tuner copies callbacks for each trial; compiled attacks belong to one model.
        settings = (self.attack, self.every, self.batch_size, self.name)
        return RobustValidation(self.x, self.y, *settings, **self.which, success=self.success)

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        if last or self.last is None or (epoch + 1) % self.every == 0:
            self.last, self.clean = self.measure(), self._clean_accuracy()
        if logs is not None:
            logs[self.name] = self.last
            if self.clean is not None:
                logs[self.clean_name] = self.clean

    @property
    def clean_name(self) -> str:
        """Under which the accuracy without an attack is logged."""
        clean = self.name.replace("robust", "clean")
        return clean if clean != self.name else f"{self.name}_clean"

    def _clean_accuracy(self):
        images, context = self.target.parts(self.x, self.batch_size)
        outputs = self.target.outputs(images, context, self.batch_size)
        labels = self.target.labels(self.y, len(images))
        return float(np.mean(~self.target.success.wrong(outputs, labels)))

    def measure(self, y=None) -> float:
        """Share of the images that are classified correctly and stay so under the attack.

        Args:
            y: integer labels `(n,)` to use in place of the callback's.
        """
        y = self.y if y is None else y
        result = self.attack(self.target, self.x, y, batch_size=self.batch_size)
        return float(result.robust_accuracy)

    @property
    def target(self) -> Target:
        """The model as the attack sees it; what is compiled for one epoch serves all."""
        model = getattr(self.model, "result", self.model)
        if self._target is None or self._target.model is not model:
            trained = getattr(self.model, "perturbed", None)  # of a `RobustModel`
            which = self.which if trained is None or any(self.which.values()) else trained.which
            self._target = Target(model, self.x, **which, success=self.success)
        return self._target
