"""Threat models as values, and radii as people write them."""

import json

import numpy as np
import pytest

import keras_pde as kp
from keras_pde import threat
from keras_pde.attacks import FGSM, PGD, MinimalDistance

CHANNELS = ([-2.1, -2.0, -1.8], [2.2, 2.4, 2.6])  # of images that are normalised beforehand


@pytest.mark.parametrize(
    ("length", "text"), [(8 / 255, "8/255"), (0.3, "0.3"), (0.2, "0.2"), (1.0, "1"), (0.5, "0.5")]
)
def test_radii_are_written_and_read_as_people_do(length, text):
    assert threat.radius_text(length) == text
    assert threat.radius(text) == threat.radius(length) == length
    assert threat.radius(np.float64(length)) == length and type(threat.radius(1)) is float


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8/255", True), ("8/0", False), ("0.3", False), ("none", False), (0.1, False)],
)
def test_fractions(text, expected):
    assert threat.is_fraction(text) is expected


@pytest.mark.parametrize(
    "value",
    [
        -0.1,
        np.nan,
        np.inf,
        "8/0",
        "eight",
        "",
        True,
        [0.1],
        {},
        "-1/255",
        "1e999",
        "+8/255",
        "8_0",
        "٨",
        1e39,
    ],
)
def test_what_is_no_radius(value):
    with pytest.raises(ValueError, match=r"Received epsilon=.*; expected a finite length"):
        kp.Threat("l2", value)


@pytest.mark.parametrize("bounds", [(0, 255), (-1, 1), CHANNELS])
def test_fractions_belong_to_images_of_the_unit_range(bounds):
    with pytest.raises(ValueError, match=r"'2/255' for images in .*Pass the length in the units"):
        PGD("linf", "2/255", bounds=bounds)
    assert kp.Threat("linf", 2 / 255, bounds).epsilon == 2 / 255
    assert str(kp.Threat("linf", 2 / 255, bounds)) == "linf 0.00784314"
    for unit in (None, ([0, 0, 0], [1, 1, 1])):
        assert kp.Threat("linf", " 2/255 ", unit).epsilon == 2 / 255
    with pytest.raises(ValueError, match="Pass the length in the units"):
        kp.Threat("linf", " 2/255", bounds)


def test_the_whole_range_is_a_radius_however_it_is_rounded():
    assert kp.Threat("linf", 0.1, (0.2, 0.3)).epsilon == 0.1


def test_a_threat_is_a_value():
    one = kp.Threat("linf", "8/255")
    assert one == kp.Threat("linf", 8 / 255, [0, 1]) and hash(one) == hash(one.at(8 / 255))
    assert one != one.at(0.1) != one.at("4/255") and one.at(None).epsilon is None
    assert (str(one), str(one.at(None))) == ("linf 8/255", "linf")
    with pytest.raises(AttributeError):
        one.epsilon = 0.1


@pytest.mark.parametrize("epsilon", [1.1, 8, 255])
def test_a_radius_beyond_the_whole_range_is_a_wrong_unit(epsilon):
    with pytest.raises(ValueError, match=r"at most 1 for images in \[0, 1\], such as 8/255"):
        kp.Threat("linf", epsilon)
    assert kp.Threat("linf", 1.0).epsilon == 1.0  # a sanity check: nothing may survive
    kp.Threat("l2", epsilon)
    kp.Threat("linf", epsilon, None)
    kp.Threat("linf", epsilon, (0, 256))


def test_bounds_of_many_entries_are_plain_values():
    one = kp.Threat("linf", 0.1, tuple(map(np.array, CHANNELS)))
    assert one == kp.Threat("linf", 0.1, json.loads(json.dumps(one.bounds)))
    assert one.bounds == tuple(map(tuple, CHANNELS)) and hash(one)
    with pytest.raises(ValueError, match=r"at most 4.4 for images in \[-2.1, 2.6\] \(bou"):
        one.at(4.5)
    with pytest.raises(ValueError, match="Received bounds="):
        kp.Threat("linf", 0.1, ([0, 3], [1, 2]))


def test_a_rounding_beyond_the_ball_is_within():
    assert threat.within(np.array([0.1, 0.1 * (1 + 1e-6), 0.1001]), 0.1).tolist() == [1, 1, 0]
    assert threat.within(1e30, np.inf)


# Attacks


def test_attacks_get_their_radius_at_once_or_later():
    plain = PGD("linf", steps=3, seed=5)
    assert plain.epsilon is None and plain.threat == kp.Threat("linf")
    assert plain.at("8/255") == PGD("linf", 8 / 255, steps=3, seed=5)
    assert plain.at(0.1).threat == kp.Threat("linf", 0.1) and plain.epsilon is None
    assert FGSM("l2", "1/2").at(0.25) == FGSM("l2", 0.25)
    assert type(plain).from_config(plain.get_config()) == plain


def test_an_attack_without_radius_says_so(linear_model):
    model, x, y = linear_model
    with pytest.raises(ValueError, match=r"no radius yet.*PGD\('linf', epsilon=0.1\)"):
        PGD("linf")(model, x, y)
    with pytest.raises(ValueError, match="smallest perturbation and has no radius"):
        MinimalDistance("l2").at(0.1)


@pytest.fixture(scope="module")
def linear_model():
    from attack_cases import classes, functional, vectors

    model, x = functional(lambda z, x: z), vectors()
    return model, x, classes(model, x)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_bounds_of_each_feature_hold(linear_model, norm):
    model, x, y = linear_model
    low, high = x - 0.02, x + np.linspace(0.01, 0.3, 6, dtype="float32")
    bounds = low.min(axis=0), high.max(axis=0)
    attack = PGD(norm, 3.0 if norm == "l1" else 1.0, steps=20, step_size=0.3, bounds=bounds)
    found = attack(model, x, y)
    assert np.all(found.adversarial >= bounds[0]) and np.all(found.adversarial <= bounds[1])
    assert found.success.any()
    on_edge = (found.adversarial == bounds[0]) | (found.adversarial == bounds[1])
    assert on_edge[found.success].any(), "the box was in the way"
    minimal = MinimalDistance(norm, bounds=bounds)(model, x, y)
    assert np.all(minimal.adversarial <= bounds[1]) and minimal.success.any()


def test_equal_bounds_of_each_feature_are_those_of_all(linear_model):
    model, x, y = linear_model
    one = PGD("l2", 0.5, steps=5, bounds=(0, 1))(model, x, y)
    many = PGD("l2", 0.5, steps=5, bounds=(np.zeros(6), np.ones(6)))(model, x, y)
    np.testing.assert_array_equal(one.adversarial, many.adversarial)
    with pytest.raises(ValueError, match=r"shape \(8, 6\) for bounds of shape \(5,\)"):
        PGD("l2", 0.5, bounds=(np.zeros(5), np.ones(5)))(model, x, y)


def test_evaluation_of_examples_with_bounds_of_their_own_or_none(linear_model):
    model, x, y = linear_model
    shifted = 3 * x - 1
    y = np.asarray(model(shifted)).argmax(axis=1)
    for bounds in (None, (shifted.min(axis=0), shifted.max(axis=0))):
        report = kp.evaluate(
            model, shifted, y, norm="linf", epsilons=[0.1, 0.5], bounds=bounds, seed=1
        )
        assert report.clean_accuracy == 1 > report.robust_accuracy(0.5)
        assert kp.Report.from_json(report.to_json()) == report
        assert kp.Report.from_json(report.to_json()).bounds == report.bounds
        assert report.notes == ()  # tables have units of their own
        assert not any("can be reached" in alarm for alarm in report.alarms)
    wider = kp.evaluate(model, shifted, y, norm="linf", epsilons="0.5", bounds=None)
    assert wider.robust_accuracy(0.5) <= report.robust_accuracy(0.5)
