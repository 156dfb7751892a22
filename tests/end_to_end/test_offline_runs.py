"""Offline trainings: what they leave, what comes back, and how it goes on."""

import json
import shutil
import tarfile
import tempfile

import numpy as np
import pytest
from offline_cases import Parcels, start, toy_of, without_wheels
from recipe_cases import assert_same_training, history, quietly, short

import keras_pde as kp
from keras_pde import cli, recipes
from keras_pde.offline import collect, pack, run
from keras_pde.offline.parcel import Limits, Parcel
from keras_pde.recipes import RunFolder
from keras_pde.recipes.journal import Journal

pytestmark = pytest.mark.usefixtures("toy")


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
    without_wheels(monkeypatch)


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


def test_a_training_that_fits_is_the_same_with_blocks(trainings):
    """The rehearsal leaves nothing, and a stretch of 1 changes no bit."""
    plain, paced = RunFolder(trainings / "plain"), RunFolder(trainings / "paced")
    assert_same_training(paced, plain)
    (start,) = paced.read_json("run.json")["starts"]
    assert start["pace"]["step"] > 0 and start["pace"]["compilation"] > 0
    names = {path.name for path in paced.path.iterdir()}
    assert not {name for name in names if "rehearsal" in name or "unfinished" in name}


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
