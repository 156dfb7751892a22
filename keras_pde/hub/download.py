"""The files of published models: from the cache, or else from the mirrors into the cache.

The cache holds files under their SHA-256. What is on its way is a `.part` with a name of its own,
so that processes do not meet; one that was left behind is taken over by the next.
"""

import errno
import http.client
import io
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from contextlib import contextmanager
from pathlib import Path

from keras_pde.files import flush, sha256
from keras_pde.hub.mirrors import MIRRORS, is_web, mirrors, opener, request, shown, told, within
from keras_pde.text import transfer_bar

CACHE, OFFLINE = "KERAS_PDE_CACHE", "KERAS_PDE_OFFLINE"
TIMEOUT = 30.0  # seconds without an answer
SLOWEST = 1000.0  # bytes a second, after so many seconds
WAITS = (1.0, 3.0)  # seconds before another attempt
_ABANDONED = 600  # seconds after which nobody writes to a file any more
_CHUNK = 2**16
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _Failed(Exception):
    """One attempt to get a file failed; `retry` says whether another one may succeed, `other`
    whether the file may be there under its other name."""

    def __init__(self, reason, retry=False, other=False):
        super().__init__(told(" ".join(reason.split())))
        self.retry, self.other = retry, other


class _WrongContent(_Failed):
    """What came is not the file."""

    def __init__(self, reason, retry=False):
        super().__init__(reason, retry, other=True)


def beside(file: str, digest: str) -> str:
    """The name of a file of this digest beside the one that it is about to replace."""
    return f"{file}.{digest[:16]}"


def cache_folder() -> Path:
    """Where downloaded files are kept."""
    home = os.environ.get("KERAS_HOME", "~/.keras")
    return Path(os.environ.get(CACHE) or Path(home, "keras_pde")).expanduser()


def fetch(card, file: str) -> Path:
    """A file of a published model, of the size and the SHA-256 that its card says.

    Args:
        card: a `Card`, or a `Listing` for the card's own file.
        file: its name in the model's folder.

    Raises:
        FileNotFoundError: no place has it; the message names each, and why not.
        OSError: the cache cannot be written.
    """
    digest, size = card.digests[file], card.sizes[file]
    path = cache_folder() / digest
    tried = [f"{path} (cache): {_cached(path, digest, size)}"]
    if path.is_file():
        return path
    places = mirrors()
    for mirror in places:
        # The second while a model is being replaced.
        for name in (file, beside(file, digest)):
            try:
                with _network():
                    address = within(mirror, card.name, name)
                return _download(address, path, digest, size)
            except _Failed as failure:
                if name == file:
                    tried.append(f"{shown(mirror)}: {failure}")
                if not failure.other:
                    break
    hint = "" if places else f" Set {MIRRORS} to the address or folder of a mirror."
    raise FileNotFoundError(
        f"Received the published model {card.name!r}, whose {file} ({size} bytes, SHA-256 "
        f"{digest}) was found nowhere: {'; '.join(tried)}.{hint}"
    )


def _cached(path, digest, size):
    """What is wrong with the cache's file, which is deleted if it is not what its name says."""
    if path.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, f"The cache has a folder {path} in the place of a file; delete it"
        )
    if not path.is_file():
        return "not there"
    if path.stat().st_size == size and sha256(path.read_bytes()) == digest:
        return "there"
    path.unlink(missing_ok=True)
    return "damaged, deleted"


def _download(address, path, digest, size):
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _claim(path)
    try:
        with transfer_bar(shown(address).rpartition("/")[2], size) as show:
            for wait in (*WAITS, None):
                try:
                    _receive(address, partial, digest, size, show)
                    break
                except _Failed as failure:
                    if isinstance(failure, _WrongContent):
                        partial.write_bytes(b"")
                    if wait is None or not failure.retry:
                        raise
                time.sleep(wait)
        flush(partial)
        os.replace(partial, path)
        return path
    finally:
        if partial.exists() and partial.stat().st_size:
            os.replace(partial, _left(path))
        partial.unlink(missing_ok=True)


def _receive(address, partial, digest, size, show):
    start = partial.stat().st_size
    if start < size:
        with _open(address, start) as (stream, resumed), open(partial, "ab") as file:
            if not resumed:
                file.truncate(0)
            _copy(stream, file, start if resumed else 0, size, show)
    if sha256(partial.read_bytes()) != digest:
        # A part that somebody else left may be at fault; a whole answer is as wrong the next time.
        raise _WrongContent("SHA-256 differs from the published one", retry=start > 0)


def _copy(stream, file, done, size, show):
    began, first = time.monotonic(), done
    while True:
        with _network():
            chunk = stream.read1(_CHUNK)
        seconds = time.monotonic() - began
        if seconds > TIMEOUT and chunk and (done - first) < SLOWEST * seconds:
            raise _Failed(f"sends less than {SLOWEST:g} bytes a second")
        if done == 0 and re.match(rb"\s*<(!doctype )?html", chunk, re.IGNORECASE):
            raise _WrongContent("sends an HTML page, not the file (a page of errors or logins?)")
        done += len(chunk)
        if done > size:
            raise _WrongContent(f"sends more than the file's {size} bytes")
        if not chunk:
            break
        with _writing(file.name):
            file.write(chunk)
            file.flush()
        show(done)
    if done < size:
        raise _Failed(f"ended after {done} of {size} bytes", retry=True, other=True)


@contextmanager
def _open(address, start):
    """A stream, and whether it begins at byte `start` and not at 0."""
    with _network():
        kind, web = urllib.parse.urlsplit(address).scheme, is_web(address)
    if web:
        if os.environ.get(OFFLINE, "0") not in ("", "0"):
            raise _Failed(f"not asked, since {OFFLINE} is set")
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with _network():
            answer = _answer(request(address, headers))
        with answer:
            resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            yield answer, answer.status == 206 and resumed
        return
    if kind == "file":
        address = urllib.request.url2pathname(urllib.parse.urlsplit(address).path)
    elif "://" in address:
        raise _Failed(f"is a {kind} address; expected http, https, file, or a folder")
    with _network():
        stream = io.BufferedReader(io.FileIO(Path(os.path.expanduser(address))))
    with stream:
        stream.seek(start)
        yield stream, True


def _answer(asked):
    """The answer to a request, within two timeouts: the socket has none for headers that drip."""
    found = []

    def ask():
        try:
            found.append(opener().open(asked, timeout=TIMEOUT))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * TIMEOUT)
    if not found:
        raise TimeoutError
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


@contextmanager
def _network():
    """What can go wrong at the other end, as reasons."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # not the part that we believed to have
                raise _WrongContent("HTTP 416", retry=True) from error
            reason = f"HTTP {error.code} {error.reason}"
            absent = error.code in (404, 410)
            raise _Failed(reason, error.code in _TRANSIENT, absent) from error
    except urllib.error.URLError as error:
        raise _Failed(str(error.reason), retry=True) from error
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise _Failed(error.strerror or str(error), other=True) from error
    except TimeoutError as error:
        raise _Failed(f"no answer for {TIMEOUT:g} s", retry=True) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Failed(f"{type(error).__name__} {error}".rstrip(), retry=True) from error
    except ValueError as error:
        raise _Failed(f"is not an address: {error}") from error


@contextmanager
def _writing(path):
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"The cache {path} cannot be written ({error.strerror}); make room, or let "
            f"{CACHE} name another folder",
        ) from error


def _left(path):
    return path.with_name(f"{path.name}.part")


def _claim(path):
    """A `.part` of our own, with what an interrupted download left."""
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    abandoned = time.time() - _ABANDONED
    for part in path.parent.glob(f"{path.name}*.part"):
        try:
            if part.is_symlink():  # to what is none of ours to write to
                part.unlink()
                continue
            if part == _left(path) or part.stat().st_mtime < abandoned:
                os.replace(part, own)
                return own
        except FileNotFoundError:  # somebody else was faster
            continue
    own.touch()
    return own
