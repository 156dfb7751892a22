"""What a training is made of: learning rates, augmentation, batches."""

import hashlib

import keras
import numpy as np
import pytest
from keras import ops
from recipe_cases import CLASSES

from keras_pde import noise
from keras_pde.recipes import augment, schedules
from keras_pde.recipes.augment import Augment
from keras_pde.recipes.batches import Batches

# Learning rates


def rates(name, steps, **arguments):
    """The rate of each step of a training."""
    made = schedules.create(name, arguments, steps)
    if not callable(made):
        return np.full(steps, made)
    return ops.convert_to_numpy(ops.vectorized_map(made, ops.arange(steps, dtype="float32")))


def test_constant():
    assert set(rates("constant", 5, rate=0.3)) == {0.3}


def test_one_cycle_rises_in_a_line_and_falls_as_a_cosine():
    found = rates("one_cycle", 101, peak=0.5, warm_up=0.2, end=0.05)
    np.testing.assert_allclose(found[:21], np.linspace(0.05, 0.5, 21), rtol=1e-5)
    falling = np.cos(np.pi * np.arange(81) / 81)
    np.testing.assert_allclose(found[20:], 0.05 + 0.45 * (1 + falling) / 2, rtol=1e-5)
    assert found.argmax() == 20


def test_cosine_falls_from_the_first_step():
    found = rates("cosine", 50, peak=0.2)
    np.testing.assert_allclose(found, 0.1 * (1 + np.cos(np.pi * np.arange(50) / 50)), atol=1e-7)


def test_one_cycle_starts_where_it_is_told():
    assert rates("one_cycle", 50, peak=0.2, start=0.0)[0] == 0.0
    assert rates("one_cycle", 50, peak=0.2, start=0.2)[:15] == pytest.approx(0.2)


def test_step_changes_at_the_shares():
    found = rates("step", 200, rate=0.4, factors=[0.5, 0.1], at=[0.3, 0.75])
    expected = np.repeat([0.4, 0.2, 0.04], [60, 90, 50])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("one_cycle", {"peak": 0.5, "end": 0.01}),
        ("cosine", {"peak": 0.5}),
        ("step", {"rate": 0.5, "factors": [0.2, 0.1], "at": [0.25, 0.5]}),
    ],
)
def test_a_shorter_training_has_the_same_shape(name, arguments):
    whole, tenth = (rates(name, steps, **arguments) for steps in (400, 40))
    np.testing.assert_allclose(tenth, whole[::10], rtol=1e-5)


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_trainings_have_rates(name, steps):
    arguments = {
        "constant": {"rate": 0.5},
        "step": {"rate": 0.5, "factors": [0.2, 0.1], "at": [0.25, 0.5]},
    }.get(name, {"peak": 0.5})
    found = rates(name, steps, **arguments)
    assert np.all((found > 0) & (found <= 0.5))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("constant", {"rate": 0.0}),
        ("constant", {"rate": float("nan")}),
        ("step", {"rate": 0.1, "factors": [0.5], "at": [0.2, 0.5]}),
        ("step", {"rate": 0.1, "factors": [], "at": []}),
        ("step", {"rate": 0.1, "factors": [0.5, 0.1], "at": [0.5, 0.2]}),
        ("step", {"rate": 0.1, "factors": [0.5, 0.1], "at": [0.5, 0.5]}),
        ("step", {"rate": 0.1, "factors": [0.5], "at": [1.0]}),
        ("step", {"rate": 0.1, "factors": [-0.5], "at": [0.5]}),
        ("step", {"rate": -0.1, "factors": [0.5], "at": [0.5]}),
        ("one_cycle", {"peak": 0.0}),
        ("one_cycle", {"peak": 0.1, "warm_up": 1.0}),
        ("one_cycle", {"peak": 0.1, "warm_up": -0.1}),
        ("one_cycle", {"peak": 0.1, "end": 0.2}),
        ("one_cycle", {"peak": 0.1, "end": -0.1}),
        ("one_cycle", {"peak": 0.1, "start": 0.2}),
        ("cosine", {"peak": -0.1}),
    ],
)
def test_rates_out_of_range_are_refused(name, arguments):
    with pytest.raises(ValueError, match=r"Received .*; expected"):
        schedules.create(name, arguments, 10)


# Augmentation


IMAGES = np.random.default_rng(0).integers(1, 256, (40, 9, 7, 2)).astype("float32") / 256
EXAMPLES = np.arange(100, 140, dtype="int32")
ALL = {"crop": 3, "flip": True, "cutout": 4}


def augmented(images=IMAGES, epoch=2, examples=EXAMPLES, seed=5, **options):
    result = Augment(seed=seed, **options)(images, np.int32(epoch), examples)
    return ops.convert_to_numpy(result)


def choices(examples=EXAMPLES, epoch=2, seed=5, crop=0, shape=IMAGES.shape[1:3]):
    """(rows moved, columns moved, mirrored, centre of the square), as drawn for each example."""
    keys = noise.keys(seed ^ augment._STREAM, epoch, examples)
    for a, b, c, d, e in ops.convert_to_numpy(noise.uniform(keys, (5,))):
        span = 2 * crop + 1
        yield int(a * span), int(b * span), c < 0.5, int(d * shape[0]), int(e * shape[1])


@pytest.mark.parametrize(
    "options",
    [{"crop": 3}, {"flip": True}, {"cutout": 4}, {"cutout": 3}, {"cutout": 20}, ALL],
    ids=str,
)
def test_augmentation_equals_a_loop_over_images(options):
    crop, side = options.get("crop", 0), options.get("cutout", 0)
    expected = []
    for image, drawn in zip(IMAGES, choices(crop=crop), strict=True):
        down, right, mirrored, y, x = drawn
        height, width = image.shape[:2]
        padded = np.pad(image, ((crop, crop), (crop, crop), (0, 0)))
        image = padded[down : down + height, right : right + width]
        if options.get("flip") and mirrored:
            image = image[:, ::-1]
        image = image.copy()
        top, left = y - side // 2, x - side // 2
        image[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0
        expected.append(image)
    np.testing.assert_array_equal(augmented(**options), expected)


def test_augmentation_is_the_same_on_every_backend():
    digest = hashlib.sha256(augmented(**ALL).tobytes()).hexdigest()
    assert digest == "8b956fdfa331b03108ecdf4659eeaac5a3a21a4c57fb6cc18a1d7d8a3a581023"


def test_augmentation_does_not_depend_on_the_batch():
    whole = augmented(**ALL)
    some = np.array([7, 3, 30])
    np.testing.assert_array_equal(
        augmented(IMAGES[some], examples=EXAMPLES[some], **ALL), whole[some]
    )


def test_augmentation_differs_between_epochs_examples_and_seeds():
    same = np.repeat(IMAGES[:1], len(IMAGES), axis=0)
    first = augmented(same, **ALL)
    assert len({image.tobytes() for image in first}) == len(same)
    for change in ({"epoch": 3}, {"seed": 6}, {"examples": EXAMPLES + 1000}):
        assert np.mean(augmented(same, **ALL, **change) == first) < 0.5


def test_moves_flips_and_squares_are_as_frequent_as_they_should_be():
    count = 4000
    places = np.arange(1, 26, dtype="float32").reshape(1, 5, 5, 1)
    images = np.repeat(places, count, axis=0)
    examples = np.arange(count, dtype="int32")
    moved = augmented(images, examples=examples, crop=2)
    centres = np.bincount(moved[:, 2, 2, 0].astype(int), minlength=26)[1:]
    assert np.all(np.abs(centres - count / 25) < 5 * np.sqrt(count / 25))
    mirrored = augmented(images, examples=examples, flip=True)[:, 0, 0, 0] == 5
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(count)
    hidden = np.mean(augmented(images, examples=examples, cutout=1) == 0, axis=0).ravel()
    assert np.all(np.abs(hidden - 1 / 25) < 5 * np.sqrt(1 / 25 / count))
    assert hidden.sum() == pytest.approx(1)


def test_without_augmentation_images_stay():
    nothing = Augment()
    assert not nothing
    assert nothing(IMAGES, 0, EXAMPLES) is IMAGES


# Batches


COUNT = 23
X = np.arange(COUNT, dtype="float32").reshape(COUNT, 1, 1, 1) * np.ones((1, 4, 4, 1), "float32")
Y = np.arange(COUNT) % CLASSES


def taken(batches, first, last):
    """The batches of those steps, as `fit` gets them."""
    stream = batches.stream(first, last)
    assert len(stream) == last - first
    listed = (
        stream if hasattr(stream, "element_spec") else map(stream.__getitem__, range(last - first))
    )
    return [tuple(map(ops.convert_to_numpy, batch)) for batch in listed]


def numbers(batch):
    return batch[0][:, 0, 0, 0].astype(int).tolist()


def test_an_epoch_is_a_permutation_of_whole_batches():
    batches = Batches(X, Y, 5, Augment(), seed=3)
    assert batches.steps_per_epoch == 4
    epochs = []
    for first in (0, 4):
        found = taken(batches, first, first + 4)
        assert [x.shape for x, _ in found] == [(5, 4, 4, 1)] * 4
        for batch in found:
            np.testing.assert_array_equal(batch[1], Y[numbers(batch)])
        epochs.append([n for batch in found for n in numbers(batch)])
        assert len(set(epochs[-1])) == 20  # three are left out
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


@pytest.mark.parametrize("first", [4, 6])
def test_a_stream_from_the_middle_is_the_end_of_the_whole(first):
    """With augmentation, which must know the epoch."""

    def make():
        return Batches(X, Y, 5, Augment(1, True, 2, seed=1), seed=3)

    whole, rest = taken(make(), 0, 10), taken(make(), first, 10)
    assert len(rest) == 10 - first
    for found, expected in zip(rest, whole[first:], strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about tf.data")
def test_a_stream_is_no_python_generator(monkeypatch):
    """With one, TensorFlow slows all that a process of Python 3.11 trains from then on."""
    import tensorflow as tf

    monkeypatch.setattr(tf.data.Dataset, "from_generator", pytest.fail)
    stream = Batches(X, Y, 5, Augment(1, True, 2)).stream(0, 4)
    assert [tuple(part.shape) for part in stream.element_spec] == [(5, 4, 4, 1), (5,)]


def test_batches_differ_between_seeds():
    orders = [numbers(taken(Batches(X, Y, 20, Augment(), seed), 0, 1)[0]) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_one_hot_labels():
    (batch,) = taken(Batches(X, Y, 5, Augment(), classes=CLASSES), 0, 1)
    np.testing.assert_array_equal(batch[1], np.eye(CLASSES)[Y[numbers(batch)]])


def test_a_batch_larger_than_the_set_is_the_set():
    batches = Batches(X, Y, 500, Augment())
    assert (batches.batch_size, batches.steps_per_epoch) == (COUNT, 1)
    (batch,) = taken(batches, 1, 2)
    assert sorted(numbers(batch)) == list(range(COUNT))
