"""Mirrors of published files: their order, their addresses, and secrets in these."""

import base64
import contextlib
import socket
import time

import pytest
from download_cases import (
    CARD,
    CONTENT,
    DIGEST,
    fetched,
    missing,
    redirect,
    serve,
    status,
)
from hub_cases import WEIGHTS

from keras_pde.hub import download, mirrors


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


@pytest.mark.parametrize("part", ["header", "body"])
def test_a_mirror_that_drips_gives_way_to_the_next(cache, server, monkeypatch, tmp_path, part):
    def drip(handler):
        if part == "header":
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        else:
            handler.start(200, len(CONTENT))
        with contextlib.suppress(OSError):
            for byte in b"x" * 200 if part == "header" else CONTENT[:200]:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.02)

    folder = tmp_path / "toy" / "net"
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(CONTENT)
    server.script = [drip] * 9
    monkeypatch.setenv(mirrors.MIRRORS, f"{server.address} {tmp_path}")
    fetched(cache)
    assert len(server.requests) == 1 or part == "header", "it is asked once more"


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
