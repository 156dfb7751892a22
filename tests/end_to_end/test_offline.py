"""Offline trainings in parts: what is packed, how it fits into minutes, what comes back."""

import io
import json
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from packaging.requirements import Requirement
from recipe_cases import (
    BACKEND,
    assert_same_training,
    history,
    quietly,
    short,
    toy_recipe,
)

import keras_pde as kp
from keras_pde import cli, files, recipes
from keras_pde.offline import Machine, collect, machine, pack, probe, run, starter
from keras_pde.offline.parcel import Limits, Parcel
from keras_pde.recipes import RunFolder, pace, schedules
from keras_pde.recipes.journal import Journal

pytestmark = pytest.mark.usefixtures("toy")

PROBED = {
    "python": "3.12.3",
    "system": "Linux",
    "machine": "x86_64",
    "glibc": "2.39",
    "packages": {"jax": "0.11.2", "NumPy": "2.5.2"},
}


def toy_of(folder, **changes):
    return toy_recipe(folder / "toy.npz", **changes)


class Parcels:
    """Several parcels of one training, with room for less and less."""

    def __init__(self, out, recipe):
        self.out, self.facts, self.made = out, {"recipe": recipe.values}, {}

    def add(self, name, size):
        self.made[name] = Parcel(self.out / name, Limits(16, 8, (size + 300_000) / 1e6), self.facts)
        return self.made[name]

    def rehearse(self, journal):
        staging = self.add("all", 10**6)._stage(journal)
        weights, state = (
            sum(path.stat().st_size for path in staging.glob(f"{stem}-*"))
            for stem in ("weights", "state")
        )
        shutil.rmtree(staging)
        self.add("some", weights + state - 1)
        self.add("little", weights + 1)
        with pytest.raises(ValueError, match="expected room for them: raise --return-mb"):
            self.add("none", weights - 1).rehearse(journal)
        del self.made["none"]
        return sum(parcel.rehearse(journal) for parcel in self.made.values())

    def __call__(self, journal):
        for parcel in self.made.values():
            parcel(journal)


@pytest.fixture(scope="module")
def trainings(folder, tmp_path_factory):
    """Folder of the same training without and with blocks; the second of five epochs is kept."""
    out, toy = tmp_path_factory.mktemp("trainings"), toy_of(folder)
    options = {"evaluate": False, "say": quietly}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "_is_best", lambda self, row: row["epoch"] <= 2)
        recipes.train(toy, out / "plain", **options)
        parcels = Parcels(out, toy)
        recipes.train(toy, out / "paced", max_minutes=60, blocks=1, callbacks=[parcels], **options)
    assert {path.name for path in out.iterdir()} == {
        *("plain", "paced", "all", "some", "little", "none")
    }
    return out


@pytest.fixture
def no_wheels(monkeypatch):
    """Nothing is downloaded; the machine is said to have all that is needed."""
    monkeypatch.setattr(sys.modules[pack.__module__], "fetch", lambda *args: ["numpy"])


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


def wheel(folder, name, version="1.0", needs=()):
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\n")
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{name}-{version}.data/purelib/{name}_more.py", "")
    return path


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


def test_a_pack_to_train_has_no_test_images_and_one_to_attack_only_these(
    folder, trainings, tmp_path, no_wheels
):
    toy = toy_of(folder)
    counts = {}
    for task in ("train", "evaluate"):
        options = {"resume": trainings / "plain", "evaluate": True} if task == "evaluate" else {}
        manifest = pack(toy, tmp_path / task, say=quietly, **options)
        assert manifest["task"] == task
        done = start(tmp_path / task, "check")
        assert done.returncode == 0 and "All bundles are here (1)" in done.stdout
        with tarfile.open(tmp_path / task / "bundle.001") as archive:
            member = archive.extractfile("data/manifest.json")
            counts[task] = json.load(member)["counts"]
            names = archive.getnames()
        assert ("runs/recipe/best.npz" in names) == (task == "evaluate")
        assert "runs/recipe/checkpoint.npz" not in names
    assert counts == {"train": {"train": 44, "test": 0}, "evaluate": {"train": 0, "test": 20}}


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


# There


def start(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-I", str(folder / "offline.pyz"), *arguments],
        capture_output=True,
        text=True,
    )


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


# Minutes


def test_a_training_that_fits_is_the_same_with_blocks(trainings):
    """The rehearsal leaves nothing, and a stretch of 1 changes no bit."""
    plain, paced = RunFolder(trainings / "plain"), RunFolder(trainings / "paced")
    assert_same_training(paced, plain)
    (start,) = paced.read_json("run.json")["starts"]
    assert start["pace"]["step"] > 0 and start["pace"]["compilation"] > 0
    names = {path.name for path in paced.path.iterdir()}
    assert not {name for name in names if "rehearsal" in name or "unfinished" in name}


@pytest.fixture
def slow(monkeypatch):
    """Epochs seem to take so many seconds."""

    def set_to(seconds):
        monkeypatch.setattr(pace.Pace, "epoch", lambda self, steps, every: seconds)

    return set_to


def test_a_training_is_shortened_with_its_schedule(folder, tmp_path, slow):
    slow(60)
    toy = short(folder, **{"training.epochs": 50})
    kept = recipes.train(toy, tmp_path / "run", max_minutes=5.9, blocks=1, say=quietly)
    rows, facts = history(kept), kept.read_json("run.json")
    epochs = facts["epochs"]
    assert len(rows) == epochs and 3 <= epochs <= 5  # compilation took the rest
    assert facts["state"] == "finished"
    schedule = schedules.create("one_cycle", {"peak": 0.1}, 4 * epochs)
    expected = [float(schedule(4 * (row["epoch"]))) for row in rows]
    np.testing.assert_allclose([row["learning_rate"] for row in rows], expected, rtol=1e-4)
    card = kp.hub.load_card(kept / "model")
    assert card.provenance["epochs"] == card.recipe["training"]["epochs"] == epochs


def test_blocks_share_a_schedule_and_a_slower_one_shortens_what_is_left():
    journal = SimpleNamespace(
        deadline=time.monotonic() + 100,
        pace=pace.Pace(0, 1, 0, 0, 0, 1),
        validation=SimpleNamespace(every=1),
        history=[{}] * 6,
        epochs=50,
    )
    lines = []
    assert pace.fitting(journal, 10, 3, lines.append) == 6 + 3 * 9
    assert "1 images a second, 10.5 s an epoch, 100 s are left" in lines[0]
    assert "3 times 9 epochs would fit; the training has 33, not 50" in lines[1]
    journal.epochs = 12
    assert pace.fitting(journal, 10, 3, quietly) == 12
    with pytest.raises(ValueError, match="expected at least 1, the minutes of a block"):
        recipes.train(None, "nowhere", blocks=1)


def test_no_epoch_that_fits_is_an_error_before_the_first_step(folder, tmp_path, slow):
    """After which another recipe can begin there."""
    slow(1e6)
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"expected at least 1000000\.0, for one epoch"):
        recipes.train(short(folder), out, max_minutes=5, blocks=1, say=quietly)
    assert not (out / "checkpoint.npz").exists()
    other = short(folder, **{"data.limit": 30})
    RunFolder(out).check(other, resume=False)
    (out / ".lock").unlink()  # somebody's own file, in a folder where no training was
    with pytest.raises(ValueError, match="holds a training"):
        RunFolder(out).check(other, resume=False)


def test_the_pace_is_what_was_slept():
    def rehearse(callbacks, steps):
        (watch,) = callbacks
        watch.set_params({"steps": steps})
        watch.on_epoch_begin(0)
        for batch in range(steps):
            time.sleep(0.02)
            watch.on_train_batch_end(batch, {"loss": np.float32(0)})
        time.sleep(0.1)
        watch.on_test_end()
        time.sleep(0.2)  # an attack
        watch.on_epoch_end(0)

    predicted = np.array([1, 2, 0])
    attacked = SimpleNamespace(every=3, last=None, x=None, batch_size=2)
    attacked.target = SimpleNamespace(predict=lambda x, batch_size: predicted, num_classes=3)
    labels = []
    attacked.measure = lambda y: (labels.append(list(y)), time.sleep(0.05))
    course = SimpleNamespace(
        attacked=attacked,
        rehearse=rehearse,
        batches=SimpleNamespace(steps_per_epoch=5, batch_size=10),
    )
    assigned = []
    journal = SimpleNamespace(
        values=lambda: "before",
        assign=assigned.append,
        rehearse=lambda: 0.3,
        robust_accuracy=lambda: 0.5,
    )
    found = pace.measure(course, journal)
    assert found.step == pytest.approx(0.02, rel=0.5)
    assert found.validation == pytest.approx(0.1, rel=0.5)
    assert found.attack == pytest.approx(0.05, rel=0.5)
    assert found.images_per_second == pytest.approx(10 / found.step)
    assert found.compilation >= 0.5 and found.writing == 0.3
    expected = 1.05 * (7 * found.step + found.validation + found.attack / 3 + 0.3) + 0.02
    assert found.epoch(7, 3) == pytest.approx(expected)
    assert assigned == ["before"] and (attacked.every, attacked.last) == (3, 0.5)
    # All are attacked, and one, whose batch is smaller.
    assert [1, 2, 0] in labels and [1, 0, 1] in labels


@pytest.mark.parametrize("optimizer", ["sgd", "entropy_sgd", "sam", "adam"])
def test_a_stretched_schedule_is_the_shorter_one(folder, optimizer):
    """Whatever optimizer has it, and after it was copied."""
    changes = {"optimizer": {"name": optimizer}, "schedule": {"name": "cosine", "peak": 0.4}}
    if optimizer == "entropy_sgd":
        changes["optimizer"]["inner_steps"] = 2
    recipe = short(folder, **changes)
    made = recipes.build.optimizer(recipe, 100)
    made.build([keras.Variable(np.zeros(3, "float32"))])
    fresh = float(made.learning_rate)
    schedules.adapt(made, 100, 50)
    inner = getattr(made, "inner_optimizer", None) or made
    steps = 20 // getattr(made, "batches_a_step", 1)
    inner.iterations.assign(steps)
    expected = schedules.create("cosine", {"peak": 0.4}, 50 // getattr(made, "batches_a_step", 1))
    assert float(made.learning_rate) == pytest.approx(float(expected(steps)), rel=1e-5)
    copy = type(made).from_config(made.get_config())
    assert float(copy.learning_rate) == pytest.approx(fresh)


@pytest.mark.skipif(BACKEND != "jax", reason="TensorFlow traces for any shape")
def test_nothing_is_compiled_after_the_rehearsal(folder, tmp_path, caplog):
    import jax

    marks = []

    def say(text):
        if "images a second" in text:
            marks.append(len(caplog.records))

    big = ("train_step", "test_step", "traced", "_batch", "cond", "_uniform")
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        recipes.train(
            short(folder, **{"training.epochs": 6, "validation.every": 1, "data.validation": 20}),
            tmp_path / "run",
            max_minutes=60,
            blocks=1,
            say=say,
        )
    texts = [record.getMessage() for record in caplog.records]
    compiled = [text for text in texts if text.startswith("Finished XLA")]
    assert sum("jit(train_step)" in text for text in compiled) == 1
    late = [t for t in texts[marks[0] :] if t.startswith("Finished XLA")]
    assert not [t for t in late if any(f"jit({name})" in t for name in big)]


# The way back


def test_a_parcel_is_a_run_rounded(trainings, tmp_path):
    run = RunFolder(trainings / "plain")
    found = collect(trainings / "all", tmp_path / "run", say=quietly)
    assert found.state() == "trained" and history(found) == history(run)
    for name in ("best.npz", "checkpoint.npz"):
        (ours, facts), (theirs, _) = found.read_arrays(name), run.read_arrays(name)
        kinds = set()
        for a, b in zip(ours, theirs, strict=True):
            kinds.add((a.dtype.str, b.dtype.str))
            np.testing.assert_allclose(a.astype(b.dtype), b, rtol=1e-3, atol=1e-6)
        assert ("<f2", "<f4") in kinds
        # The weights that are trained, and what counts, are exact.
        assert (("<f4", "<f4") in kinds) == (name == "checkpoint.npz")
        # The kept epoch, which is not the last.
        assert facts.get("epoch", 2) == 2
    model = kp.load_model(found / "model")
    for a, b in zip(model.get_weights(), found.read_arrays("best.npz")[0], strict=True):
        np.testing.assert_array_equal(a, b.astype("float32"))
    assert (found / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_limits_do_not_allow_is_left_out(trainings, folder, tmp_path):
    """The momentum first, then the state."""
    told = {
        n: json.loads((trainings / n / "run.json").read_text()) for n in ("all", "some", "little")
    }
    assert [facts["state_without"] for facts in told.values()] == ["", "momentum", "all"]
    found = collect(trainings / "some", tmp_path / "some", say=quietly)
    toy = toy_of(folder)
    resumed = recipes.train(toy, found.path, resume=True, evaluate=False, say=quietly)
    assert len(history(resumed)) == 5
    found = collect(trainings / "little", tmp_path / "little", say=quietly)
    assert not (found / "checkpoint.npz").exists() and (found / "model").is_dir()


def test_a_collected_run_goes_on(trainings, folder, tmp_path):
    """To nearly what an uninterrupted one becomes: on the way momentum and average were rounded."""
    toy, parcels = toy_of(folder), Parcels(tmp_path, toy_of(folder))
    parcels.add("all", 10**6)

    def follow(journal):
        parcels(journal)
        journal.model.stop_training = len(journal.history) == 3

    options = {"evaluate": False, "say": quietly}
    recipes.train(toy, tmp_path / "run", callbacks=[follow], **options)
    found = collect(tmp_path / "all", tmp_path / "back", say=quietly)
    assert found.state() == "stopped" and len(history(found)) == 3
    caveats = kp.hub.load_card(found / "model").caveats
    assert "The training was stopped after epoch 3 of 5." in caveats
    resumed = recipes.train(toy, found.path, resume=True, **options)
    whole = RunFolder(trainings / "plain")
    # The third epoch was not attacked, but for the last of a process.
    assert [r["loss"] for r in history(resumed)[:3]] == [r["loss"] for r in history(whole)[:3]]
    runs = [run.read_arrays("checkpoint.npz")[0] for run in (resumed, whole)]
    for a, b in zip(*runs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.02, atol=5e-3)


@pytest.mark.parametrize(("size", "parts"), [(1.0, 1), (0.0021, 3)])
def test_parts_are_below_a_size_and_count(size, parts):
    limits = Limits(size, 8, 64)
    assert limits.allow(6000) and limits.allow(*[6000] * (6 // parts))
    assert not limits.allow(*[6000] * (6 // parts + 1))
    for unfit in ((0, 8, 64), (16, 2, 64)):
        with pytest.raises(ValueError, match="Received"):
            Limits(*unfit)


def test_files_are_replaced_so_that_run_json_is_always_right(trainings, folder, tmp_path):
    """New ones come first, old ones go last; nothing else of a training is in the folder."""
    for name, expected in (
        ("all", {"run.json", "weights-2.npz.001", "state-5.npz.001"}),
        ("little", {"run.json", "weights-2.npz.001"}),
    ):
        assert {path.name for path in (trainings / name).iterdir()} == expected
    values = toy_of(folder).values
    Parcel(trainings / "all", Limits(), {"recipe": values})  # the same training goes on
    with pytest.raises(ValueError, match="what came of another recipe, 'A toy'"):
        Parcel(trainings / "all", Limits(), {"recipe": {**values, "title": "Another"}})


def test_unfinished_files_are_within_the_folder_if_need_be(folder, tmp_path, monkeypatch):
    parcel = Parcel(tmp_path / "a" / "out", Limits(), {"recipe": toy_of(folder).values})
    assert parcel._folder().parent == tmp_path / "a"
    make = tempfile.mkdtemp

    def refuse(prefix, dir):
        if dir == (tmp_path / "a").resolve():
            raise PermissionError("not yours")
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert parcel._folder().parent == tmp_path / "a" / "out"
    # What a killed process left goes with the next one.
    Parcel(tmp_path / "a" / "out", Limits(), {"recipe": toy_of(folder).values})
    assert not [*(tmp_path / "a").glob(".*"), *(tmp_path / "a" / "out").iterdir()]


def test_what_did_not_come_back_whole_is_refused(trainings, tmp_path):
    back = shutil.copytree(trainings / "all", tmp_path / "back")
    data = bytearray((back / "state-5.npz.001").read_bytes())
    data[-1] ^= 1
    (back / "state-5.npz.001").write_bytes(data)
    with pytest.raises(ValueError, match=r"the state in .*damaged 1"):
        collect(back, tmp_path / "run", say=quietly)
    (back / "state-5.npz.001").unlink()
    with pytest.raises(FileNotFoundError, match=r"the state in .*missing 1"):
        collect(back, tmp_path / "run", say=quietly)
    (back / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="none of an offline run"):
        collect(back, tmp_path / "run", say=quietly)
    (back / "run.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"without run\.json"):
        collect(back, tmp_path / "run", say=quietly)
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_a_run_is_collected_again_when_it_went_on(trainings, folder, tmp_path):
    out = tmp_path / "run"
    first = collect(trainings / "all", out, say=quietly)
    rows = first.read_json("run.json")
    first.write_json("run.json", {**rows, "history": rows["history"][:3]})
    assert len(history(collect(trainings / "all", out, say=quietly))) == 5
    rows["history"][0]["loss"] += 1
    first.write_json("run.json", rows)
    with pytest.raises(ValueError, match="does not continue"):
        collect(trainings / "all", out, say=quietly)


def test_a_run_without_its_state_is_measured_and_never_trained_anew(trainings, folder, tmp_path):
    found = collect(trainings / "little", tmp_path / "run", say=quietly)
    best = (found / "best.npz").read_bytes()
    toy = toy_of(folder)
    assert recipes.train(toy, found.path, resume=True, say=quietly).state() == "finished"
    assert (found / "best.npz").read_bytes() == best
    facts = found.read_json("run.json")
    found.write_json("run.json", {**facts, "epochs": 9})
    with pytest.raises(ValueError, match=r"without its checkpoint\.npz; expected it, to go on"):
        recipes.train(toy, found.path, resume=True, say=quietly)


def test_reports_join_the_run_whose_model_was_attacked(trainings, folder, tmp_path):
    toy, loaded = toy_of(folder), kp.data.load(folder / "toy.npz")
    run_ = RunFolder(shutil.copytree(trainings / "plain", tmp_path / "run"))
    run._evaluate(toy, run_, loaded, tmp_path / "out", {"recipe": toy.values})
    found = collect(tmp_path / "out", run_.path, say=quietly)
    assert found.state() == "finished"
    (row,) = kp.hub.load_card(found / "model").measurements
    model = kp.load_model(found / "model")
    x, y = loaded.x_test[:10], loaded.y_test[:10]
    attacks = [kp.attacks.FGSM("linf", 0.1)]
    report = kp.evaluate(model, x, y, norm="linf", epsilons=[0.1], attacks=attacks)
    assert row.robust_accuracy == report.robust_accuracy(0.1)
    for changed in ({"objective.epsilon": 0.3}, {"training.seed": 7}):
        with pytest.raises(ValueError, match="differs from the one"):
            run._evaluate(toy.replaced(changed), run_, loaded, tmp_path / "no", {"recipe": {}})
    report = tmp_path / "out" / "report_linf.json"
    text = report.read_text()
    report.write_text(text.replace('"norm": "linf"', '"norm": "l2"'))
    with pytest.raises(ValueError, match=r"the reports in .*damaged 1"):
        collect(tmp_path / "out", run_.path, say=quietly)
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps({**facts, "reports": []}))
    with pytest.raises(ValueError, match="no evaluation was finished"):
        collect(tmp_path / "out", run_.path, say=quietly)
    run_.write_arrays("best.npz", run_.read_arrays("best.npz")[0], epoch=3)
    with pytest.raises(ValueError, match="not what was attacked there"):
        collect(tmp_path / "out", run_.path, say=quietly)


def test_the_command(trainings, folder, tmp_path, no_wheels, capsys):
    toml = folder / "toy.toml"
    toml.write_text(short(folder).to_toml(), encoding="utf-8")
    assert cli.main(["offline", "probe"]) == 0
    assert capsys.readouterr().out.startswith("python3 -c ")
    out = str(tmp_path / "b")
    assert cli.main(["offline", "pack", str(toml), "--out", out, "--set", "training.epochs=3"]) == 0
    assert "&& python3 offline.pyz run --max-minutes 8 --out OUT" in capsys.readouterr().out
    with tarfile.open(tmp_path / "b" / "bundle.001") as archive:
        text = archive.extractfile("recipes/toy.toml").read().decode()
    assert "epochs = 3" in text
    assert cli.main(["offline", "run", str(folder), "--out", "x"]) == 1
    assert "without offline.pyz" in capsys.readouterr().err
    back, new = str(trainings / "all"), str(tmp_path / "new")
    assert cli.main(["offline", "collect", back, "--out", new]) == 0
    assert f"keras-pde train {new}/recipe.toml --out {new} --resume" in capsys.readouterr().out
