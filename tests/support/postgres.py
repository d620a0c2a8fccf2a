"""A real PostgreSQL server on loopback, for one test module."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, on the path or where Debian puts them."""
    found = shutil.which("pg_ctl")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


@dataclass
class Server:
    """A running server: the URL of its empty database, and a function that restarts it and cuts all connections."""

    url: str
    restart: Callable[[], None]


@contextmanager
def server() -> Iterator[str]:
    """Start a server with an empty database; yields its URL. Skips where no server or driver is installed."""
    with restartable_server() as running:
        yield running.url


@contextmanager
def restartable_server() -> Iterator[Server]:
    """Start a server; see `server`."""
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    place = binaries()
    if place is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
    folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp")  # its sockets want a short path
    if user:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, cwd=folder)

    def restart() -> None:
        run(str(place / "pg_ctl"), "-D", f"{folder}/data", "-l", f"{folder}/log", "-m", "immediate", "-w", "restart")

    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        run(str(place / "initdb"), "-D", f"{folder}/data", "-A", "trust", "-U", "autotune", "--no-sync", "-E", "UTF8")
        run(str(place / "pg_ctl"), "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
        try:
            yield Server(f"postgresql+psycopg://autotune@127.0.0.1:{port}/postgres", restart)
        finally:
            run(str(place / "pg_ctl"), "-D", f"{folder}/data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
