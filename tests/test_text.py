"""Numbers as people write them."""

from keras_pde import text


def test_percent():
    assert text.percent(0.9449) == "94.5 %"
