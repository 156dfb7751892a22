"""What holds for every test: no network but this machine, the same random numbers each time, and
compilers that do no more than they must.
"""

import os
import tempfile

# For this process, its workers and theirs; read when a backend is imported. One thread each:
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What one test has compiled, no other compiles again.
    _folder = tempfile.TemporaryDirectory(prefix="keras-pde-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _folder.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import gc
import ipaddress
import socket

import keras
import pytest
from double_precision import double_precision


def pytest_collection_finish(session):
    """What is imported by now stays: no search for garbage goes through all of it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)


@pytest.fixture(scope="module", autouse=True)
def no_garbage():
    """What a file leaves is collected after it, not within its loops."""
    yield
    gc.collect()


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


@pytest.fixture(scope="module", autouse=True)
def hardly_optimized(request):
    """XLA takes longer to improve programs that run for milliseconds than these take. Those in
    end_to_end/, and in processes of their own, run as users' programs do."""
    if keras.backend.backend() != "jax":
        return
    import jax

    hardly = "end_to_end" not in request.path.parts
    if jax.config.read("jax_disable_most_optimizations") != hardly:
        jax.config.update("jax_disable_most_optimizations", hardly)
        # JAX does not tell the two kinds apart: a program compiled for one file, rounded otherwise,
        # would serve the next, and a training here would not have the bits of one in a new process.
        jax.clear_caches()


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
