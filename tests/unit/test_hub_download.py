"""Downloads of published files from servers that misbehave."""

import base64
import contextlib
import hashlib
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hub_cases import WEIGHTS, make_fields

from keras_pde.hub import Card, download, mirrors

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
CARD = Card(
    **make_fields()
    | {"name": "toy/net", "digests": {WEIGHTS: DIGEST}, "sizes": {WEIGHTS: len(CONTENT)}}
)
HALF = len(CONTENT) // 2


class Handler(BaseHTTPRequestHandler):
    """Answers each request as the server's script says, and properly when that is over."""

    def do_GET(self):
        if self.path.endswith(DIGEST[:16]):  # the name while a model is being replaced
            self.send_error(404)
            return
        self.server.requests.append((self.path, self.headers.get("Range")))
        answer = self.server.script.pop(0) if self.server.script else serve
        answer(self)

    def log_message(self, *args):
        pass

    def start(self, status, length, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


def serve(handler, content=CONTENT, ranges=True):
    wanted = handler.headers.get("Range")
    if ranges and wanted:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.start(206, len(content) - start, Content_Range=span)
        handler.wfile.write(content[start:])
    else:
        handler.start(200, len(content))
        handler.wfile.write(content)


def truncate(handler):
    handler.start(200, len(CONTENT))
    handler.wfile.write(CONTENT[:HALF])


def corrupt(handler):
    serve(handler, CONTENT[:HALF] + b"!" + CONTENT[HALF + 1 :])


def lengthen(handler):
    serve(handler, CONTENT + b"!")


def ignore_range(handler):
    serve(handler, ranges=False)


def other_range(handler):
    handler.start(206, len(CONTENT), Content_Range=f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
    handler.wfile.write(CONTENT)


def stall(handler):
    truncate(handler)
    handler.wfile.flush()
    time.sleep(0.5)


def html(handler):
    serve(handler, b"\n<!DOCTYPE html><title>Quota exceeded</title>")


def status(code):
    def answer(handler):
        handler.start(code, 0)

    return answer


def redirect(target):
    def answer(handler):
        handler.start(302, 0, Location=target)

    return answer


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.script, server.requests = [], []
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch, server):
    monkeypatch.setenv(download.CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(mirrors.MIRRORS, server.address)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(download.OFFLINE, raising=False)
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    return tmp_path / "cache"


def fetched(cache):
    path = download.fetch(CARD, WEIGHTS)
    assert path.read_bytes() == CONTENT
    assert os.listdir(cache) == [DIGEST]


def missing(match):
    with pytest.raises(FileNotFoundError, match=match) as raised:
        download.fetch(CARD, WEIGHTS)
    assert "\n" not in str(raised.value)


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


def test_mirrors_are_asked_in_order(cache, server, monkeypatch, tmp_path):
    server.script = [status(404)]
    gone = socket.create_server(("127.0.0.1", 0))
    with gone:
        port = gone.getsockname()[1]
    folder = tmp_path / "folder"
    places = f"{server.address}/first/, http://127.0.0.1:{port} ftp://x gopher:{folder} {folder}"
    monkeypatch.setenv(mirrors.MIRRORS, places)
    missing(
        "/first/: HTTP 404 .*refused.*ftp://x: is a ftp address.*gopher:.*No such file.*"
        f"{folder}: No such file"
    )
    assert server.requests == [(f"/first/toy/net/{WEIGHTS}", None)]
    (folder / "toy" / "net").mkdir(parents=True)
    (folder / "toy" / "net" / WEIGHTS).write_bytes(CONTENT[:-1])
    server.script = [status(404)]
    missing(f"ended after {len(CONTENT) - 1} of {len(CONTENT)} bytes")
    (folder / "toy" / "net" / WEIGHTS).write_bytes(CONTENT)
    monkeypatch.setenv(mirrors.MIRRORS, f"{server.address}/404/ {folder.as_uri()}")
    server.script = [status(404)]
    fetched(cache)


def test_no_mirror_is_known(cache, monkeypatch):
    monkeypatch.delenv(mirrors.MIRRORS)
    missing(f"Set {mirrors.MIRRORS} to the address or folder of a mirror")


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


def test_addresses_are_quoted_where_they_hold_spaces_or_commas(monkeypatch, tmp_path):
    folder = tmp_path / "my hub, ü"
    folder.mkdir()
    monkeypatch.setenv(mirrors.MIRRORS, str(folder))
    assert mirrors.mirrors() == [str(folder)]
    monkeypatch.setenv(mirrors.MIRRORS, f"'{folder}', http://a/b?c=d,e\n\"x y\"")
    assert mirrors.mirrors() == [str(folder), "http://a/b?c=d", "e", "x y"]
    monkeypatch.setenv(mirrors.MIRRORS, "'unclosed")
    with pytest.raises(ValueError, match=r"KERAS_PDE_HUB='unclosed: No closing"):
        mirrors.mirrors()


def test_folders_and_addresses_with_other_letters(cache, server, monkeypatch, tmp_path):
    folder = tmp_path / "my hub, ü" / "toy" / "net"
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(CONTENT)
    monkeypatch.setenv(mirrors.MIRRORS, str(tmp_path / "my hub, ü"))
    fetched(cache)
    (cache / DIGEST).unlink()
    monkeypatch.setenv(mirrors.MIRRORS, f"'{server.address}/größe 1,a'")
    fetched(cache)
    assert server.requests[0][0] == f"/gr%C3%B6%C3%9Fe%201,a/toy/net/{WEIGHTS}"


def test_secrets_are_sent_to_their_host_and_never_shown(cache, server, monkeypatch):
    sent = []

    def note(handler, answer=serve):
        sent.append(handler.headers.get("Authorization"))
        answer(handler)

    def away(handler):
        note(handler, redirect(f"{server.address}/elsewhere"))

    port = server.server_address[1]
    address = f"http://me:pa55%20word@127.0.0.1:{port}/hub?token=s3cret"
    monkeypatch.setenv(mirrors.MIRRORS, address)
    server.script = [away, note]
    fetched(cache)
    basic = base64.b64encode(b"me:pa55 word").decode()
    assert sent == [f"Basic {basic}", None]
    assert server.requests[0][0] == f"/hub/toy/net/{WEIGHTS}?token=s3cret"
    (cache / DIGEST).unlink()
    server.script = [status(403)]
    with pytest.raises(FileNotFoundError) as raised:
        download.fetch(CARD, WEIGHTS)
    text = str(raised.value)
    assert "HTTP 403" in text and f"http://...@127.0.0.1:{port}/hub?..." in text
    assert not any(secret in text for secret in ("s3cret", "pa55", "me:"))


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x?token=s3cret"])
def test_redirections_lead_to_the_web_only(cache, server, target):
    server.script = [redirect(target)]
    with pytest.raises(FileNotFoundError, match=r"which is not http|is not allowed") as raised:
        download.fetch(CARD, WEIGHTS)
    assert "s3cret" not in str(raised.value)


def test_a_mirror_that_drips_gives_way_to_the_next(cache, server, monkeypatch, tmp_path):
    def drip(handler):
        handler.start(200, len(CONTENT))
        with contextlib.suppress(OSError):
            for byte in CONTENT[:200]:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.02)

    folder = tmp_path / "toy" / "net"
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(CONTENT)
    server.script = [drip]
    monkeypatch.setenv(mirrors.MIRRORS, f"{server.address} {tmp_path}")
    fetched(cache)
    assert len(server.requests) == 1


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


def test_what_is_no_address(cache, monkeypatch):
    monkeypatch.setenv(mirrors.MIRRORS, "http://[::1")
    missing(r"http://\[::1: is not an address")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://user:p@s3cret@h/x", "https://...@h/x"),
        ("https://user:s3cret/2@h/x", "https://...@h/x"),
        ("https://h/x?a=1,s3cret", "https://h/x?..."),
        ("https://h/?t=ab s3cret", "https://h/?..."),
        ("https://h/x#token=s3cret", "https://h/x?..."),
        ("/my folder/hub", "/my folder/hub"),
    ],
)
def test_addresses_are_shown_without_secrets(address, expected):
    assert mirrors.shown(address) == expected


@pytest.mark.parametrize("place", ["http://user:x@127.0.0.1:s3cret/x", "~nobody-of-this-name/x"])
def test_other_addresses_give_way_to_the_next(cache, monkeypatch, tmp_path, place):
    folder = tmp_path / "toy" / "net"
    folder.mkdir(parents=True)
    monkeypatch.setenv(mirrors.MIRRORS, f"{place} {tmp_path}")
    with pytest.raises(FileNotFoundError) as raised:
        download.fetch(CARD, WEIGHTS)
    assert "s3cret" not in str(raised.value).replace(place, "")
    (folder / WEIGHTS).write_bytes(CONTENT)
    fetched(cache)
