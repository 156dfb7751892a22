"""The suite's own promise: sockets reach this machine only."""

import socket
import urllib.error
import urllib.request

import pytest


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.com", 80)])
def test_connections_are_refused(method, address):
    with socket.socket() as sock, pytest.raises(PermissionError, match="no network"):
        getattr(sock, method)(address)


def test_datagrams_are_refused():
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(PermissionError, match="no network"),
    ):
        sock.sendto(b"", ("192.0.2.1", 53))


def test_names_and_addresses_are_refused_before_they_are_asked_for():
    for host in ("example.com", "192.0.2.1"):
        with pytest.raises((PermissionError, urllib.error.URLError), match="no network"):
            urllib.request.urlopen(f"http://{host}/", timeout=1)


def test_loopback_works():
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(("localhost", server.getsockname()[1])) as client:
        peer, _ = server.accept()
        with peer:
            client.sendall(b"hello")
            assert peer.recv(5) == b"hello"
