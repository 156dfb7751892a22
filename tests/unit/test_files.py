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


def test_links_permissions_and_pipes_stay(tmp_path):
    real, link, pipe = (tmp_path / name for name in ("real.txt", "link.txt", "pipe"))
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    files.write(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere/a\.txt', in a folder that does not"):
        files.write(tmp_path / "nowhere" / "a.txt", "")


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
