"""Published models: publishing, the list, names, boards."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hub_cases import (
    SHAPE,
    WEIGHTS,
    complete_fields,
    edit_card,
    make_model,
    make_row,
    registered,
)
from selection import some

import keras_pde as kp
from keras_pde import cli, hub
from keras_pde.files import sha256
from keras_pde.hub import board, download, index, load, mirrors, publishing
from keras_pde.hub.listing import Listing
from keras_pde.hub.publishing import Place

README = f"# Title\n\n{board.BEGIN}\n{board.END}\n\nEnd\n"


@pytest.fixture(scope="module", autouse=True)
def row():
    with registered():
        yield


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository without models, from which the package seems to be imported."""
    root = tmp_path / "clone"
    (root / "keras_pde").mkdir(parents=True)
    (root / "keras_pde" / "zoo.json").write_text("{}")
    (root / "setup.cfg").touch()
    (root / "README.md").write_text(README)
    monkeypatch.setattr(index, "PACKAGE_INDEX", root / "keras_pde" / "zoo.json")
    monkeypatch.setattr(load, "SAVED_MODELS", root / "saved_models")
    for name in (index.OWN_INDEX, mirrors.MIRRORS, download.OFFLINE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(download.CACHE, str(tmp_path / "cache"))
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory, row):
    """What `keras-pde train` leaves."""
    folder = tmp_path_factory.mktemp("finished")
    hub.save_model(make_model(), folder / "model", complete_fields())
    return folder


@pytest.fixture
def run(tmp_path, finished):
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def logits(model):
    return np.asarray(model.predict(np.full((1, *SHAPE), 0.5, "float32"), verbose=0))


# Publishing


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
    hub.publish(run, to=tmp_path / "hub", name="toy/other", overwrite=True)
    assert len(list(folder.iterdir())) == 3 and not any((tmp_path / "hub").glob(".publish-*"))
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


# Loading by name


def test_unknown_names_give_the_nearest(clone, run):
    hub.publish(run)
    with pytest.raises(ValueError, match=r"Did you mean 'toy/net'\? It is no folder either"):
        kp.load_model("toy/nett")
    with pytest.raises(ValueError, match="does not exist"):
        kp.load_model(clone / "toy")


def test_name_comes_before_a_folder(clone, run, monkeypatch):
    hub.publish(run)
    monkeypatch.chdir(clone)
    (clone / "toy" / "net").mkdir(parents=True)
    kp.load_model("toy/net")
    with pytest.raises(ValueError, match="without its card"):
        kp.load_model("./toy/net")


def test_card_edited_by_hand_is_refused(clone, run):
    hub.publish(run)
    edit_card(clone / "saved_models" / "toy" / "net", title="Better", licence="MIT")
    for load_it in (kp.load_model, hub.load_card):
        with pytest.raises(
            ValueError, match=r"card\.json with SHA-256.*the list of models expects"
        ):
            load_it("toy/net")


def test_card_without_weights_names_its_recipe(clone, run):
    hub.publish(run, weights="none")
    assert os.listdir(clone / "saved_models" / "toy" / "net") == ["card.json"]
    with pytest.raises(ValueError, match="keras-pde show toy/net --recipe"):
        kp.load_model("toy/net")


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"b": {}}', '{"toy/net": {"schema": 1}}'])
def test_damaged_list(clone, text):
    index.PACKAGE_INDEX.write_text(text)
    with pytest.raises(ValueError, match="is not a list of models"):
        kp.list_models()


def test_list_under_another_name(clone, run):
    hub.publish(run)
    (listed,) = kp.list_models()
    index.PACKAGE_INDEX.write_text(json.dumps({"toy/other": listed.to_dict()}))
    with pytest.raises(ValueError, match="models of other names"):
        kp.load_model("toy/other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digests": {"card.json": "/etc/passwd"}}, "64 hexadecimal"),
        ({"digests": {}}, "64 hexadecimal"),
        ({"digests": {"other.json": 64 * "0"}}, "64 hexadecimal"),
        ({"sizes": {"card.json": 0}}, "the bytes of the same file"),
        ({"name": "../net"}, "between slashes"),
        ({"parameters": 1}, "says other things than its card"),
    ],
)
def test_list_that_lies(clone, run, change, message):
    hub.publish(run)
    (listed,) = kp.list_models()
    values = {**listed.to_dict(), **change}
    index.PACKAGE_INDEX.write_text(json.dumps({values["name"]: values}))
    with pytest.raises(ValueError, match=message):
        hub.load_card(values["name"])


def test_boards_are_drawn_from_the_listed_cards(clone, run):
    hub.publish(run)
    edit_card(clone / "saved_models" / "toy" / "net", title="Better")
    with pytest.raises(ValueError, match="the list of models expects"):
        Place.clone().write_boards()


def test_a_list_that_cannot_be_written_leaves_the_published_model(clone, run, monkeypatch):
    hub.publish(run)
    before = contents(clone)
    replace_ = os.replace

    def fail(source, target):
        if str(target).endswith("zoo.json"):
            raise OSError(errno.ENOSPC, "disk full")
        replace_(source, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(os, "replace", fail)
        hub.publish(run, weights="float16", overwrite=True)
    assert contents(clone) == before
    kp.load_model("toy/net")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(os, "replace", fail)
        hub.publish(run, name="new")
    assert contents(clone) == before


# A folder of one's own


def test_folder_served_over_http(clone, run, tmp_path, monkeypatch):
    folder = tmp_path / "hub"
    card = hub.publish(run, to=folder, weights="float16")
    assert contents(clone)["keras_pde/zoo.json"] == b"{}"
    assert (folder / "README.md").read_text() == board.page([card])
    with pytest.raises(ValueError, match="unknown model"):
        kp.load_model("toy/net")
    monkeypatch.setenv(index.OWN_INDEX, str(folder / "zoo.json"))
    with pytest.raises(FileNotFoundError, match=f"Set {mirrors.MIRRORS}"):
        kp.load_model("toy/net")
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *args: None})
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv(mirrors.MIRRORS, f"http://127.0.0.1:{server.server_address[1]}")
        model = kp.load_model("toy/net")
        server.shutdown()
    digest = sha256((folder / "toy" / "net" / "card.json").read_bytes())
    assert set(os.listdir(download.cache_folder())) == {digest, *card.digests.values()}
    monkeypatch.setenv(download.OFFLINE, "1")
    np.testing.assert_array_equal(logits(kp.load_model("toy/net")), logits(model))


def test_own_list_does_not_replace_models_of_the_package(clone, run, tmp_path, monkeypatch):
    hub.publish(run)
    hub.publish(run, to=tmp_path / "other", weights="float16")
    shutil.copy(index.PACKAGE_INDEX, tmp_path / "same.json")
    monkeypatch.setenv(index.OWN_INDEX, str(tmp_path / "same.json"))
    kp.load_model("toy/net")
    monkeypatch.setenv(index.OWN_INDEX, str(tmp_path / "other" / "zoo.json"))
    with pytest.raises(ValueError, match=r"other models under the names \['toy/net'\]"):
        kp.load_model("toy/net")
    monkeypatch.setenv(index.OWN_INDEX, str(tmp_path / "nowhere.json"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json as list of models"):
        kp.list_models()


def test_the_folder_of_a_run_stands_for_its_model(run, tmp_path):
    assert hub.load_card(run) == hub.load_card(run / "model")
    kp.load_model(run)


# The list


@pytest.fixture
def three(clone):
    rows = [make_row(), make_row(norm="l2", epsilon=8 / 255, robust_accuracy=0.4)]
    changes = {
        "c": {"measurements": rows[1:], "dataset": "cifar10"},
        "b": {"measurements": rows[:1], "dataset": "mnist", "data_tier": "synthetic"},
        "a": {"measurements": rows, "dataset": "mnist"},
    }
    listed = {}
    for name, change in changes.items():
        card = hub.Card(**complete_fields(name=name, **change), parameters=271)
        (load.SAVED_MODELS / name).mkdir(parents=True)
        (load.SAVED_MODELS / name / "card.json").write_text(card.to_json())
        listed[name] = Listing.of(card.to_json().encode())
    index.PACKAGE_INDEX.write_text(index.index_text(listed))
    Place.clone().write_boards()


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({}, "abc"),
        ({"dataset": "mnist"}, "ab"),
        ({"dataset": "fashion_mnist"}, ""),
        ({"norm": "l2"}, "ac"),
        ({"norm": "l2", "epsilon": 8 / 255}, "ac"),
        ({"norm": "linf", "epsilon": 8 / 255}, ""),
        ({"data_tier": "none"}, "ac"),
        ({"architecture": "hub_test_mlp"}, "abc"),
        ({"architecture": "lenet"}, ""),
        ({"max_params": 10}, ""),
        ({"max_params": 10**6, "norm": "l1"}, ""),
        ({"min_robust": 0.45}, "ab"),
        ({"min_robust": 0.45, "norm": "l2"}, ""),
    ],
)
def test_list_is_filtered(three, wanted, names):
    assert [card.name for card in kp.list_models(**wanted)] == list(names)


def test_a_list_shows_the_measurements_that_were_asked_for(three):
    """Not all those of a model of which one fits."""
    rows = str(kp.list_models()).count("linf"), str(kp.list_models(norm="l2")).count("linf")
    assert rows[0] and not rows[1]
    assert str(kp.list_models(norm="l2")).count("l2 ") == 2


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ({"dataset": "minst"}, "Did you mean 'mnist'"),
        ({"norm": "linfty"}, "Did you mean 'linf'"),
        ({"architecture": "lennet"}, "Did you mean 'lenet'"),
        ({"data_tier": "reel"}, "Did you mean 'real'"),
    ],
)
def test_list_of_what_does_not_exist(three, wanted, match):
    with pytest.raises(ValueError, match=match):
        kp.list_models(**wanted)


def test_commands(clone, run, capsys):
    assert cli.main(["publish", str(run), "--name", "toy/other", "--float16"]) == 0
    assert "Published toy/other: weights float16" in capsys.readouterr().out
    assert cli.main(["publish", str(run), "--name", "toy/other"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main(["list", "--norm", "linf", "--epsilon", "1/10"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3 and shown[2].split()[:2] == ["toy/other", "271"]
    for fits_none in (["--norm", "l2"], ["--min-robust", "1"]):
        assert cli.main(["list", *fits_none]) == 0
        assert "No published model fits" in capsys.readouterr().out
    assert cli.main(["list", "--json"]) == 0
    (listed,) = kp.list_models()
    assert [Listing.from_dict(m) for m in json.loads(capsys.readouterr().out)] == [listed]
    assert cli.main(["show", "toy/other"]) == 0
    card = hub.load_card("toy/other")
    assert hub.Card.from_json(capsys.readouterr().out) == card
    (clone / "zoo" / "README.md").unlink()
    assert cli.main(["publish"]) == 0
    assert "Drew the boards of 1 models" in capsys.readouterr().out
    assert (clone / "zoo" / "README.md").read_text() == board.page([card])


def test_board_says_what_a_reader_must_know(three, clone):
    page = (clone / "zoo" / "README.md").read_text()
    for text in ("## mnist, linf 0.1", "## cifar10, l2 8/255", "40.0 % - 60.0 %", "synthetic"):
        assert text in page
    assert Place.clone().cards().keys() == {"a", "b", "c"}
    proof = {
        "certified_accuracy": 0.25,
        "certified_interval": [0.1, 0.4],
        "certificate": {"label": "bounds", "config": {}},
    }
    certified = hub.Measurement(**make_row(**proof, alarms=["gradients vanish"]))
    page = board.page([hub.Card(**complete_fields(measurements=[certified]))])
    assert (
        "| 50.0 % (alarm) | 40.0 % - 60.0 % | 25.0 % |" in page
        and "alarm: linf 0.1: gradients vanish" in page
    )


def test_data_of_the_same_name_are_told_apart():
    cards = [
        hub.Card(**complete_fields(name=f"toy/{d}", dataset="mine", provenance={"data_digest": d}))
        for d in (64 * "a", 64 * "b")
    ]
    page = board.page(cards)
    assert page.count("## mine (SHA-256 ") == 2 and "aaaaaaaa)" in page and "bbbbbbbb)" in page
