"""Where a party listens: is the address this machine's and free, or does the party serve there already?"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from parties.directory import CA_FILE, certificate_file
from parties.doctor.finding import Finding, fail, ok, warn
from parties.doctor.wire import Outcome, shake_hands, split
from parties.server.service import MAX_CONNECTIONS, connections
from parties.settings import Settings
from protocol.pki import Use
from protocol.types import Role

WAIT_S: Final = 3.0
MAX_METRICS_BYTES: Final = 2**20


def limits() -> Iterator[Finding]:
    """How many connections the system lets this party hold."""
    each = connections(ports=2)
    if each < MAX_CONNECTIONS:
        what = f"each port takes {each} connections at most: this user's processes may not have more open files"
        yield warn("limits", what, "raise the bound on open files to 20000 (ulimit -n, or LimitNOFILE= in a unit)")


def listening(settings: Settings) -> Iterator[Finding]:
    """Can the party listen where its settings say, or does it already?"""
    addresses = [(name, getattr(settings, name)) for name in ("listen", "mutual_listen") if getattr(settings, name)]
    if not addresses and settings.role is not Role.PHONE:
        yield fail("port", "neither listen nor mutual_listen is set", "set one to HOST:PORT")
    for name, address in addresses:
        yield _port(settings, f"port {name}", address, _taken)
    if settings.metrics_listen:
        yield _port(settings, "port metrics_listen", settings.metrics_listen, _told)
        if settings.options.get("metrics_anywhere") is True:
            what = f"whoever reaches {settings.metrics_listen} is told this party's metrics"
            yield warn("metrics", what, "let a firewall keep others out, or use 127.0.0.1:PORT")


Taken: TypeAlias = Callable[[Settings, str, str], Finding]


def _port(settings: Settings, check: str, address: str, taken: Taken) -> Finding:
    host, port = split(address)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except socket.gaierror:
        return fail(check, f"the host of {address} is not known", "use an address of this machine")
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return taken(settings, check, address)
        if exc.errno == errno.EADDRNOTAVAIL:
            return fail(check, f"{address} is not an address of this machine", "use one that is, or 0.0.0.0")
        return fail(
            check, f"can't listen on {address}: {exc.strerror}", "use a port from 1024, or give the right to it"
        )
    return ok(check, f"{address} is free; the party is not running")


def _told(settings: Settings, check: str, address: str) -> Finding:
    """Our own running server tells metrics there."""
    host, port = split(address)
    connection = http.client.HTTPConnection(host, port, timeout=WAIT_S)
    try:
        connection.request("GET", "/metrics")
        if b"tapveil_serving" in connection.getresponse().read(MAX_METRICS_BYTES):
            return ok(check, f"metrics are told on {address} now")
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    return fail(check, f"another program listens on {address}", "end it, or choose another port")


def _taken(settings: Settings, check: str, address: str) -> Finding:
    """Our own running server shows our own TLS certificate."""
    try:
        root = (settings.pki / CA_FILE).read_text()
        mine = ssl.PEM_cert_to_DER_cert(
            certificate_file(settings.pki, settings.role, settings.name, Use.TLS).read_text()
        )
    except (OSError, ValueError):
        root, mine = "", b""
    shaken = shake_hands(address, settings.name, root) if root else None
    if shaken is None or shaken.outcome not in (Outcome.GOOD, Outcome.HUNG_UP):
        return fail(
            check, f"another program listens on {address}", "end it, or choose another port here and in [peers]"
        )
    if shaken.certificate != mine:
        return warn(
            check, f"this party serves on {address} with another certificate than in {settings.pki}", "restart it"
        )
    return ok(check, f"this party serves on {address} now")
