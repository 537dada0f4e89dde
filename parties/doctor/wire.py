"""One TLS handshake, step by step: gRPC says UNAVAILABLE to whatever goes wrong in it."""

from __future__ import annotations

import secrets
import socket
import ssl
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from protocol.crypto import PrivateKey

WAIT_S: Final = 3.0
_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""HTTP/2's preface and empty SETTINGS (RFC 9113 §3.4): a server that accepts us answers with its own."""
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_HOST_MISMATCH: Final = frozenset({62, 64})


class Outcome(StrEnum):
    """How far it came."""

    UNKNOWN_HOST = "the host is not known"
    REFUSED = "nothing listens there"
    SILENT = "no answer"
    NO_TLS = "it does not speak TLS"
    WRONG_CA = "its certificate is not by our CA"
    WRONG_NAME = "its certificate is another party's"
    EXPIRED = "its certificate has expired"
    NOT_YET_VALID = "its certificate is not valid yet"
    HUNG_UP = "it ends the connection after the handshake"
    GOOD = "it accepts us"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaken:
    """The outcome, and the server's certificate (DER) if it was believed."""

    outcome: Outcome
    certificate: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Our certificate (PEM) and its key."""

    certificate: bytes
    key: PrivateKey


def split(address: str) -> tuple[str, int]:
    """HOST:PORT."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def shake_hands(address: str, name: str, root: str, mine: Credentials | None = None) -> Shaken:
    """Connect as a client of `name`, trusting `root` (PEM) only, with a certificate of ours if there is one."""
    try:
        with socket.create_connection(split(address), timeout=WAIT_S) as raw:
            return _tls(raw, name, _context(root, mine))
    except socket.gaierror:
        return Shaken(outcome=Outcome.UNKNOWN_HOST)
    except TimeoutError:
        return Shaken(outcome=Outcome.SILENT)
    except OSError:
        return Shaken(outcome=Outcome.REFUSED)


def _context(root: str, mine: Credentials | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root)
    context.set_alpn_protocols(["h2"])
    if mine is not None:
        _load(context, mine)
    return context


def _load(context: ssl.SSLContext, mine: Credentials) -> None:
    """`ssl` reads keys from files only, so the key is on the disk for a moment, under a password that never is."""
    password = secrets.token_bytes(32).hex()
    sealed = mine.key.native().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode())
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        certificate.write_bytes(mine.certificate)
        key.write_bytes(sealed)
        context.load_cert_chain(certificate, key, password)


def _tls(raw: socket.socket, name: str, context: ssl.SSLContext) -> Shaken:
    try:
        with context.wrap_socket(raw, server_hostname=name) as tls:
            return _greet(tls)
    except ssl.SSLCertVerificationError as exc:
        if exc.verify_code in _HOST_MISMATCH:
            return Shaken(outcome=Outcome.WRONG_NAME)
        dates = {_EXPIRED: Outcome.EXPIRED, _NOT_YET_VALID: Outcome.NOT_YET_VALID}
        return Shaken(outcome=dates.get(exc.verify_code, Outcome.WRONG_CA))
    except TimeoutError:
        return Shaken(outcome=Outcome.SILENT)
    except (OSError, ValueError):
        return Shaken(outcome=Outcome.NO_TLS)


def _greet(tls: ssl.SSLSocket) -> Shaken:
    """In TLS 1.3 the client is done before the server has looked at its certificate: only an answer shows consent."""
    certificate = tls.getpeercert(binary_form=True) or b""
    try:
        tls.sendall(_HELLO)
        answered = bool(tls.recv(9))
    except TimeoutError:
        return Shaken(outcome=Outcome.SILENT, certificate=certificate)
    except OSError:
        answered = False
    return Shaken(outcome=Outcome.GOOD if answered else Outcome.HUNG_UP, certificate=certificate)
