"""Files appear whole or not at all."""

import os

import pytest

from keras_pde import figures, files


def test_a_file_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    files.write(path, "old")
    files.write(str(path), b"new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["report.json"]

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "flush", full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, "newer")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["report.json"]


def test_what_is_not_finished_takes_nobodys_place(tmp_path):
    path = tmp_path / "curve.png"
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with files.staging(tmp_path, ".pack-") as folder:
        assert folder.name.endswith(files.UNFINISHED)
        (folder / "part").touch()
    assert os.listdir(tmp_path) == []


def test_digests(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(b"abc") == files.digest(path) == expected


def test_figures_are_returned_and_written_where_asked(tmp_path):
    figure, (left, right) = figures.new(4, 2, panels=2)
    left.plot([0, 1])
    assert figures.done(figure) is figure and os.listdir(tmp_path) == []
    assert figures.done(figure, tmp_path / "two.svg") is figure
    assert (tmp_path / "two.svg").read_text().lstrip().startswith("<?xml")
    assert right.figure is figure
