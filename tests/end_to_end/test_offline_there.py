"""Offline trainings there: bundles that do not fit, errors of one line, and the clock."""

import json
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from offline_cases import start, wheel
from recipe_cases import quietly, short

from keras_pde import files, recipes
from keras_pde.offline import pack, run, starter

pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture(scope="module")
def bundles(folder, tmp_path_factory):
    """Of several parts, with a wheel."""
    out = tmp_path_factory.mktemp("bundles") / "b"

    def fetch(machine, wheels, bring, say):
        wheel(wheels, "brought")
        return ["numpy", "brought"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[pack.__module__], "fetch", fetch)
        pack(short(folder), out, max_mb=2, say=quietly)
    return out


def test_missing_and_damaged_bundles_are_named_before_anything_is_unpacked(bundles, tmp_path):
    there = shutil.copytree(bundles, tmp_path / "there")
    (there / "bundle.002").unlink()
    done = start(there, "run", "--out", str(tmp_path / "out"), "--max-minutes", "1")
    assert done.returncode == 1 and "missing 2" in done.stderr
    data = bytearray((bundles / "bundle.002").read_bytes())
    data[1000] ^= 1
    (there / "bundle.002").write_bytes(data)
    assert "damaged 2 (another SHA-256)" in start(there, "check").stderr
    assert not (there / "work").exists()
    (there / "bundles.json").write_text("{}")
    assert "is damaged" in start(there, "check").stderr
    (there / "bundles.json").unlink()
    assert "without bundles.json" in start(there, "check").stderr


def test_bundles_for_another_python_or_without_a_package_are_refused(bundles, tmp_path):
    there = shutil.copytree(bundles, tmp_path / "there")
    manifest = json.loads((there / "bundles.json").read_text())

    def refusal(**changes):
        (there / "bundles.json").write_text(json.dumps({**manifest, **changes}))
        arguments = ("run", "--out", str(tmp_path / "out"), "--max-minutes", "1")
        done = start(there, *arguments)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        return done.stderr

    binary = ["optree-1-cp399-cp399-linux_x86_64.whl"]
    assert "bundles for Python 3.99" in refusal(python="3.99", wheels=binary)
    assert "without nothing-of-ours, which this machine lacks" in refusal(
        needed=["numpy", "brought", "nothing-of-ours"]
    )
    # It was unpacked for that: wheels as pip would install them.
    site = there / "work" / "site"
    assert (site / "brought.py").is_file() and (site / "brought_more.py").is_file()
    assert not list(site.glob("*.data"))
    assert (there / "work" / "code" / "keras_pde" / "__init__.py").is_file()
    shutil.rmtree(there / "work" / "code")
    (there / "work" / "unpacked.json").write_text("of other bundles")
    assert "holds something else" in refusal()


ARGUMENTS = starter._parser().parse_args(["run", "--out", "out", "--max-minutes", "5"])


def test_what_cannot_be_done_there_is_one_line(tmp_path, monkeypatch, capsys):
    manifest = {"recipes": ["recipe"], "task": "train", "data": "toy"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "_remember_programs", lambda folder: None)

    def fails_with(error):
        def load(path):
            raise error

        monkeypatch.setattr(recipes, "load", load)
        assert run.main(tmp_path, manifest, ARGUMENTS, time.time()) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    exhausted = RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nwhile trying to allocate 99GiB")
    assert "--set training.batch_size=N" in fails_with(exhausted)
    assert "--bring namex" in fails_with(ModuleNotFoundError("No module", name="namex"))
    assert "expected" in fails_with(ValueError("Received this;\nexpected that."))


@pytest.mark.parametrize("closed", [False, True])
def test_the_clock_ends_the_process_whatever_it_waits_for(tmp_path, closed):
    """Also if nobody reads what it says."""
    code = (
        "import os, time, starter;"
        + "os.close(2);" * closed
        + "starter._start_clock(0.01, 'out'); time.sleep(60)"
    )
    # As there: both files, and nothing else of the package.
    for module in (starter, files):
        shutil.copy(module.__file__, tmp_path)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == starter.CUT and time.monotonic() - began < 45
    assert closed or "The 0.01 minutes are over. Nothing was finished" in done.stderr


def test_other_data_than_those_in_the_bundles_are_refused(folder, tmp_path):
    (tmp_path / "recipes").mkdir()
    text = short(folder).to_toml()
    (tmp_path / "recipes" / "recipe.toml").write_text(text, encoding="utf-8")
    arguments = SimpleNamespace(resume=False, set=["training.epochs=7"])
    assert run._recipe(tmp_path, "recipe", arguments).training.epochs == 7
    arguments.set = ["data.name=cifar10"]
    with pytest.raises(ValueError, match=r"expected .*toy\.npz"):
        run._recipe(tmp_path, "recipe", arguments)
    # What goes on does so with its own recipe.
    (tmp_path / "runs" / "recipe").mkdir(parents=True)
    changed = short(folder, **{"training.epochs": 9}).to_toml()
    (tmp_path / "runs" / "recipe" / "recipe.toml").write_text(changed, encoding="utf-8")
    arguments = SimpleNamespace(resume=True, set=[])
    assert run._recipe(tmp_path, "recipe", arguments).training.epochs == 9
