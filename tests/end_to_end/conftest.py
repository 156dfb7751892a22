"""What the files on recipes share: the registered toy network, and a folder with its data."""

import pytest
from recipe_cases import registered, write_data


@pytest.fixture(scope="module")
def toy():
    """The registry knows the network "recipe_toy"."""
    with registered():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the data, `toy.npz`."""
    folder = tmp_path_factory.mktemp("recipes")
    write_data(folder)
    return folder
