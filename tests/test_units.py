"""Radii and shares as people write them."""

import pytest

from keras_pde import units


@pytest.mark.parametrize(
    ("length", "text"), [(8 / 255, "8/255"), (0.3, "0.3"), (0.2, "0.2"), (1.0, "1"), (0.5, "0.5")]
)
def test_radii_are_written_and_read_as_people_do(length, text):
    assert units.radius_text(length) == text
    assert units.radius(text) == units.radius(length) == length


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8/255", True), ("8/0", False), ("0.3", False), ("none", False)],
)
def test_fractions(text, expected):
    assert units.is_fraction(text) is expected


def test_percent():
    assert units.percent(0.9449) == "94.5 %"
