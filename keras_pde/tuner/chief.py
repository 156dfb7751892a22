"""Who this process is in a search: alone, the chief who hands out trials, or a worker.

Keras Tuner's environment variables say so. Its port is neither encrypted nor authenticated.
"""

import ipaddress
import os
import socket
import time

ID, IP, PORT = "KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"


def role() -> str:
    """ "alone", "chief" or "worker".

    Raises:
        ValueError: some of the variables are set, others are not.
    """
    missing = [name for name in (ID, IP, PORT) if not os.environ.get(name)]
    if len(missing) == 3:
        return "alone"
    if missing:
        raise ValueError(
            f"Received an environment without {' and '.join(missing)}; expected all of {ID} "
            f"(chief, worker0, ...), {IP} and {PORT} (the chief's), or none of them."
        )
    if not os.environ[PORT].isdigit():
        raise ValueError(f"Received {PORT}={os.environ[PORT]!r}; expected a port number.")
    return "chief" if "chief" in os.environ[ID] else "worker"


def worker_name() -> str:
    """This process in records of trials."""
    return os.environ.get(ID, "")


def check_network(trusted=False) -> None:
    """Refuses to let strangers at the port.

    Args:
        trusted: any network is fine.

    Raises:
        ValueError: the chief's address is neither of this machine nor of a private network.
    """
    host = os.environ[IP]
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise ValueError(f"Received {IP}={host!r}, which cannot be resolved ({error}).") from error
    addresses = [ipaddress.ip_address(address) for address in found]
    if not trusted and not all(a.is_private and not a.is_unspecified for a in addresses):
        raise ValueError(
            f"Received {IP}={host}; expected an address of this machine (127.0.0.1) or of a "
            "private network, since whoever reaches the port takes part in the search. "
            "--trust-network allows it."
        )


def check_free() -> None:
    """Refuses a port of the chief that is taken.

    Raises:
        ValueError: it is, or the address is not this machine's.
    """
    try:
        with socket.socket() as probe:  # bound, but not listening: a worker shall not meet it
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(_address())
    except OSError as error:
        raise ValueError(
            f"Received {IP}={os.environ[IP]} and {PORT}={os.environ[PORT]}, where the chief cannot "
            f"listen ({error.strerror}); expected a free port of this machine."
        ) from error


def wait(seconds=120) -> None:
    """Waits until the chief listens.

    Raises:
        ValueError: it does not within so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(_address(), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"Received {IP}={os.environ[IP]} and {PORT}={os.environ[PORT]}, where no chief "
                    f"has answered for {seconds} seconds; expected one: start it (or restart it "
                    "with --resume), then this worker."
                ) from error
            time.sleep(0.5)


def _address():
    return os.environ[IP], int(os.environ[PORT])
