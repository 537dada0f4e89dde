"""What a bank's officers, the TSM's operator and a requester do around a trace (design §3 TRACE)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parties.assembly.common import Opened
from parties.assembly.roles import build_bank, build_tsm
from parties.directory import CA_FILE, read_certificate, write_certificate
from parties.keystore import MODERATE, Cost, Keystore
from parties.settings import load_settings
from parties.storage.store import DatabaseStore
from protocol import envelope, pki
from protocol.card import profile
from protocol.crypto import PrivateKey
from protocol.envelope import Signer
from protocol.errors import CertificateInvalid, Malformed, Oversize, SettingsInvalid
from protocol.evidence.answer import open_answer
from protocol.evidence.chain import purchase_date
from protocol.messages.pay import Authorization, AuthorizationDecision
from protocol.messages.trace import TraceAnswer, TraceRequest
from protocol.pki import Use
from protocol.roles.bank.officers import Officers, answer_of, appoint, known_case, remove, request_of, sign_verdict
from protocol.roles.bank.party import Bank
from protocol.roles.bank.tables import TRACE_CASES, TRACE_SIGNATURES, TraceCase
from protocol.roles.tsm.tables import TraceRow
from protocol.roles.tsm.trace import Disputed, trace
from protocol.rows import Where
from protocol.schema import IDENTIFIER
from protocol.types import Role

KEYS_FILE: Final = "keys.sealed"
OFFICER_FILE: Final = "officer.pem"
ISSUER_FILE: Final = "issuer.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class AtBank:
    """The bank's own keys and database, also while its server runs."""

    opened: Opened
    bank: Bank
    store: DatabaseStore

    @property
    def now_s(self) -> int:
        """Unix seconds."""
        return self.opened.clock.now_s()


@contextmanager
def at_bank(settings: Path) -> Iterator[AtBank]:
    """Raises: SettingsInvalid, KeystoreLocked, StorageFault."""
    opened = Opened.of(load_settings(settings, Role.BANK))
    store = opened.store()
    try:
        yield AtBank(opened=opened, bank=build_bank(opened), store=store)
    finally:
        store.close()


# --- officers --------------------------------------------------------------------------------------------------------
def add_officer(settings: Path, name: str, folder: Path, passphrase: bytes, *, cost: Cost = MODERATE) -> None:
    """Make an officer's own keystore and certificate in the new `folder`, and appoint them.

    Raises: SettingsInvalid, IdentifierTaken.
    """
    check_name(name)
    with at_bank(settings) as here:
        key = PrivateKey.generate(here.opened.entropy)
        certificate = pki.issue(
            here.bank.issuer, key.public, role=Role.OFFICER, name=name, use=Use.SIGN, from_s=here.now_s - 60,
            until_s=here.now_s + here.bank.policy.certificate_life_s, entropy=here.opened.entropy,
        )  # fmt: skip
        unit = appoint(here.bank, officer=name, key=key.public, now_s=here.now_s, entropy=here.opened.entropy)
        try:
            folder.mkdir(mode=0o700, parents=True)
        except OSError as exc:
            raise SettingsInvalid(f"{folder} can't be made: {exc.strerror}: name a new folder") from exc
        Keystore.create(folder / KEYS_FILE, passphrase, {"sign": key.to_bytes()}, cost=cost)
        write_certificate(folder / OFFICER_FILE, certificate)
        write_certificate(folder / ISSUER_FILE, here.bank.issuer.certificate)
        here.store.apply(unit)  # last: an officer who has no key would have to be removed again


def remove_officer(settings: Path, name: str) -> None:
    """Raises: WrongState if there is no such officer."""
    with at_bank(settings) as here:
        here.store.apply(remove(here.bank, officer=name, now_s=here.now_s, entropy=here.opened.entropy))


def check_name(name: str) -> None:
    """Raises: SettingsInvalid."""
    try:
        IDENTIFIER.parse(name)
    except (Malformed, Oversize) as exc:
        raise SettingsInvalid("a name has 1 to 64 small letters, digits, dots and dashes") from exc


def open_officer(folder: Path, passphrase: bytes, *, root: bytes, now_s: int) -> Signer:
    """An officer's name and key. Raises: SettingsInvalid, KeystoreLocked, CertificateInvalid."""
    keystore = Keystore.open(folder / KEYS_FILE, passphrase)
    key = PrivateKey.from_bytes(keystore.entry("sign"))
    chain = (read_certificate(folder / ISSUER_FILE),)
    identity = pki.verify(
        read_certificate(folder / OFFICER_FILE), root=root, now_s=now_s, use=Use.SIGN, chain=chain
    )  # fmt: skip
    if identity.role is not Role.OFFICER or identity.key != key.public:
        raise CertificateInvalid("not the certificate of this officer's key")
    return Signer(name=identity.name, key=key)


def give_verdict(settings: Path, case_id: bytes, folder: Path, passphrase: bytes, verdict: str) -> TraceCase:
    """Sign "approve" or "refuse" with the officer's own key, and hand it in; the case afterwards.

    Raises: WrongState, OfficersInsufficient, and what opening the officer's folder raises.
    """
    with at_bank(settings) as here:
        case = known_case(here.store, case_id)
        officer = open_officer(folder, passphrase, root=here.opened.directory.root, now_s=here.now_s)
        signed = sign_verdict(
            officer, bank=here.bank.keys.name, case=case_id, request_digest=case.request_digest, verdict=verdict,
            now_s=here.now_s, entropy=here.opened.entropy,
        )  # fmt: skip
        unit = Officers(here.bank, here.store).take(case_id, signed, here.now_s, here.opened.entropy)
        taken: TraceCase = here.store.apply(unit).reply
        return taken


# --- cases at the bank -----------------------------------------------------------------------------------------------
def list_cases(settings: Path) -> list[dict[str, Any]]:
    """Every case, without its purchase."""
    with at_bank(settings) as here:
        return [_outline(case) for case in here.store.scan(TRACE_CASES)]


def show_case(settings: Path, case_id: bytes) -> dict[str, Any]:
    """One case with the purchase that it is about and who has signed, without the person. Raises: WrongState."""
    with at_bank(settings) as here:
        case = known_case(here.store, case_id)
        signatures = here.store.read(Where(TRACE_SIGNATURES, "case_id", case_id))
        signed = {row.officer: row.verdict for row in signatures.find(TRACE_SIGNATURES, "case_id", case_id)}
        return {**_outline(case), **_purchase(request_of(here.store, case)), "verdicts": signed}


def hand_out(settings: Path, case_id: bytes) -> bytes:
    """The sealed answer, for a requester who comes to the bank. Raises: WrongState, OfficersInsufficient."""
    with at_bank(settings) as here:
        return answer_of(here.store, case_id)


def _outline(case: TraceCase) -> dict[str, Any]:
    return {
        "case": case.case_id.hex(), "state": case.state, "tsm": case.tsm, "requester": case.requester,
        "reason": case.reason, "opened_at_s": case.opened_at_s,
    }  # fmt: skip


def _purchase(request: TraceRequest) -> dict[str, Any]:
    """What is in dispute; the chain was verified when the case was opened."""
    asked = Authorization.from_bytes(envelope.peek(Authorization, request.authorization).payload).purchase
    receipt = envelope.peek(AuthorizationDecision, request.receipt).payload
    decided = AuthorizationDecision.from_bytes(receipt).decided
    date = purchase_date(profile.CDOL1.split(asked.cdol_data)[0x9A])
    return {
        "merchant": decided.merchant, "terminal": decided.terminal, "amount_minor": decided.amount_minor,
        "currency": decided.currency, "date": date.isoformat(), "sale": decided.sale.hex(),
    }  # fmt: skip


# --- the TSM and the requester ---------------------------------------------------------------------------------------
def ask(settings: Path, *, merchant: str, sale: bytes, reason: str, requester: str, case: bytes = b"") -> TraceRow:
    """Ask the bank for the name behind a purchase, or how that stands. The first `case` is kept. Raises: as `trace`."""
    opened = Opened.of(load_settings(settings, Role.TSM))
    store, channels = opened.store(), opened.channels()
    try:
        disputed = Disputed(merchant=merchant, sale=sale, case=case, reason=reason, requester=requester)
        return trace(build_tsm(opened), store, channels, disputed, opened.clock.now_s(), opened.entropy)
    finally:
        channels.close()
        store.close()


def read_answer(settings: Path, path: Path) -> tuple[TraceAnswer, str]:
    """What the bank tells the requester whose settings these are, and which bank. Raises: as `open_answer`."""
    opened = Opened.of(load_settings(settings))
    answer, bank = open_answer(opened.keys, opened.directory, read_file(path), opened.clock.now_s())
    return answer, bank.name


def read_file(path: Path) -> bytes:
    """Raises: SettingsInvalid."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise SettingsInvalid(f"{path} can't be read: {exc.strerror}") from exc


def write_file(path: Path, data: bytes) -> None:
    """Readable for its owner only. Raises: SettingsInvalid."""
    try:
        path.touch(mode=0o600)
        path.write_bytes(data)
    except OSError as exc:
        raise SettingsInvalid(f"{path} can't be written: {exc.strerror}") from exc


def root_of(path: Path) -> bytes:
    """The CA's certificate, from its file or the PKI folder. Raises: SettingsInvalid."""
    return read_certificate(path / CA_FILE if path.is_dir() else path)
