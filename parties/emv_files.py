"""The EMV side of an issuer as files: CA public keys by RID and index, and the issuer's certificate (EMV Book 2)."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final

from protocol.card.oda import CaKey, Certificate
from protocol.card.personalize import Issuer
from protocol.card.rsa import PrivateKey, PublicKey
from protocol.codec import decode, encode
from protocol.errors import ProtocolError, SettingsInvalid

MAX_BYTES: Final = 4096


def write_issuer(path: Path, ca: CaKey, certificate: Certificate) -> None:
    """CA key and issuer certificate as CBOR; both are public."""
    public = ca.key
    plain = {
        "rid": ca.rid,
        "index": ca.index,
        "ca_modulus": public.to_bytes(),
        "signature": certificate.signature,
        "remainder": certificate.remainder,
        "exponent": certificate.exponent,
    }
    path.write_bytes(encode(plain))


def read_ca_keys(folder: Path) -> tuple[CaKey, ...]:
    """The EMV CA keys in a PKI folder, by RID and index. Raises: SettingsInvalid."""
    found = []
    for path in sorted(folder.glob("emv-ca.*.cbor")):
        try:
            plain = decode(path.read_bytes(), max_bytes=MAX_BYTES)
            key = PublicKey.from_bytes(plain["modulus"])
            found.append(CaKey(rid=plain["rid"], index=plain["index"], key=key))
        except (OSError, ProtocolError, KeyError, TypeError) as exc:
            raise SettingsInvalid(f"EMV CA key {path} can't be read: {type(exc).__name__}") from exc
    return tuple(found)


def write_ca_key(folder: Path, ca: CaKey) -> None:
    """An EMV CA's public key, for all who check cards."""
    plain = {"rid": ca.rid, "index": ca.index, "modulus": ca.key.to_bytes()}
    (folder / f"emv-ca.{ca.rid.hex()}.{ca.index}.cbor").write_bytes(encode(plain))


def read_issuer(path: Path, private: bytes, *, today: datetime.date) -> Issuer:
    """The issuer, its certificate verified against the CA and found to be of this key. Raises: SettingsInvalid."""
    try:
        plain = decode(path.read_bytes(), max_bytes=MAX_BYTES)
        ca = CaKey(rid=plain["rid"], index=plain["index"], key=PublicKey.from_bytes(plain["ca_modulus"]))
        certificate = Certificate(
            signature=plain["signature"], remainder=plain["remainder"], exponent=plain["exponent"]
        )
        return Issuer.open(ca, PrivateKey.from_bytes(private), certificate, today=today)
    except OSError as exc:
        raise SettingsInvalid(f"EMV issuer file {path} can't be read: {exc.strerror}") from exc
    except (ProtocolError, KeyError, TypeError) as exc:
        raise SettingsInvalid(f"EMV issuer file {path} does not fit the keystore: {type(exc).__name__}") from exc
