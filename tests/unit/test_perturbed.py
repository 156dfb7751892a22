"""Perturbing the output of a layer, or one input of several: against models whose input that is."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from robust_model_cases import cross_entropy

import keras_pde as kp
from keras_pde.attacks import PGD, MinimalDistance, Target
from keras_pde.objectives import Adversarial, GradientPenalty

TENSORFLOW = keras.backend.backend() == "tensorflow"
TRAINS = keras.backend.backend() in ("tensorflow", "jax")
training = pytest.mark.skipif(not TRAINS, reason="torch attacks only")

COUNT, LENGTH, WORDS = 8, 5, 9
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, WORDS, size=(COUNT, LENGTH))  # 0 is padding
LABELS = np.arange(COUNT) % 3
IMAGES = RNG.uniform(size=(COUNT, 4, 4, 1)).astype("float32")
META = RNG.normal(size=(COUNT, 2)).astype("float32")
UNLIMITED = {"norm": "l2", "bounds": None}


class Text(keras.Model):
    """A mean over words, of which padding is none."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(WORDS, 4, mask_zero=True, name="embedding")
        self.hidden, self.head = layers.Dense(4, "tanh"), layers.Dense(3)
        self.mean = layers.GlobalAveragePooling1D()

    def call(self, x):
        return self.head(self.mean(self.hidden(self.embedding(x))))


def functional_text():
    inputs = keras.Input((LENGTH,), dtype="int32")
    z = layers.Embedding(WORDS, 4, mask_zero=True, name="embedding")(inputs)
    z = layers.GlobalAveragePooling1D()(layers.Dense(4, "tanh")(z))
    return keras.Model(inputs, layers.Dense(3)(z))


def filled(model, inputs, scale=0.7):
    model(inputs)
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0, scale, v.shape) for v in model.weights])
    return model


@pytest.fixture(params=[Text, functional_text])
def text(request):
    return filled(request.param(), TOKENS)


def rows_of(array, like):
    """The array, as often below itself as there are rows."""
    return ops.tile(ops.convert_to_tensor(array), (ops.shape(like)[0] // len(array), 1))


class Behind(keras.Model):
    """Of embedded texts, those of the tokens, with their mask."""

    def __init__(self, model, tokens):
        super().__init__()
        self.hidden, self.head = (n for n in model.layers if isinstance(n, layers.Dense))
        self.tokens = tokens

    def call(self, z):
        mask = ops.cast(ops.not_equal(rows_of(self.tokens, z), 0), z.dtype)[:, :, None]
        return self.head(ops.sum(mask * self.hidden(z), 1) / ops.sum(mask, 1))


def embedded(model):
    return ops.convert_to_numpy(model.get_layer("embedding")(TOKENS))


ATTACKS = [
    PGD(epsilon=0.3, steps=4, random_start=False, **UNLIMITED),
    MinimalDistance(steps=3, **UNLIMITED),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_attack_on_the_output_of_a_layer(text, attack):
    """As on models that begin there, one for each text."""
    z = embedded(text)
    found = attack(text, TOKENS, LABELS, at="embedding")
    assert found.adversarial.shape == z.shape and found.success.any()
    for n in range(0, COUNT, 4):
        one = slice(n, n + 1)
        alone = attack(Behind(text, TOKENS[one]), z[one], LABELS[one])
        np.testing.assert_allclose(found.adversarial[one], alone.adversarial, atol=1e-5)
        np.testing.assert_allclose(found.distance[one], alone.distance, rtol=1e-3)


def test_batches_do_not_matter(text):
    attack = PGD(epsilon=0.3, steps=7, restarts=2, **UNLIMITED)
    results = [attack(text, TOKENS, LABELS, at="embedding", batch_size=n) for n in (COUNT, 5)]
    np.testing.assert_allclose(*(r.adversarial for r in results), atol=1e-5)


def two_inputs(kind):
    """An image and a few numbers, in a dict or a list; outputs in a dict for the former."""
    image, meta = keras.Input((4, 4, 1), name="image"), keras.Input((2,), name="meta")
    z = layers.Concatenate()([layers.Flatten()(image), meta])
    z = layers.Dense(8, "tanh")(z)
    logits, other = layers.Dense(3, name="logits")(z), layers.Dense(1, name="other")(z)
    if kind == "dict":
        model = keras.Model({"image": image, "meta": meta}, {"logits": logits, "other": other})
    else:
        model = keras.Model([image, meta], [logits, other])
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0, 0.7, v.shape) for v in model.weights])
    return model


def one_output(model):
    found = model.output
    return keras.Model(model.input, found["logits"] if isinstance(found, dict) else found[0])


INPUTS = {"dict": {"image": IMAGES, "meta": META}, "list": [IMAGES, META]}


class WithMeta(keras.Model):
    """The same, of the images alone to which these numbers belong."""

    def __init__(self, meta):
        super().__init__()
        self.inner, self.meta = one_output(two_inputs("dict")), meta

    def call(self, image):
        return self.inner({"image": image, "meta": rows_of(self.meta, image)})


@pytest.mark.parametrize("kind", INPUTS)
def test_attack_on_one_input_and_one_output_of_several(kind):
    attack = PGD("linf", 0.1, steps=3, random_start=False)
    names = [("image", "logits")] if kind == "dict" else [("image", "logits"), (0, 0)]
    for perturb, output in names:
        which = {"perturb": perturb, "output": output}
        found = attack(two_inputs(kind), INPUTS[kind], LABELS, **which, batch_size=5)
        for n in range(0, COUNT, 5):
            one = slice(n, n + 1)
            alone = attack(WithMeta(META[one]), IMAGES[one], LABELS[one])
            np.testing.assert_allclose(found.adversarial[one], alone.adversarial, atol=1e-6)
            assert found.status[n] == alone.status[0]


def test_evaluate_of_one_input_of_several():
    """A Target of it serves as well, and datasets of dicts."""
    settings = {"epsilons": [0.05], "attacks": [PGD("linf", steps=3, random_start=False)]}
    which = {"perturb": "image", "output": "logits"}
    model, inputs = two_inputs("dict"), INPUTS["dict"]
    batches = [
        ({name: array[k : k + 5] for name, array in inputs.items()}, LABELS[k : k + 5])
        for k in range(0, COUNT, 5)
    ]
    expected = settings["attacks"][0].at(0.05)(model, inputs, LABELS, **which)
    for report in (
        kp.evaluate(model, inputs, LABELS, **which, **settings),
        kp.evaluate(Target(model, inputs, **which), inputs, LABELS, **settings),
        kp.evaluate(model, batches, **which, **settings),
    ):
        np.testing.assert_allclose(report.distance, expected.distance, rtol=1e-4)
        assert report.robust_accuracy(0.05) == expected.robust_accuracy


def test_evaluate_at_a_layer(text):
    report = kp.evaluate(text, TOKENS, LABELS, epsilons=[8.0], at="embedding", **UNLIMITED)
    assert report.robust_accuracy(8.0) < report.clean_accuracy


# Training


def robust(model, objective, optimizer="sgd", **which):
    made = kp.RobustModel(model, objective, **which)
    made.compile(optimizer, cross_entropy(), run_eagerly=TENSORFLOW)
    return made


OBJECTIVES = [
    Adversarial("l2", 0.2, bounds=None),
    Adversarial("l2", 0.2, steps=2, random_start=True, bounds=None)
    + GradientPenalty("l2", 0.5, bounds=None, at="perturbed"),
    kp.objectives.MaxGradientPenalty("l2", 0.5, top_k=None, bounds=None),
    GradientPenalty("l2", 0.5, method="finite_difference", bounds=None),
]


@training
@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_training_at_a_layer(text, objective):
    """The terms, and the weights behind, are those of a model that begins there."""
    other = filled(functional_text(), TOKENS)
    tail = robust(Behind(other, TOKENS), objective)
    expected = tail.train_on_batch(embedded(other), LABELS, return_dict=True)
    before = ops.convert_to_numpy(text.get_layer("embedding").weights[0])
    found = robust(text, objective, at="embedding").train_on_batch(TOKENS, LABELS, return_dict=True)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    for ours, theirs in zip(text.weights[1:], tail.model.weights, strict=True):
        np.testing.assert_allclose(*map(ops.convert_to_numpy, (ours, theirs)), atol=1e-5)
    after = ops.convert_to_numpy(text.get_layer("embedding").weights[0])
    assert np.abs(after - before).max() > 1e-4  # which is trained too


@training
@pytest.mark.parametrize("kind", INPUTS)
def test_training_on_one_input_of_several(kind):
    """`fit` with validation, a dataset and an attack after the epoch, as of the image alone."""
    objective = Adversarial("linf", 0.05) + GradientPenalty("l1", 0.1)

    data = (INPUTS[kind], LABELS)
    attack = kp.callbacks.RobustValidation(*data, PGD("linf", 0.05, steps=2))
    made = robust(one_output(two_inputs(kind)), objective, perturb="image")
    history = made.fit(
        *data, validation_data=data, callbacks=[attack], batch_size=COUNT, verbose=0
    ).history
    alone = robust(WithMeta(META), objective)
    expected = alone.train_on_batch(IMAGES, LABELS, return_dict=True)
    for name, value in expected.items():
        np.testing.assert_allclose(history[name][0], value, rtol=1e-5)
    assert 0 <= history["val_robust_accuracy"][0] < 1 and history["val_loss"][0] > 0


@training
def test_a_saved_model_remembers_what_is_perturbed(tmp_path):
    made = robust(filled(functional_text(), TOKENS), OBJECTIVES[0], at="embedding")
    made.train_on_batch(TOKENS, LABELS)
    made.save(tmp_path / "text.keras")
    again = keras.models.load_model(tmp_path / "text.keras")
    assert again.at == "embedding" and again.perturbed.which == made.perturbed.which


# Refusals


def shared_embedding():
    first, second = keras.Input((LENGTH,), dtype="int32"), keras.Input((LENGTH,), dtype="int32")
    embedding = layers.Embedding(WORDS, 4, name="embedding")
    both = layers.Concatenate()([embedding(first), embedding(second)])
    return keras.Model([first, second], layers.Dense(3)(layers.Flatten()(both)))


@pytest.mark.parametrize(
    ("model", "inputs", "which", "message"),
    [
        (functional_text, TOKENS, {}, "ends at the layer 'embedding'.*by at="),
        (functional_text, TOKENS, {"at": "embeding"}, "name of 0 layers.*'embedding'"),
        (functional_text, TOKENS, {"at": "embedding", "perturb": 0}, "expected one of them"),
        (shared_embedding, [TOKENS, TOKENS], {"at": "embedding"}, "called 2 times"),
        (lambda: two_inputs("list"), INPUTS["list"], {}, "a list of 2 arrays.*perturb="),
        (lambda: two_inputs("dict"), INPUTS["dict"], {"perturb": "img"}, "'image', 'meta'"),
        (lambda: two_inputs("list"), INPUTS["list"], {"perturb": 2}, "'image', 'meta'"),
        (lambda: two_inputs("list"), INPUTS["list"], {"perturb": 0}, "output=..."),
        (
            lambda: two_inputs("list"),
            INPUTS["list"],
            {"perturb": 0, "output": "logit"},
            "'logits', 'other'",
        ),
        (
            lambda: two_inputs("list"),
            [IMAGES, META[:5]],
            {"perturb": 0, "output": 1},
            r"inputs of \[5, 8\] examples",
        ),
    ],
)
def test_refused(model, inputs, which, message):
    with pytest.raises(ValueError, match=message):
        PGD("l2", 0.1, bounds=None)(model(), inputs, LABELS, **which)


def test_a_layer_itself_names_one_of_two():
    def part():
        z = keras.Input((4,))
        return keras.Model(z, layers.Dense(4, "tanh", name="same")(z))

    first, second = part(), part()
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3)(second(first(inputs))))
    x = RNG.normal(size=(8, 4)).astype("float32")
    with pytest.raises(ValueError, match=r"name of 2 layers.*or the layer itself"):
        Target(model, x, at="same")
    found = Target(model, x, at=second.layers[1]).parts(x)[0]
    np.testing.assert_allclose(found, ops.convert_to_numpy(second(first(x))), atol=1e-6)
    if TRAINS:
        made = robust(model, Adversarial("l2", 0.1, bounds=None), at=second.layers[1])
        assert made.fit(x, np.arange(8) % 3, verbose=0).history["adversarial"][0] > 0


def test_bounds_are_of_what_is_perturbed():
    text = filled(functional_text(), TOKENS)
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        PGD("l2", 0.1)(text, TOKENS, LABELS, at="embedding")
    target = Target(text, TOKENS, at="embedding")
    with pytest.raises(ValueError, match=r"a Target and .*expected those in the Target"):
        PGD("l2", 0.1, bounds=None)(target, TOKENS, LABELS, at="embedding")
    if TRAINS:
        with pytest.raises(ValueError, match=r"outside \[0, 1\].*bounds="):
            robust(text, Adversarial("l2", 0.1), at="embedding").fit(TOKENS, LABELS, verbose=0)
