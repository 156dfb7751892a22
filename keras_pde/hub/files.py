"""Files of a model's folder, read once and whole."""

from collections.abc import Iterator
from contextlib import contextmanager

from keras_pde.files import sha256


def read(path, limit, digest=None, source="its card"):
    """The bytes of a file, once. Whoever parses them parses what was measured and digested."""
    if not path.is_file():
        raise ValueError(
            f"Received folder {path.parent} without its {path.name}; expected a file"
            + (f" with SHA-256 {digest}." if digest else ".")
        )
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"Received {path} of more than {limit} bytes; expected at most that.")
    if digest is not None and sha256(data) != digest:
        raise ValueError(
            f"Received {path} with SHA-256 {sha256(data)}; {source} expects {digest}: the file "
            "is damaged or belongs to another model."
        )
    return data


@contextmanager
def parsing(path) -> Iterator[None]:
    """Foreign bytes can make a parser raise anything; our caller gets one kind of error."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"Received {path}, which is damaged, made for another model or forged: {error}"
        ) from error
