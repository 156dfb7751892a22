"""Files written whole or not at all, digested, and cut into numbered parts below a size.

Standard library only: `keras_pde.offline` takes this file to machines that have nothing else.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MOST = 999  # three digits
UNFINISHED = ".unfinished"  # ends the names of what a killed process leaves


def sha256(data: bytes) -> str:
    """SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def digest(path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path):
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path, data: str | bytes):
    """Writes a file, which is complete or as it was before, whatever happens."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        flush(temporary)


@contextlib.contextmanager
def replacing(path, suffix=""):
    """Yields a name beside the path; what is written there takes the path's place at the end.

    A link stays one, to a file with new content, and a file keeps its permissions. What is no file,
    such as a pipe, is written to.

    Args:
        path: of the file.
        suffix: added to a name that does not end with it.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    path = Path(path)
    path = path if path.name.endswith(suffix) else path.with_name(path.name + suffix)
    if path.exists() and not path.is_file():
        with staging(None, path.name) as folder:
            yield folder / path.name
            path.write_bytes((folder / path.name).read_bytes())
        return
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Received {str(path)!r}, in a folder that does not exist.")
    with staging(path.parent, f".{path.name}.") as folder:
        yield folder / path.name
        if path.exists():
            shutil.copymode(path, folder / path.name)
        os.replace(folder / path.name, path)


@contextlib.contextmanager
def staging(parent, prefix):
    """A new folder in which things are made that will be moved; it is gone at the end."""
    folder = Path(tempfile.mkdtemp(UNFINISHED, prefix, parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(path, wait=True):
    """Within it no other process is within the same; on Windows there is no such lock.

    Args:
        path: of a folder, or of a file that is made for it.
        wait: for another process to end.

    Raises:
        BlockingIOError: another process is there, and `wait` is not wanted.
    """
    if not path.is_dir():
        path.touch()
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


class Parts:
    """A file to write to, kept as STEM.001, STEM.002, ... of at most `limit` bytes each.

    Args:
        folder: a `pathlib.Path`.
        stem: of the parts' names.
        limit: bytes of a part.
        say: function of a line of text, or `None`.

    Attributes:
        written: file name, bytes and SHA-256 of each part.
    """

    def __init__(self, folder, stem, limit, say=None):
        self.folder, self.stem, self.limit, self.say = folder, stem, limit, say
        self.written = []
        self._rest = bytearray()

    def write(self, data):
        self._rest += data
        while len(self._rest) >= self.limit:
            self._finish(self._rest[: self.limit])
            del self._rest[: self.limit]
        return len(data)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None and self._rest:
            self._finish(self._rest)

    def _finish(self, data):
        number = len(self.written) + 1
        if number > MOST:
            raise ValueError(
                f"Received a size of {self.limit + 1} bytes a part, which makes more than {MOST} "
                "parts; expected fewer. Pass a larger max_mb (--max-mb)."
            )
        name = f"{self.stem}.{number:03d}"
        (self.folder / name).write_bytes(data)
        self.written.append({"file": name, "bytes": len(data), "sha256": sha256(data)})
        if self.say:
            self.say(f"{name}: {len(data)} bytes")


def are_sound(parts) -> bool:
    """Whether a manifest's list of parts is what `Parts.written` says."""
    return len(parts) > 0 and all(
        os.path.basename(part["file"]) == part["file"]
        and part["bytes"] > 0
        and len(part["sha256"]) == 64
        for part in parts
    )


def check(folder, parts, where, fix):
    """Refuses parts that are not all there, as they were written.

    Raises:
        FileNotFoundError: some are missing; the message has their numbers.
        ValueError: some are damaged.
    """
    missing, damaged = [], []
    for number, part in enumerate(parts, 1):
        path = folder / part["file"]
        if not path.is_file():
            missing.append(number)
        elif path.stat().st_size != part["bytes"]:
            damaged.append(f"{number} ({path.stat().st_size} of {part['bytes']} bytes)")
        elif digest(path) != part["sha256"]:
            damaged.append(f"{number} (another SHA-256)")
    if not missing and not damaged:
        return
    found = []
    if missing:
        found.append(f"missing {', '.join(map(str, missing))}")
    if damaged:
        found.append(f"damaged {', '.join(damaged)}")
    raise (ValueError if damaged else FileNotFoundError)(
        f"Received {where} of {len(parts)} parts: {'; '.join(found)}. "
        f"Expected {parts[0]['file']} and so on, as written: {fix}."
    )


def join(folder, parts, target):
    """Writes the parts, one after another, to an open file."""
    for part in parts:
        with (folder / part["file"]).open("rb") as source:
            shutil.copyfileobj(source, target)
