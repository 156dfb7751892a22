"""The bank that every registered model passes, then what is special about single models."""

import inspect
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_pde import _keras, autodiff, models, registry

MODELS = [pytest.param(entry, id=entry.name) for entry in registry.entries("model")]


def images(model, count=4):
    x = np.random.default_rng(0).uniform(size=(count, *model.input_shape[1:]))
    return ops.convert_to_tensor(x.astype("float32"))


def gradient(fn, point):
    """Gradient as NumPy arrays, compiled on JAX, which otherwise compiles every operation."""

    def compute(point):
        return autodiff.value_and_grad(fn, point)[1]

    if keras.backend.backend() == "jax":
        import jax

        compute = jax.jit(compute)
    return [ops.convert_to_numpy(g) for g in compute(point)]


def logits(model, x):
    return ops.convert_to_numpy(model(x, training=False))


def trainable_count(model):
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def point_and_loss(model):
    """Weights and input as one list, and the cross-entropy as a function of it."""
    fixed = [v.value for v in model.non_trainable_variables]
    x = images(model)
    labels = ops.arange(4) % model.output_shape[1]

    def loss(point):
        output, _ = model.stateless_call(point[:-1], fixed, point[-1], training=False)
        entropy = keras.losses.sparse_categorical_crossentropy(labels, output, from_logits=True)
        return ops.sum(entropy)

    return [v.value for v in model.trainable_variables] + [x], loss


@pytest.fixture(scope="module", params=MODELS)
def entry(request):
    return request.param


@pytest.fixture(scope="module")
def model(entry):
    """The example model, built once; tests leave it as it is."""
    return models.create(entry.name, **entry.example)


def test_has_the_common_arguments(entry):
    arguments = inspect.signature(entry.component).parameters
    common = {"input_shape", "num_classes", "mean", "std", "seed"}
    assert common <= set(arguments)
    assert entry.component.__doc__


def test_outputs_finite_float32_logits(entry, model):
    y = logits(model, images(model))
    assert y.shape == (4, 10)
    assert y.dtype == "float32"
    assert np.isfinite(y).all()
    assert not np.allclose(y.sum(axis=1), 1.0), "these are probabilities"


def test_no_lambda_layers(entry, model):
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in model.layers)


def test_gradient_reaches_everything(entry, model):
    point, loss = point_and_loss(model)
    paths = [v.path for v in model.trainable_variables] + ["the input"]
    for path, slope in zip(paths, gradient(loss, point), strict=True):
        assert np.isfinite(slope).all(), path
        assert np.abs(slope).max() > 0, f"no gradient reaches {path}"


def test_gradient_of_input_gradient_norm(entry, model):
    point, loss = point_and_loss(model)

    def penalty(weights):
        slope = autodiff.value_and_grad(lambda x: loss([*weights, x]), point[-1])[1]
        return ops.sum(ops.square(slope))

    gradients = gradient(penalty, point[:-1])
    assert all(np.isfinite(g).all() for g in gradients)
    assert np.mean([np.abs(g).max() > 0 for g in gradients]) > 0.5


def test_weights_file_round_trip(entry, model, tmp_path):
    x = images(model)
    other = models.create(entry.name, **{**entry.example, "seed": 7})
    assert not np.array_equal(logits(other, x), logits(model, x))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(logits(other, x), logits(model, x))


def test_seed_decides_weights(entry, model):
    same = models.create(entry.name, **entry.example)
    other = models.create(entry.name, **{**entry.example, "seed": 7})
    seen = set()
    for a, b, c in zip(model.weights, same.weights, other.weights, strict=True):
        a, b, c = (ops.convert_to_numpy(w) for w in (a, b, c))
        np.testing.assert_array_equal(a, b)
        if a.ndim > 1 and a.std():  # biases and scales that depend on depth are constant
            assert not np.array_equal(a, c)
            assert a.tobytes() not in seen, "two layers start with equal weights"
            seen.add(a.tobytes())


def test_example_does_not_depend_on_batch(entry, model):
    x = images(model)
    np.testing.assert_allclose(logits(model, x[1:2]), logits(model, x)[1:2], rtol=1e-4, atol=1e-5)


def test_normalisation_is_inside(entry, model):
    channels = model.input_shape[-1]
    mean, std = [0.25, 0.5, 0.125][:channels], [0.5, 0.25, 2.0][:channels]
    inside = models.create(entry.name, **entry.example, mean=mean, std=std)
    assert len(inside.weights) == len(model.weights)
    x = images(model)
    outside = (x - np.array(mean, "float32")) / np.array(std, "float32")
    np.testing.assert_allclose(logits(inside, x), logits(model, outside), rtol=1e-4, atol=1e-5)


def test_logits_stay_float32_in_mixed_precision(entry):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.create(entry.name, **entry.example)
    finally:
        keras.config.set_dtype_policy(policy)
    assert model.output.dtype == "float32"
    assert logits(model, images(model)).dtype == "float32"


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="the same counts; JAX compiles every shape, 4 s a net"
)
@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"name": "small_cnn"}, 77_914),
        ({"name": "small_cnn", "hidden": 512}, 1_658_330),
        ({"name": "lenet"}, 61_706),
        ({"name": "mlp"}, 269_322),
        ({"name": "resnext34_2x32"}, 3_892_490),
        ({"name": "resnext34_2x32", "tanh_logits": True}, 3_892_491),
        ({"name": "resnext34_2x32", "variant": "2019"}, 3_892_298),
        ({"name": "preact_resnet"}, 11_172_170),
        ({"name": "preact_resnet", "width": 48}, 6_287_098),
        ({"name": "continuous_net", "steps": 16}, 1_633_530),
        ({"name": "continuous_net", "steps": 16, "num_basis": 8}, 855_802),
        ({"name": "hamiltonian_net"}, 264_106),
        ({"name": "parabolic_net"}, 502_570),
        ({"name": "second_order_net"}, 502_570),
    ],
)
def test_parameter_counts(arguments, count):
    with _keras.without_values():
        assert trainable_count(models.create(**arguments)) == count


def test_resnext_2018_example():
    """The bank's example is the 2019 variant; the 2018 one with other branches works too."""
    model = models.resnext34_2x32((8, 8, 3), width=4, blocks=(1, 2), branches=3)
    assert np.isfinite(logits(model, images(model))).all()


def test_preact_resnet_adds_to_the_plain_input_and_halves_between_stages():
    model = models.preact_resnet((9, 8, 3), width=4, blocks=(2, 1, 1))
    additions = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]
    assert [a.output.shape for a in additions] == [
        (None, 9, 8, 4),
        (None, 9, 8, 4),
        (None, 5, 4, 8),
        (None, 3, 2, 16),
    ]
    for addition, shortcut in zip(additions, ("stem", "block", "1x1", "1x1"), strict=True):
        source = addition.input[0]._keras_history.operation
        if shortcut == "block":
            assert source is additions[0]
        else:
            assert source.kernel_size == {"stem": (3, 3), "1x1": (1, 1)}[shortcut]
            activated = isinstance(source.input._keras_history.operation, keras.layers.Activation)
            assert activated == (shortcut == "1x1")


@pytest.mark.parametrize("activation", ["relu", "silu", "softplus"])
def test_preact_resnet_uses_its_activation(activation):
    model = models.preact_resnet((8, 8, 3), width=2, blocks=(1,), activation=activation)
    used = [x.activation for x in model.layers if isinstance(x, keras.layers.Activation)]
    assert used == [keras.activations.get(activation)] * 3


def test_2019_head_is_not_negative():
    model = models.resnext34_2x32((8, 8, 3), variant="2019", width=4, blocks=(1, 1))
    assert logits(model, images(model)).min() >= 0


def test_tanh_logits_bound_the_output():
    model = models.mlp(input_shape=(2, 2, 1), tanh_logits=True)
    assert np.abs(logits(model, 1e6 * images(model))).max() <= 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.create("small_cn"), "Did you mean 'small_cnn'"),
        (lambda: models.create("small_cnn", widht=3), "Did you mean 'width'"),
        (lambda: models.mlp(input_shape=(784,)), "height, width, channels"),
        (lambda: models.mlp(mean=[0.5]), "std=None"),
        (lambda: models.mlp(mean=[0.5], std=[0.0]), "std > 0"),
        (lambda: models.mlp(mean=[0.5, 0.5], std=[1.0, 1.0]), "1 channels"),
        (lambda: models.lenet(input_shape=(8, 8, 1)), "at least 12 x 12"),
        (lambda: models.resnext34_2x32(variant="2020"), "unknown variant"),
        (lambda: models.resnext34_2x32(variant="2019", tanh_logits=True), "tanh_logits=False"),
        (lambda: models.resnext34_2x32(blocks=(5, 0, 5)), "expected integers of at least 1"),
        (lambda: models.preact_resnet(blocks=()), "expected integers of at least 1"),
        (lambda: models.preact_resnet(activation="swish"), "unknown activation"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
