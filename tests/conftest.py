"""What holds for every test: no network but this machine, and the same random numbers each time."""

import ipaddress
import socket

import keras
import pytest
from double_precision import double_precision


def _is_local(host):
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False  # a name: resolving it would ask the network


def _guarded(method, address_of):
    def call(self, *args):
        address = address_of(args)
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise PermissionError(f"Tests have no network; refused a connection to {address}.")
        return method(self, *args)

    return call


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Sockets reach the loopback only; names other than localhost are not resolved."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        if not _is_local(host):
            raise PermissionError(f"Tests have no network; refused to look up {host!r}.")
        return resolve(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        for name in ("connect", "connect_ex", "sendto"):
            guarded = _guarded(getattr(socket.socket, name), lambda args: args[-1])
            patch.setattr(socket.socket, name, guarded)
        yield


@pytest.fixture(autouse=True)
def seeds():
    """Python's, NumPy's and the backend's random numbers start anew in each test."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def float64():
    """Keras, and JAX with it, computes in double precision within the test."""
    with double_precision():
        yield


@pytest.fixture(scope="module")
def float64_module():
    """The same for a whole file."""
    with double_precision():
        yield
