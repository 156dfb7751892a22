"""Downloads of published files from servers that misbehave, and the cache."""

import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from download_cases import (
    CARD,
    CONTENT,
    DIGEST,
    HALF,
    corrupt,
    fetched,
    html,
    ignore_range,
    lengthen,
    missing,
    other_range,
    redirect,
    stall,
    status,
    truncate,
)
from hub_cases import WEIGHTS

from keras_pde.hub import download

RESUMED = f"bytes={HALF}-"


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([], [None]),
        ([truncate], [None, RESUMED]),
        ([stall], [None, RESUMED]),
        ([truncate, ignore_range], [None, RESUMED]),
        ([truncate, other_range], [None, RESUMED]),
        ([truncate, status(416)], [None, RESUMED, None]),
        ([status(503)], [None, None]),
        ([status(429), truncate], [None, None, RESUMED]),
        ([redirect("/elsewhere")], [None, None]),
    ],
)
def test_servers_that_give_it_in_the_end(cache, server, script, ranges):
    server.script = list(script)
    fetched(cache)
    assert [wanted for _, wanted in server.requests] == ranges
    assert server.requests[0][0] == f"/toy/net/{WEIGHTS}"
    fetched(cache)  # from the cache
    assert len(server.requests) == len(ranges)


@pytest.mark.parametrize(
    ("script", "match", "requests"),
    [
        ([status(404)], "HTTP 404", 1),
        ([status(403)], "HTTP 403", 1),
        ([status(503)] * 3, "HTTP 503", 3),
        ([html], "sends an HTML page", 1),
        ([corrupt], "SHA-256 differs", 1),
        ([lengthen], "more than the file's 300000 bytes", 1),
        ([truncate, corrupt, corrupt], "SHA-256 differs", 3),
        ([redirect("file:///etc/passwd")], "HTTP 302", 1),
        ([redirect("/again")] * 20, "HTTP 302", None),
    ],
)
def test_servers_that_do_not(cache, server, script, match, requests):
    server.script = list(script)
    missing(match)
    assert os.listdir(cache) == []
    assert requests in (None, len(server.requests))
    server.script = []
    fetched(cache)


def test_what_came_is_kept_for_the_next_time(cache, server):
    server.script = [stall] * 3
    missing("no answer for 0.2 s")
    assert os.listdir(cache) == [f"{DIGEST}.part"]
    server.requests.clear()
    fetched(cache)
    assert server.requests[0][1] == RESUMED


@pytest.mark.parametrize(
    ("name", "content", "age", "requests"),
    [
        (f"{DIGEST}.part", CONTENT, 0, 0),
        (f"{DIGEST}.part", b"?" * HALF, 0, 2),
        (f"{DIGEST}.part", b"?" * 2 * len(CONTENT), 0, 1),
        (f"{DIGEST}.killed.part", CONTENT, 10_000, 0),
    ],
    ids=["complete", "not of this file", "too long", "of a killed process"],
)
def test_parts_that_others_left(cache, server, name, content, age, requests):
    cache.mkdir()
    (cache / name).write_bytes(content)
    then = time.time() - age
    os.utime(cache / name, (then, then))
    fetched(cache)
    assert len(server.requests) == requests


def test_part_of_another_download_is_left_alone(cache):
    cache.mkdir()
    theirs = cache / f"{DIGEST}.theirs.part"
    theirs.write_bytes(b"?" * HALF)
    download.fetch(CARD, WEIGHTS)
    assert theirs.read_bytes() == b"?" * HALF


def test_downloads_at_once_do_not_meet(cache, server):
    server.script = [truncate] * 2
    with ThreadPoolExecutor(6) as pool:
        paths = set(pool.map(lambda _: download.fetch(CARD, WEIGHTS), range(6)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert os.listdir(cache) == [DIGEST]


def test_poisoned_cache_is_deleted_and_fetched_again(cache, server, monkeypatch):
    cache.mkdir()
    for poison in (b"", b"?" * len(CONTENT), CONTENT + b"?"):
        (cache / DIGEST).write_bytes(poison)
        fetched(cache)
    (cache / DIGEST).write_bytes(b"?")
    monkeypatch.setenv(download.OFFLINE, "1")
    missing("damaged, deleted")
    assert os.listdir(cache) == []


def test_offline_opens_no_socket(cache, server, monkeypatch):
    monkeypatch.setenv(download.OFFLINE, "1")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", None)
        missing(f"toy/net.*{WEIGHTS}.*300000 bytes.*{DIGEST}.*not there.*{download.OFFLINE} is set")
    monkeypatch.delenv(download.OFFLINE)
    fetched(cache)
    monkeypatch.setenv(download.OFFLINE, "1")
    fetched(cache)
    assert len(server.requests) == 1


def test_cache_that_cannot_be_written(cache, monkeypatch):
    cache.write_text("a file")
    with pytest.raises(OSError, match=f"cannot be written.*{download.CACHE}"):
        download.fetch(CARD, WEIGHTS)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(download.CACHE, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "keras_pde"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / ".keras" / "keras_pde"


def test_progress_is_for_terminals_only(cache, monkeypatch, capsys):
    download.fetch(CARD, WEIGHTS)
    assert capsys.readouterr() == ("", "")
    (cache / DIGEST).unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    download.fetch(CARD, WEIGHTS)
    assert WEIGHTS in capsys.readouterr().err


def test_what_stands_in_the_cache_where_a_file_should_be(cache, tmp_path):
    other = tmp_path / "precious"
    other.write_bytes(b"precious")
    cache.mkdir()
    (cache / f"{DIGEST}.part").symlink_to(other)
    fetched(cache)
    assert other.read_bytes() == b"precious"
    (cache / DIGEST).unlink()
    (cache / DIGEST).mkdir()
    with pytest.raises(OSError, match=r"a folder .* in the place of a file; delete it"):
        download.fetch(CARD, WEIGHTS)
