"""The parts of a training, made from a recipe."""

import contextlib
import inspect

import keras

from keras_pde import _keras, graph, hub, models, registry
from keras_pde import data as datasets
from keras_pde.attacks import Target
from keras_pde.files import sha256
from keras_pde.hub.folder import WEIGHTS
from keras_pde.hub.index import published
from keras_pde.hub.load import keras_file, load_keras_file
from keras_pde.objectives.objective import compose
from keras_pde.optimizers import LossScaleOptimizer
from keras_pde.recipes import schedules
from keras_pde.recipes.augment import Augment
from keras_pde.recipes.batches import Batches
from keras_pde.recipes.devices import ONE_DEVICE, Devices
from keras_pde.recipes.recipe import Recipe
from keras_pde.recipes.tables import Part
from keras_pde.threat import Threat
from keras_pde.training import RobustModel, supported

INNER = "inner_optimizer"


def check(recipe: Recipe, devices: Devices = ONE_DEVICE) -> None:
    """Builds what needs no data, so that a mistake shows before hours of training.

    Args:
        recipe: a `Recipe`.
        devices: those of the training, as `devices.find` returns them.

    Raises:
        ValueError: an unknown component or argument, a value that its component refuses, a
            recipe for another backend, or an option that Keras cannot do on several devices.
    """
    wanted, backend = recipe.training.backend, keras.backend.backend()
    if wanted and wanted != backend:
        raise ValueError(
            f"Received a recipe for the Keras backend {wanted!r}; this is {backend!r}. Set "
            f"KERAS_BACKEND={wanted}, or training.backend in the recipe."
        )
    _check_model(recipe)
    objective(recipe)
    made = optimizer(recipe, steps=100)
    if backend == "tensorflow" and devices.count > 1:
        supported.check_optimizer(made)
    for evaluation in recipe.evaluation:
        attacks(evaluation)


def _check_model(recipe):
    part = recipe.model
    if "from" in part.arguments:
        place = _place(recipe, str(part.arguments["from"]))
        own = is_keras_file(place)
        if not own:
            own = hub.load_card(place).architecture == models.FROM_CONFIG
        if own and recipe.training.precision != "float32":
            raise ValueError(
                f"Received precision = {recipe.training.precision!r} for a network of one's own; "
                "expected float32: what its layers compute in is said by themselves."
            )
        others = [name for name in ("name", *part.arguments) if name != "from"]
        if part.name or len(others) > 1:
            raise ValueError(
                f"Received [model] with from and {others}; expected from alone: the architecture "
                "and its arguments are those of that model."
            )
        return
    known = inspect.signature(registry.get("model", part.name)).parameters
    for argument in part.arguments:
        if argument not in known:
            raise registry.unknown_name(f"argument of {part.name!r}", argument, known)


def dataset(recipe: Recipe, data_dir=None, download=False, loaded=None):
    """The data set (or another that takes its place), its training and its validation part."""
    if loaded is None:
        name = recipe.data.name
        name = name if name in datasets.NAMES else recipe.found(name)
        reading = {"layout": recipe.data.layout or None}
        reading["num_classes"] = recipe.data.num_classes or None
        loaded = datasets.load(name, recipe.data.limit or None, data_dir, download, **reading)
    return loaded, *loaded.split_validation(recipe.data.validation, seed=0)


def architecture(recipe: Recipe, loaded) -> tuple[str, dict]:
    """Name and arguments from which `models.create` makes the network, as a card states them."""
    arguments = {
        "input_shape": list(loaded.x_train.shape[1:]),
        "num_classes": len(loaded.class_names),
        "seed": recipe.training.seed,
    }
    source = recipe.model.arguments.get("from")
    if source is None:
        return recipe.model.name, {**arguments, **recipe.model.arguments}
    place = _place(recipe, source)
    if is_keras_file(place):
        return models.FROM_CONFIG, {"config": models.to_config(load_keras_file(place))}
    card = hub.load_card(place)
    if card.architecture == models.FROM_CONFIG:
        return card.architecture, card.arguments
    return card.architecture, {**card.arguments, **arguments}


def source_digest(recipe: Recipe) -> str | None:
    """SHA-256 of the weights that the network starts `from`, if it does."""
    if "from" not in recipe.model.arguments:
        return None
    place = _place(recipe, recipe.model.arguments["from"])
    if is_keras_file(place):
        return sha256(keras_file(place).read_bytes())
    return hub.load_card(place).digests.get(WEIGHTS)


def is_keras_file(place) -> bool:
    return str(place).endswith(".keras")


def _place(recipe, source):
    """Of a model to begin with: a published name, or a file or folder, maybe beside the recipe."""
    return source if source in published() else recipe.found(source)


def network(recipe: Recipe, loaded) -> keras.Model:
    """The network with its initial weights, or with those of the model it starts `from`."""
    name, arguments = architecture(recipe, loaded)
    model = models.create(name, **arguments)
    source = recipe.model.arguments.get("from")
    if source is not None:
        place = _place(recipe, source)
        load = load_keras_file if is_keras_file(place) else hub.load_model
        _inherit(model, load(place), source, loaded)
    return model


def _inherit(model, source, name, loaded):
    """Copies the weights, but for a head of another number of classes, which starts anew."""
    shapes = (None, *loaded.x_train.shape[1:]), (None, len(loaded.class_names))
    for found, wanted, what in (
        (getattr(source, "input_shape", shapes[0]), shapes[0], "examples"),
        (getattr(model, "output_shape", shapes[1]), shapes[1], "outputs"),
    ):  # a subclassed model need not know its own
        fits = [e in (None, r) for e, r in zip(found, wanted, strict=False)]  # or a dict
        if not isinstance(found, tuple) or len(found) != len(wanted) or not all(fits):
            raise ValueError(
                f"Received from = {name!r}, a model with {what} of shape {found}; expected "
                f"{wanted}, for the {len(loaded.class_names)} classes of {loaded.name!r}."
            )
    pairs = zip(model.get_weights(), source.get_weights(), strict=True)
    _keras.set_weights(model, [old if new.shape == old.shape else new for new, old in pairs])


@contextlib.contextmanager
def precision(policy):
    """Layers that are made within it compute in this dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def objective(recipe: Recipe):
    """The sum of the recipe's terms."""
    return compose(*(_component("objective", part) for part in recipe.objective))


def validation_note(recipe: Recipe) -> str | None:
    """What to know if epochs are chosen by another threat than the objective's, unasked."""
    threat = getattr(objective(recipe).data, "threat", None)
    default = Threat(recipe.validation.norm, recipe.validation.epsilon)
    stated = {"norm", "epsilon"} & recipe.values.get("validation", {}).keys()
    if (
        threat is None
        or threat == default
        or stated
        or recipe.validation.select != "val_robust_accuracy"
    ):
        return None
    return (
        f"Epochs are chosen by their robustness to {default}, the default; the objective is about "
        f"{threat}. Set norm and epsilon in [validation] for another."
    )


def attacks(evaluation):
    """The attacks of an `[[evaluation]]`, or None for the default ones."""
    made = []
    for part in evaluation.attacks:
        for key in {"norm", "epsilon", "bounds"} & part.arguments.keys():
            raise ValueError(
                f"Received {key} for the attack {part.name!r} of an evaluation; expected it beside "
                "attacks, where norm and epsilons say it for all of them; images are in [0, 1]."
            )
        made.append(
            _component("attack", Part(part.name, {"norm": evaluation.norm, **part.arguments}))
        )
    return made or None


def _component(kind, part):
    return registry.create(registry.get(kind, part.name), part.arguments, f"{kind} {part.name!r}")


def optimizer(recipe: Recipe, steps):
    """The optimizer with the learning rate of the schedule.

    Without `[schedule]` all but `"sgd"` keep their own rates.
    One around another, such as `"sam"`, has a table `inner_optimizer` with that one's name and
    arguments, to which the schedule belongs.

    Raises:
        ValueError: the optimizer, the schedule, or an argument of one is unknown.
    """

    def rate(own, steps):
        """What is known of the learning rate: arguments."""
        if own and "schedule" not in recipe.values:
            return {}
        schedule = recipe.schedule
        return {"learning_rate": schedules.create(schedule.name, schedule.arguments, steps)}

    return _optimizer(recipe.optimizer, rate, steps)


def _optimizer(part, rate, steps):
    own = {entry.name: entry.component for entry in registry.entries("optimizer")}
    of_keras = {
        name.lower(): value
        for name, value in vars(keras.optimizers).items()
        if name != "Optimizer" and "learning_rate" in _arguments(value)
    }
    known = {**own, **of_keras}
    if part.name not in known:
        raise registry.unknown_name("optimizer", part.name, known)
    arguments = dict(part.arguments)
    if "learning_rate" in arguments:
        raise ValueError("Received learning_rate in [optimizer]; it belongs to [schedule].")
    component = known[part.name]
    if INNER in _arguments(component):
        inner = _inner(arguments.pop(INNER, {"name": "sgd", "momentum": 0.9}), part.name)
        arguments[INNER] = _optimizer(inner, rate, steps // component.batches_a_step)
        return registry.create(component, arguments, f"optimizer {part.name!r}")
    scheduled = rate(part.name != "sgd", steps)
    made = registry.create(component, {**arguments, **scheduled}, f"optimizer {part.name!r}")
    schedules.make_adaptable(made, scheduled.get("learning_rate"))
    return made


def _inner(table, name):
    table = {"name": table} if isinstance(table, str) else table
    if not isinstance(table, dict) or "name" not in table:
        raise ValueError(
            f"Received inner_optimizer={table!r} for the optimizer {name!r}; expected a table "
            'with a name, such as inner_optimizer = { name = "sgd", momentum = 0.9 }.'
        )
    return Part(table["name"], {key: value for key, value in table.items() if key != "name"})


def _arguments(value):
    return inspect.signature(value).parameters if inspect.isclass(value) else {}


def robust_model(recipe: Recipe, loaded, steps) -> RobustModel:
    """The network wrapped with its objective and compiled, for a training of so many steps."""
    training = recipe.training
    keras.utils.set_random_seed(training.seed)
    with precision(training.precision):
        model = network(recipe, loaded)
    robust = RobustModel(model, objective(recipe), training.seed, training.average or None)
    made = optimizer(recipe, steps)
    if training.decay == "kernels":
        made.exclude_from_weight_decay(
            var_list=[w for w in model.trainable_weights if len(w.shape) < 2]
        )
    if training.precision == "mixed_float16":
        made = LossScaleOptimizer(made)  # which `compile` would do, with one that hides the loss
    logits = _has_logits(recipe, model, loaded)
    if training.label_smoothing:
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=logits, label_smoothing=training.label_smoothing
        )
        accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    robust.compile(made, loss, metrics=[accuracy])
    robust.optimizer.build(robust.trainable_variables)
    return robust


def _has_logits(recipe, model, loaded):
    """Whether the outputs are logits; a network of one's own may end with a softmax, somehow."""
    if "from" not in recipe.model.arguments or graph.activation(model) == "linear":
        return True
    found = Target(model, loaded.x_train[:64]).probabilities
    if found == "sigmoid":
        raise ValueError(
            f"Received from = {recipe.model.arguments['from']!r}, a model that ends with a sigmoid "
            "for each class; expected logits, or a softmax."
        )
    return found is None


def batches(recipe: Recipe, loaded, training_part, devices: Devices = ONE_DEVICE) -> Batches:
    """The training batches."""
    data, training = recipe.data, recipe.training
    _check_augmentation(data, loaded.x_train.shape[1:])
    augment = Augment(data.crop, data.flip, data.cutout, training.seed)
    classes = len(loaded.class_names) if training.label_smoothing else 0
    return Batches(*training_part, training.batch_size, augment, training.seed, classes, devices)


def _check_augmentation(data, shape):
    """Refuses crops and squares that leave nothing of an image, and both of what is none."""
    if len(shape) != 3 and (data.crop or data.flip or data.cutout):
        raise ValueError(
            f"Received data.crop, flip or cutout for examples of shape {tuple(shape)}; expected "
            "images (height, width, channels). Leave them out."
        )
    for name in ("crop", "cutout"):
        if (size := getattr(data, name)) >= min(shape[:2]):
            raise ValueError(
                f"Received data.{name} = {size} for images of {shape[0]} x {shape[1]} pixels; "
                f"expected less than {min(shape[:2])}."
            )
