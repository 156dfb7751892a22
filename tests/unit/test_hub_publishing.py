"""Models are published whole or not at all, checked and unpublished."""

import errno
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hub_cases import (
    README,
    WEIGHTS,
    complete_fields,
    contents,
    edit_card,
    logits,
    make_model,
)
from selection import some

import keras_pde as kp
from keras_pde import cli, hub
from keras_pde.hub import board, download, index, mirrors, publishing

pytestmark = pytest.mark.usefixtures("row")


def test_published_model_is_listed_and_loads_by_name(clone, run):
    card = hub.publish(run)
    (listed,) = kp.list_models()
    assert hub.load_card("toy/net") == card
    assert (listed.name, listed.parameters, listed.weights) == ("toy/net", 271, "float32")
    (headline,), (measured,) = listed.measurements, card.measurements
    assert headline.threat == measured.threat
    assert headline.robust_accuracy == measured.robust_accuracy
    np.testing.assert_array_equal(logits(kp.load_model("toy/net")), logits(make_model()))
    assert hub.load_card(clone / "saved_models" / "toy" / "net") == card
    readme = (clone / "README.md").read_text()
    assert readme == board.with_table(README, [card]) and "| `toy/net` |" in readme
    assert readme.startswith("# Title\n") and readme.endswith("End\n")
    assert (clone / "zoo" / "README.md").read_text() == board.page([card])
    assert sorted(contents(clone / "saved_models")) == [
        f"toy/net/{name}" for name in ("card.json", "golden.npz", WEIGHTS)
    ]


def test_names_are_given_once(clone, run):
    hub.publish(run)
    before = contents(clone)
    for name, match in {
        "toy/net": "is published",
        "toy": "within another",
        "toy/net/2": "within another",
        "../net": "between slashes",
    }.items():
        with pytest.raises(ValueError, match=match):
            hub.publish(run, name=name)
    assert contents(clone) == before
    card = hub.publish(run, weights="float16", overwrite=True)
    assert card.weights == "float16" and "rounded to float16" in card.caveats[-1]
    assert [model.weights for model in kp.list_models()] == ["float16"]
    kp.load_model("toy/net")
    assert list(index.read_index(index.PACKAGE_INDEX)) == ["toy/net"]


@pytest.mark.parametrize("field", ["name", "objective", "measurements", "recipe", "provenance"])
def test_incomplete_cards_are_not_published(clone, run, field):
    before = contents(clone)
    edit_card(run / "model", **{field: type(complete_fields()[field])()})
    with pytest.raises(ValueError, match=rf"without \['{field}'\]"):
        hub.publish(run)
    with pytest.raises(ValueError, match="does not exist"):
        hub.publish(run / "nothing")
    assert contents(clone) == before


@pytest.mark.parametrize(("limit", "models"), [("MODEL_LIMIT", 1), ("TOTAL_LIMIT", 2)])
def test_repository_limits_the_size_of_weights(clone, run, tmp_path, monkeypatch, limit, models):
    size = hub.publish(run, name="first").sizes[WEIGHTS]
    before = contents(clone)
    monkeypatch.setattr(f"keras_pde.hub.publishing.{limit}", models * size - 1)
    with pytest.raises(ValueError, match="--float16 or --no-weights"):
        hub.publish(run)
    assert contents(clone) == before
    hub.publish(run, weights="none")
    hub.publish(run, to=tmp_path / "own")
    monkeypatch.setattr(f"keras_pde.hub.publishing.{limit}", models * size)
    hub.publish(run, overwrite=True)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    "place", ["hub.publishing.save_model", "files.flush", "hub.publishing._replaced"]
)
@pytest.mark.parametrize("exists", some([False, True], fast=[True]))
def test_interrupted_publication_changes_nothing(clone, run, monkeypatch, exists, place, error):
    if exists:
        hub.publish(run)
    before = contents(clone)

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(f"keras_pde.{place}", fail)
        hub.publish(run, weights="float16", overwrite=True)
    assert contents(clone) == before
    assert hub.publish(run, weights="float16", overwrite=True) == hub.load_card("toy/net")


def test_who_publishes_at_the_same_time_waits(clone, run, monkeypatch):
    save, saving, go_on = hub.save_model, threading.Event(), threading.Event()

    def slow(*args, **kwargs):
        monkeypatch.setattr(publishing, "save_model", save)
        saving.set()
        assert go_on.wait(60)
        return save(*args, **kwargs)

    monkeypatch.setattr(publishing, "save_model", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(hub.publish, run)
        assert saving.wait(60)
        second = pool.submit(hub.publish, run, name="second")
        time.sleep(0.2)
        assert not second.done() and kp.list_models() == []
        go_on.set()
        first.result(), second.result()
    assert [card.name for card in kp.list_models()] == ["second", "toy/net"]


def _fail(*args):
    raise OSError(errno.ENOSPC, "disk full")


@pytest.mark.parametrize("listed", [False, True])
def test_a_process_killed_while_it_replaces_leaves_a_model_to_load(
    clone, run, tmp_path, monkeypatch, listed
):
    """Before the list says so the old one, after it the new one; the next publication cleans up."""
    hub.publish(run, to=tmp_path / "hub", name="toy/other")
    monkeypatch.setenv(index.OWN_INDEX, str(tmp_path / "hub" / "zoo.json"))
    monkeypatch.setenv(mirrors.MIRRORS, str(tmp_path / "hub"))
    monkeypatch.setenv(download.CACHE, str(tmp_path / "cache"))
    folder = tmp_path / "hub" / "toy" / "other"
    old = [w.copy() for w in kp.load_model("toy/other").get_weights()]
    code = "import os, sys; from keras_pde.hub import publishing\n"
    if listed:
        code += "write = publishing.Place.write_index\n"
        code += "publishing.Place.write_index = lambda *a: (write(*a), os._exit(9))\n"
    else:
        code += "publishing.Place.write_index = lambda *a: os._exit(9)\n"
    code += "import hub_cases\nwith hub_cases.registered(): publishing.publish(sys.argv[1], "
    code += "name='toy/other', to=sys.argv[2], weights='float16', overwrite=True)"
    path = os.pathsep.join([str(Path(__file__).parents[1] / "cases"), *sys.path])
    command = [sys.executable, "-c", code, str(run), str(tmp_path / "hub")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    assert done.returncode == 9 and len(list(folder.iterdir())) == 6
    assert any((tmp_path / "hub").glob(".publish-*"))
    weights = kp.load_model("toy/other").get_weights()
    assert all((a == b).all() for a, b in zip(weights, old, strict=True)) == (not listed)
    assert publishing.check(tmp_path / "hub") == {"toy/other": ""}
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(publishing.Place, "write_index", _fail)
        hub.publish(run, to=tmp_path / "hub", name="toy/other", weights="float16", overwrite=True)
    assert publishing.check(tmp_path / "hub") == {"toy/other": ""}
    (tmp_path / "hub" / ".zoo.json.x.unfinished").mkdir()  # killed while the list was written
    hub.publish(run, to=tmp_path / "hub", name="toy/other", overwrite=True)
    assert len(list(folder.iterdir())) == 3 and not any((tmp_path / "hub").glob(".*unfinished"))
    weights = kp.load_model("toy/other").get_weights()
    assert all((a == b).all() for a, b in zip(weights, old, strict=True))


def test_files_of_the_users_own_stay(clone, run, tmp_path, capsys):
    place = tmp_path / "hub"
    place.mkdir()
    (place / "README.md").write_text("my notes")
    with pytest.raises(ValueError, match=r"README.md, which is not generated.*Move yours"):
        hub.publish(run, to=place)
    assert (place / "README.md").read_text() == "my notes"
    (place / "README.md").unlink()
    hub.publish(run, to=place)
    (place / "toy" / "net" / "card.json.mine").write_text("notes")
    with pytest.raises(ValueError, match="holds other things"):
        hub.publish(run, to=place, overwrite=True)
    publishing.unpublish("toy/net", place)
    assert [p.name for p in (place / "toy" / "net").iterdir()] == ["card.json.mine"]
    for command in (["check"], ["unpublish", "toy/net"]):
        assert cli.main([*command, "--to", str(tmp_path / "typo")]) == 1
        assert "which has no list of models" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_check_and_unpublish(clone, run, tmp_path, capsys):
    place = tmp_path / "my hub"
    for name in ("toy/one", "toy/two"):
        assert cli.main(["publish", str(run), "--name", name, "--to", str(place)]) == 0
    assert f"export KERAS_PDE_HUB='{place}'" in capsys.readouterr().out
    assert cli.main(["check", "--to", str(place)]) == 0
    damaged = place / "toy" / "two" / "model.weights.h5"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert cli.main(["check", "--to", str(place)]) == 1
    shown = capsys.readouterr()
    assert re.search(r"toy/one +ok", shown.out) and re.search(r"toy/two +.*SHA-256", shown.out)
    assert cli.main(["unpublish", "toy/two", "--to", str(place)]) == 0
    assert cli.main(["check", "--to", str(place)]) == 0
    assert not damaged.parent.exists() and "toy/two" not in (place / "README.md").read_text()
    assert cli.main(["unpublish", "toy/two", "--to", str(place)]) == 1
    assert "unknown model 'toy/two'" in capsys.readouterr().err
    assert cli.main(["unpublish", "toy/one", "--to", str(place)]) == 0
    assert not (place / "toy").exists()


def test_prefetch(clone, run, tmp_path, monkeypatch, capsys):
    place = tmp_path / "hub"
    for name in ("toy/one", "toy/two"):
        hub.publish(run, name=name, to=place)
    monkeypatch.setenv(index.OWN_INDEX, str(place / "zoo.json"))
    monkeypatch.setenv(mirrors.MIRRORS, str(place))
    monkeypatch.setenv(download.CACHE, str(tmp_path / "cache"))
    assert cli.main(["prefetch", "toy/one"]) == 0
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert cli.main(["prefetch"]) == 0
    assert "2 models" in capsys.readouterr().out
    monkeypatch.delenv(mirrors.MIRRORS)
    for name in ("toy/one", "toy/two"):
        kp.load_model(name)


def test_folder_of_an_interrupted_publication_is_taken_over(clone, run):
    hub.publish(run)
    index.PACKAGE_INDEX.write_text("{}")
    with pytest.raises(ValueError, match="unknown model 'toy/net'"):
        kp.load_model("toy/net")
    hub.publish(run)
    kp.load_model("toy/net")


def test_publishing_needs_a_clone_or_a_folder(clone, run):
    (clone / "setup.cfg").unlink()
    with pytest.raises(ValueError, match="--to DIR"):
        hub.publish(run)


def test_document_without_markers(clone, run):
    (clone / "README.md").write_text("# Title\n")
    with pytest.raises(ValueError, match="without the lines"):
        hub.publish(run)
