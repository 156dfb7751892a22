"""Where published files are looked for: addresses, as users write them and as errors show them."""

import base64
import os
import re
import shlex
import urllib.parse
import urllib.request
from pathlib import Path

MIRRORS = "KERAS_PDE_HUB"
_WEB = ("http", "https")


def mirrors() -> list[str]:
    """The addresses in `KERAS_PDE_HUB`, separated by spaces or commas; what has some is quoted.

    Raises:
        ValueError: a quotation mark is not closed.
    """
    text = os.environ.get(MIRRORS, "")
    if Path(os.path.expanduser(text)).is_dir():
        return [text] * bool(text)
    words = shlex.shlex(text, posix=True, punctuation_chars="")
    words.whitespace, words.whitespace_split, words.commenters = " \t\r\n,", True, ""
    words.escape = "" if os.name == "nt" else "\\"
    try:
        return [word for word in words if word]
    except ValueError as error:
        raise ValueError(f"Received {MIRRORS}={shown(text)}: {error}.") from error


def within(mirror: str, *names: str) -> str:
    """The address of a file below a mirror's, whose query, such as a token, stays at the end."""
    parts = urllib.parse.urlsplit(mirror)
    if parts.scheme in _WEB:
        path = "/".join([parts.path.rstrip("/"), *names])
        return urllib.parse.urlunsplit(parts._replace(path=path))
    return "/".join([mirror.rstrip("/"), *names])


def shown(address: str) -> str:
    """An address without what is secret in it: user, password, query and fragment."""
    rest = re.sub(r"(://).*@", r"\1...@", address)
    rest = re.sub(r"(://[^/:\[]*):(?!\d*(/|$))[^/?#]*", r"\1:...", rest)  # a port that is none
    return re.sub(r"[?#].*", "?...", rest, flags=re.DOTALL)


def told(reason: str) -> str:
    """What a server or a library says, without what may be secret in the addresses in it."""
    rest = re.sub(r"(://)\S*@", r"\1...@", reason)
    return re.sub(r"[?#]\S+", "?...", rest)


def is_web(address: str) -> bool:
    """Whether it is of http or https."""
    return urllib.parse.urlsplit(address).scheme in _WEB


def request(address: str, headers: dict[str, str]) -> urllib.request.Request:
    """A request for an http(s) address, which may hold spaces, other letters, user and password.

    The latter two are for its own host alone: no redirection takes them along.
    """
    parts = urllib.parse.urlsplit(address)
    if not re.fullmatch(r"[^:]*|.*:\d*|.*\]", parts.netloc.rpartition("@")[2]):
        raise ValueError("the port is no number")
    host = parts.hostname.encode("idna").decode() if parts.hostname else ""
    host = f"[{host}]" if ":" in host else host
    host += f":{parts.port}" if parts.port else ""
    quoted = (urllib.parse.quote(part, safe="/%:@!$&'()*+,;=~-._?") for part in parts[2:4])
    asked = urllib.request.Request(
        urllib.parse.urlunsplit((parts.scheme, host, *quoted, "")), headers=headers
    )
    if parts.username is not None:
        names = (urllib.parse.unquote(name or "") for name in (parts.username, parts.password))
        token = base64.b64encode(":".join(names).encode()).decode()
        asked.add_unredirected_header("Authorization", f"Basic {token}")
    return asked


class _ToWebOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not is_web(newurl):
            raise ValueError(f"leads to {shown(newurl)}, which is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def opener() -> urllib.request.OpenerDirector:
    """What opens a `request`; it follows redirections to http and https only."""
    return urllib.request.build_opener(_ToWebOnly)
