"""Offline trainings: machines, what is fetched for them, and what is packed."""

import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from offline_cases import wheel, without_wheels
from packaging.requirements import Requirement
from recipe_cases import BACKEND, quietly, short

from keras_pde.offline import Machine, machine, pack, probe, run

pytestmark = pytest.mark.usefixtures("toy")

PROBED = {
    "python": "3.12.3",
    "system": "Linux",
    "machine": "x86_64",
    "glibc": "2.39",
    "packages": {"jax": "0.11.2", "NumPy": "2.5.2"},
}


@pytest.fixture
def no_wheels(monkeypatch):
    without_wheels(monkeypatch)


# The machine


def test_the_probe_prints_what_the_machine_has(tmp_path):
    command = probe()
    assert "\n" not in command and len(command) < 2000
    printed = subprocess.run(
        command.replace("python3", sys.executable, 1), shell=True, capture_output=True, text=True
    )
    file = tmp_path / "probe.json"
    file.write_text("a warning\n" + printed.stdout)
    found = Machine.read(file)
    assert found.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found.packages["numpy"] == np.__version__
    assert "scipy" not in json.loads(printed.stdout)["missing"]  # keras may be a nightly
    assert (BACKEND == "jax") == ("jax" in found.packages)


def test_machines_are_read_from_probes_and_lists(tmp_path):
    file = tmp_path / "have"
    file.write_text(json.dumps(PROBED))
    found = Machine.read(file)
    assert (found.python, found.glibc) == ("3.12", 39)
    assert found.has(Requirement("numpy>=2.0")) and not found.has(Requirement("numpy>=3"))
    file.write_text('[{"name": "jax", "version": "0.11.2"}]')  # pip list --format=json
    assert Machine.read(file).packages == {"jax": "0.11.2"}
    file.write_text("Package Version\n------- -------\nnumpy   2.5.2\nTOMLI_W\n jax==0.11.2\n\n")
    found = Machine.read(file, "3.13.1")
    assert found.python == "3.13"
    assert found.packages == {"numpy": "2.5.2", "tomli-w": "", "jax": "0.11.2"}
    assert found.has(Requirement("tomli-w>=1"))  # of an unknown version
    assert Machine.read().packages == {}


@pytest.mark.parametrize(
    ("text", "python", "message"),
    [
        ("{broken", None, "not what the probe prints"),
        (json.dumps({**PROBED, "system": "Darwin"}), None, "its system is Darwin"),
        ("", None, "without packages"),
        ("numpy", "2.7", r"version '2\.7'"),
        ("numpy", "3.10", r"version '3\.10'"),
        ('{"python": "3.12"}', None, "not what the probe prints"),
    ],
)
def test_unfit_machines_are_refused(tmp_path, text, python, message):
    file = tmp_path / "have"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        Machine.read(file, python)


def test_what_is_missing_is_fetched_with_what_it_needs(tmp_path, monkeypatch):
    needs = {
        "keras": ["numpy", "optree; python_version >= '3.12'", "old; python_version < '3.12'"],
        "optree": ["typing-extensions>=4; extra == 'typed'"],
    }
    monkeypatch.setattr(machine, "_requirements", lambda: ["keras>=3", "numpy>=2", "jax>=0.10"])
    monkeypatch.setattr(
        machine, "_download", lambda r, m, f: wheel(f, r.name, needs=needs.get(r.name, ()))
    )
    there = Machine("3.12", "x86_64", 39, {"jax": "0.11.2", "numpy": "2.5.2"})
    needed = machine.fetch(there, tmp_path, ["optax"], quietly)
    assert needed == ["jax", "keras", "numpy", "optax", "optree"]
    fetched = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert fetched == {"keras", "optree", "optax"}
    with pytest.raises(ValueError, match=r"jax 0\.4\.1; expected jax>=0\.10"):
        machine.fetch(Machine("3.12", "x86_64", 39, {"jax": "0.4.1"}), tmp_path, (), quietly)
    needs["keras"] = ["optree>=2"]
    needs["optree"] = []
    with pytest.raises(ValueError, match="requirements of optree that differ"):
        machine.fetch(there, tmp_path, ["optree"], quietly)


def test_a_wheel_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    answer = subprocess.CompletedProcess([], 1, "", "ERROR: no matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    with pytest.raises(ValueError, match=r"requirement keras.* for Python 3.12 .*no matching"):
        machine._download(Requirement("keras>=3"), Machine("3.12", "x86_64", 39, {}), tmp_path)


# The bundles


def content(folder):
    """The names in the bundles' archive."""
    data = b"".join(path.read_bytes() for path in sorted(folder.glob("bundle.*")))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def test_bundles_are_few_and_below_the_limit(folder, tmp_path, no_wheels):
    out = tmp_path / "bundles"
    manifest = pack(short(folder), out, max_mb=2, say=quietly)
    sizes = [path.stat().st_size for path in sorted(out.glob("bundle.*"))]
    assert len(sizes) == len(manifest["bundles"]) > 1
    beside = sum((out / name).stat().st_size for name in ("offline.pyz", "bundles.json"))
    assert max(sizes) + beside < 2e6 and min(sizes[:-1]) > 1.7e6
    names = content(out)
    assert "code/keras_pde/training/step.py" in names and "code/keras_pde/COMMIT" in names
    assert "recipes/recipe.toml" in names and "data/toy.npz.xz.001" in names
    assert not any("__pycache__" in name for name in names)
    assert manifest["needed"] == ["numpy"] and manifest["task"] == "train"
    with pytest.raises(FileExistsError, match="holds"):
        pack(short(folder), out, say=quietly)
    again = pack(short(folder), out, max_mb=2, overwrite=True, say=quietly)
    assert again["bundles"] == manifest["bundles"]  # to the bit
    (out / "letter.txt").touch()
    with pytest.raises(FileExistsError, match=r"letter\.txt"):
        pack(short(folder), out, overwrite=True, say=quietly)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"training.backend": "tensorflow"}, {}, "offline trainings run on JAX"),
        ({"model": {"from": "mnist/linf-0.3/small_cnn"}}, {}, "starts from another model"),
        ({"objective.epsilon": 100.0}, {}, "epsilon"),
        ({}, {"max_mb": 0.1}, r"max_mb=0\.1"),
        ({}, {"evaluate": True}, "without a run"),
        ({}, {"resume": "nowhere"}, "holds no training"),
    ],
)
def test_unfit_packs_are_refused(folder, tmp_path, no_wheels, changes, options, message):
    with pytest.raises(ValueError, match=message):
        pack(short(folder, **changes), tmp_path / "out", say=quietly, **options)
    assert not (tmp_path / "out").exists()


def test_recipes_in_one_pack_are_on_the_same_data(folder, tmp_path, no_wheels):
    both = {"a": short(folder), "b": short(folder, **{"data.name": "fashion_mnist_sample"})}
    with pytest.raises(ValueError, match="expected one data set"):
        pack(both, tmp_path / "out", say=quietly)
    both["b"] = short(folder, **{"training.seed": 1})
    assert pack(both, tmp_path / "out", say=quietly)["recipes"] == ["a", "b"]
    assert "recipes/b.toml" in content(tmp_path / "out")
    assert run._chosen("b", ["a", "b"]) == "b"
    with pytest.raises(ValueError, match=r"recipe None.*--recipe a\|b"):
        run._chosen(None, ["a", "b"])
