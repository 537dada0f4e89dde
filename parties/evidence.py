"""Bundles of evidence as files: a TSM's operator or a merchant writes them, and anybody with a CA certificate reads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from parties.assembly.common import Opened
from parties.assembly.roles import build_shop, build_tsm
from parties.directory import read_certificate
from parties.emv_files import read_ca_keys
from parties.settings import load_settings
from parties.system import SystemClock
from parties.trace import read_file, root_of, write_file
from protocol.card.oda import CaKey
from protocol.card.rsa import PublicKey
from protocol.codec import decode
from protocol.errors import EvidenceIncomplete, ProtocolError, SettingsInvalid
from protocol.evidence.bundle import Bundle
from protocol.evidence.bundle_checks import verify_bundle
from protocol.evidence.bundle_export import export_purchase, export_sale
from protocol.evidence.bundle_verdict import Verdict
from protocol.types import Role

MAX_CA_FILE: Final = 4096


def write_purchase(
    settings: Path, target: Path, *, merchant: str, sale: bytes, with_claim: bool = False, former: tuple[Path, ...] = ()
) -> Bundle:
    """The TSM's evidence of one purchase, into `target`. Raises: as `export_purchase`, SettingsInvalid."""
    opened = Opened.of(load_settings(settings, Role.TSM))
    store = opened.store()
    try:
        bundle = export_purchase(
            build_tsm(opened), store, merchant=merchant, sale=sale, with_claim=with_claim,
            former=tuple(map(read_certificate, former)), root=opened.directory.root, now_s=opened.clock.now_s(),
            entropy=opened.entropy,
        )  # fmt: skip
    finally:
        store.close()
    write_file(target, bundle.to_bytes())
    return bundle


def write_sale(settings: Path, target: Path, *, sale: bytes, former: tuple[Path, ...] = ()) -> Bundle:
    """The merchant's evidence of one sale. Raises: as `export_sale`, SettingsInvalid."""
    opened = Opened.of(load_settings(settings, Role.MERCHANT))
    store = opened.store()
    try:
        bundle = export_sale(
            build_shop(opened), store, sale=sale, former=tuple(map(read_certificate, former)),
            root=opened.directory.root, now_s=opened.clock.now_s(),
        )  # fmt: skip
    finally:
        store.close()
    write_file(target, bundle.to_bytes())
    return bundle


def verify_file(path: Path, ca: Path, emv_ca: Path | None = None) -> Verdict:
    """What the bundle in a file proves; of all keys only those in `ca` and `emv_ca` are believed.

    Raises: EvidenceIncomplete if it is no bundle at all; SettingsInvalid.
    """
    data, root = read_file(path), root_of(ca)
    keys = None if emv_ca is None else read_emv_ca(emv_ca)
    try:
        bundle = Bundle.from_bytes(data)
    except ProtocolError as exc:
        raise EvidenceIncomplete(f"not a bundle of evidence: {exc.code}") from exc
    return verify_bundle(bundle, root=root, now_s=SystemClock().now_s(), emv_ca=keys)


def read_emv_ca(path: Path) -> tuple[CaKey, ...]:
    """The EMV CA's key in a file, or all that are in the PKI folder. Raises: SettingsInvalid."""
    if path.is_dir():
        return read_ca_keys(path)
    try:
        plain = decode(read_file(path), max_bytes=MAX_CA_FILE)
        return (CaKey(rid=plain["rid"], index=plain["index"], key=PublicKey.from_bytes(plain["modulus"])),)
    except (ProtocolError, KeyError, TypeError) as exc:
        raise SettingsInvalid(f"EMV CA key {path} can't be read: {type(exc).__name__}") from exc
