"""What the tests of downloads share: a file, and a server that misbehaves as it is told."""

import contextlib
import hashlib
import os
import threading
import time
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


@contextlib.contextmanager
def serving():
    """The server, which notes the requests and has an address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.script, server.requests = [], []
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def make_cache(tmp_path, monkeypatch, server):
    """An empty cache, for which files come from the server, and nobody waits."""
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
