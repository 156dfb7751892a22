"""The tutorials show what they say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

TUTORIALS = Path(__file__).parents[2] / "tutorials"


def load(name):
    spec = importlib.util.spec_from_file_location(name, TUTORIALS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestStabilityLandscape:
    @pytest.fixture(scope="class")
    def tutorial(self):
        return load("stability_landscape")

    def test_the_unstable_network_has_many_minima_and_the_stable_one_a_single_one(self, tutorial):
        points = tutorial.points(0)
        assert tutorial.local_minima(tutorial.surface(5, points)) > 10
        assert tutorial.local_minima(tutorial.surface(15, points)) > 1
        assert tutorial.local_minima(tutorial.surface(30, points)) == 1

    def test_training_and_test_points_agree_from_thirty_layers_on(self, tutorial):
        def gap(layers):
            surfaces = [tutorial.surface(layers, tutorial.points(seed)) for seed in (0, 1)]
            return abs(surfaces[0] - surfaces[1]).max()

        assert gap(5) > 20 * gap(30)

    def test_the_bound_is_that_of_the_eigenvalues(self, tutorial):
        t1, t2 = np.meshgrid(tutorial.SIDE, tutorial.SIDE)
        z = np.linalg.eigvals(tutorial.circulant(t1, t2)) / 3.0001
        assert abs(1 + z).max() <= 1 + 1e-9
        assert abs(1 + 1.01 * z).max() > 1.001

    def test_draws_its_picture(self, tutorial, tmp_path):
        tutorial.draw(tmp_path / "landscape.png", layers=(5, 10))
        assert (tmp_path / "landscape.png").stat().st_size > 50_000
