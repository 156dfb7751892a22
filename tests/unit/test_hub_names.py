"""Published models by their names: in the package's list, and in folders of one's own."""

import errno
import json
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hub_cases import contents, edit_card, logits

import keras_pde as kp
from keras_pde import hub
from keras_pde.files import sha256
from keras_pde.hub import board, download, index, mirrors
from keras_pde.hub.publishing import Place

pytestmark = pytest.mark.usefixtures("row")


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
