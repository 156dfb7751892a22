"""What the files on saved, published and downloaded models share."""

import shutil

import pytest
from download_cases import make_cache, serving
from hub_cases import make_clone, make_fields, make_model, registered, save_original, save_run


@pytest.fixture(scope="module")
def row():
    """The registry knows the tiny network."""
    with registered():
        yield


@pytest.fixture
def fields():
    return make_fields()


@pytest.fixture
def model():
    return make_model()


@pytest.fixture(scope="module")
def original(tmp_path_factory, row):
    return save_original(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def saved(tmp_path, original):
    """A saved model that a test may damage."""
    return shutil.copytree(original, tmp_path / "tiny")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    return make_clone(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, row):
    return save_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(tmp_path, finished):
    """A finished run to publish."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch, server):
    return make_cache(tmp_path, monkeypatch, server)
