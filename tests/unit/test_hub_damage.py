"""Saved models: all or nothing is written, and damage is found."""

import errno
import os
import zipfile

import numpy as np
import pytest
from hub_cases import (
    WEIGHTS,
    contents,
    edit_card,
    mlp,
    refused,
    sign,
)

from keras_pde import _keras
from keras_pde.hub import folder, load_model, save_model

pytestmark = pytest.mark.usefixtures("row")


# All or nothing


def test_existing_folder(tmp_path, saved, model, fields):
    before = contents(saved)
    with pytest.raises(ValueError, match="overwrite=True"):
        save_model(model, saved, fields)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "only_copy.tex").touch()
    with pytest.raises(ValueError, match="other things"):
        save_model(model, tmp_path / "thesis", fields, overwrite=True)
    assert contents(saved) == before and (tmp_path / "thesis" / "only_copy.tex").exists()


def fail_in(monkeypatch, place, error):
    owner, name = place.rsplit(".", 1)
    owner = {"os": os, "np": np, "_keras": _keras, "folder": folder}[owner]

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    "place", ["_keras.weights_file", "np.savez", "folder.load_folder", "os.fsync"]
)
@pytest.mark.parametrize("exists", [False, True])
def test_failure_changes_nothing(tmp_path, model, fields, monkeypatch, exists, place, error):
    folder = tmp_path / "tiny"
    if exists:
        save_model(model, folder, fields)
    before = contents(folder) if exists else None
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        fail_in(patch, place, error)
        save_model(model, folder, fields | {"title": "New"}, overwrite=True)
    assert os.listdir(tmp_path) == (["tiny"] if exists else [])
    assert not exists or contents(folder) == before


@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad disk"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2])
def test_failed_exchange_brings_the_old_back(saved, model, fields, monkeypatch, call, error):
    before, rename, calls = contents(saved), os.replace, []

    def fail(source, target):
        calls.append(target)
        if len(calls) == call:
            raise error
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(os, "replace", fail)
        save_model(model, saved, fields, overwrite=True)
    assert len(calls) >= call and contents(saved) == before
    assert os.listdir(saved.parent) == ["tiny"]


def test_folder_that_appears_meanwhile_is_kept(tmp_path, model, fields, monkeypatch):
    def load(folder):
        (tmp_path / "tiny").mkdir()
        (tmp_path / "tiny" / "theirs").touch()

    monkeypatch.setattr(folder, "load_folder", load)
    with pytest.raises(OSError, match="not empty"):
        save_model(model, tmp_path / "tiny", fields)
    assert os.listdir(tmp_path) == ["tiny"] and os.listdir(tmp_path / "tiny") == ["theirs"]


# Damage and mix-ups


def test_missing_files(saved):
    refused(saved.parent / "tinny", "does not exist")
    for name in ("golden.npz", WEIGHTS):
        (saved / name).rename(saved / "aside")
        refused(saved, f"without its {name}; expected a file with SHA-256")
        (saved / "aside").rename(saved / name)
    load_model(saved)
    (saved / "card.json").unlink()
    refused(saved, "without its card.json")


@pytest.mark.parametrize("name", ["golden.npz", WEIGHTS])
def test_damage_is_found_before_parsing(saved, name, monkeypatch):
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    parse = monkeypatch.setattr
    if name == "golden.npz":
        parse(zipfile, "ZipFile", None)
    else:
        parse(folder, "read_into", None)
    refused(saved, "its card expects")


def test_weights_of_another_model(saved, model, fields):
    other = mlp()
    save_model(other, saved.parent / "other", fields)
    stolen = (saved.parent / "other" / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(stolen)
    refused(saved, "belongs to another model")
    sign(saved)
    refused(saved, "differ from the golden")


def test_smaller_file_than_the_model_before_that_is_built(saved, monkeypatch):
    width = 10_000  # 0.8 GB
    monkeypatch.setattr(folder, "_load_weights", None)
    edit_card(saved, arguments={"width": width})
    refused(saved, "parameters=271; expected more than 1298")
    edit_card(saved, arguments={"width": width}, parameters=200_220_067)
    refused(saved, "expected at least 800880268, for the 200220067 parameters")
    edit_card(saved, arguments={"width": 6}, parameters=271)
    monkeypatch.undo()
    load_model(saved)


def test_larger_file_than_the_model(saved):
    with open(saved / WEIGHTS, "ab") as file:
        file.truncate(2**22)
    sign(saved)
    refused(saved, "more than")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architecture": "hub_test_mpl"}, "Did you mean 'hub_test_mlp'"),
        ({"arguments": {"width": 7}}, "the card was edited"),
        ({"arguments": {"width": 6, "activation": "relu"}}, "differ from the golden"),
        ({"arguments": {"wide": 7}}, "wide"),
        ({"arguments": {"width": 6, "steps": 10**8}}, "steps = 100000000; expected at most 1000"),
        ({"arguments": {"width": 6, "blocks": [1, 10**8]}}, "expected at most 1000"),
        ({"arguments": {"width": 10**9}}, "expected at most 1048576"),
        ({"parameters": 1}, "parameters=1"),
        ({"parameters": "187"}, "expected int"),
        ({"digests": {}}, "expects none"),
        ({"golden_tolerance": 1e9}, "golden_tolerance"),
        ({"golden_tolerance": float("nan")}, "NaN is not a number"),
        ({"classes": ["a"]}, "golden.npz"),
        ({"schema": 3, "robots": []}, "newer keras_pde"),
        ({"weights": "float16"}, "expected float16"),
        ({"sizes": {"model.weights.h5": "3"}}, "sizes="),
        ({"lisence": "MIT"}, "Did you mean 'licence'"),
    ],
)
def test_edited_card(saved, changes, match):
    edit_card(saved, **changes)
    refused(saved, match)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, b"\xff\xfe\xfa", "{}"])
def test_no_card_at_all(saved, text):
    (saved / "card.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(saved, "Received a card")


def test_endless_card(saved):
    (saved / "card.json").write_bytes(b" " * 2**21)
    refused(saved, "more than")
