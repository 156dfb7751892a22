"""What users feed in: accepted forms, and errors that say what was received and the fix."""

import numpy as np
import pytest

from keras_pde.checks import (
    check_bounds,
    check_count,
    check_images,
    check_number,
    class_labels,
)

X = np.random.default_rng(0).uniform(size=(4, 3, 3, 1)).astype("float32")


@pytest.mark.parametrize(
    "images", [X, X[0], X > 0.5, (X > 0.5).astype("uint8"), X.tolist(), X.astype("float16")]
)
def test_good_images_pass(images):
    assert check_images(images) is None


def test_rounding_beyond_the_bounds_passes():
    check_images(X * 0 + 1 + 5e-7)
    check_images(255 * X + 1e-4, bounds=(0, 255.01))
    with pytest.raises(ValueError, match="expected"):
        check_images(X * 0 + 1 + 2e-6)


def test_no_bounds_no_limit():
    check_images(1e6 * X - 7, bounds=None)
    with pytest.raises(ValueError, match="NaN or infinite"):
        check_images(X * np.inf, bounds=None)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (X[:0], r"images of shape \(0, 3, 3, 1\); expected at least one"),
        (X[:, :0], "at least one"),
        (3.0, r"shape \(\)"),
        ("image.png", "expected an array of numbers"),
        ([None, None], "expected an array of numbers"),
        (X + 1j, "expected an array of numbers"),
        (np.where(X > 0.9, np.nan, X), "NaN or infinite entries.*isfinite"),
        (np.where(X > 0.9, -np.inf, X), "NaN or infinite entries"),
        (255 * X, r"expected \[0, 1\], the units of epsilon. Either divide by 255"),
        ((255 * X).astype("uint8"), "divide by 255"),
        (X - 0.5, "Either put the normalisation into the model as a layer, or pass `bounds=`"),
        (1000 * X, "Either put the normalisation"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=f"Received.*{message}"):
        check_images(images)


def test_the_argument_is_named():
    with pytest.raises(ValueError, match="Received x_test in"):
        check_images(X - 1, what="x_test")


def test_bounds():
    assert check_bounds(None) is None
    assert check_bounds([0, 1]) == (0.0, 1.0)
    assert check_bounds(np.array([-1, 2])) == (-1.0, 2.0)
    assert all(type(b) is float for b in check_bounds(np.array([-1, 2])))


@pytest.mark.parametrize("bounds", [(1, 0), (1, 1), (0,), (0, 1, 2), 1.0, (0, np.inf), (np.nan, 1)])
def test_bad_bounds(bounds):
    with pytest.raises(ValueError, match=r"Received bounds=.*\(low, high\)"):
        check_bounds(bounds)


@pytest.mark.parametrize(
    "labels",
    [
        [0, 2, 1],
        (0, 2, 1),
        np.array([0, 2, 1], "uint8"),
        np.array([0.0, 2.0, 1.0]),
        np.array([[0], [2], [1]]),
        np.eye(3)[[0, 2, 1]],
        np.eye(3, dtype=bool)[[0, 2, 1]],
    ],
)
def test_all_forms_of_labels(labels):
    found = class_labels(labels, 3, 3)
    assert found.dtype == "int32"
    np.testing.assert_array_equal(found, [0, 2, 1])


def test_labels_of_a_few_special_shapes():
    np.testing.assert_array_equal(class_labels([True, False], 2), [1, 0])
    np.testing.assert_array_equal(class_labels([5, 5], 10, 2), [5, 5])
    np.testing.assert_array_equal(class_labels([[0, 1], [1, 0]], 2), [1, 0])
    assert class_labels([], 3).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1, 1], "labels from -1 to 1; expected 0 to 2"),
        ([1, 2, 3], "labels from 1 to 3; expected 0 to 2.*start at 1"),
        ([0, 0.5, 1], "fractions or NaN"),
        ([0, np.nan, 1], "fractions or NaN"),
        ([0, np.inf, 1], "fractions or NaN"),
        ([0, 1], "2 labels for 3 images"),
        (np.eye(4)[:3], r"labels of shape \(3, 4\).*\(batch, 3\) one-hot"),
        (np.full((3, 3), 1 / 3), "not one-hot.*argmax"),
        (np.ones((3, 3)), "not one-hot"),
        (np.zeros((3, 3)), "not one-hot"),
        (np.zeros((3, 1, 1)), r"labels of shape \(3, 1, 1\)"),
        (2, r"labels of shape \(\)"),
        (["cat", "dog", "cat"], "labels of type <U3"),
        ([None, 1, 2], "labels of type object"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=f"Received.*{message}"):
        class_labels(labels, 3, 3)


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3)])
def test_counts_are_integers(value):
    assert check_count(value, "steps") == 3
    assert isinstance(check_count(value, "steps"), int)


@pytest.mark.parametrize("value", [0, -1, 2.5, "four", None, True, float("nan"), float("inf")])
def test_what_counts_nothing_is_refused(value):
    with pytest.raises(ValueError, match="expected an integer, at least 1"):
        check_count(value, "steps")


def test_numbers_lie_in_their_range():
    assert check_number(0, "gamma", least=0) == 0.0
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a finite number at least 0"):
            check_number(value, "gamma", least=0)
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        check_number(0, "beta", above=0, most=1)
