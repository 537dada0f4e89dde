"""All roles joined in memory: the same steps as the servers run, over dicts, without sockets, clocks or files."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from attestation.certificate import AttestationKey, issue_attestation_certificate, issue_manufacturer_certificate
from attestation.measurement import Measurement, MeasurementList
from attestation.reference import (
    ReferenceValues,
    Software,
    sign_reference_values,
    sign_release,
    verify_reference_values,
)
from attestation.soft_mtm import SoftMtm
from parties.attesting import BankAppraiser, MeasuredPhone, PhoneFiles
from protocol import pki
from protocol.card import rsa
from protocol.card.months import Month
from protocol.card.oda import CaKey, certify_issuer
from protocol.card.pan import DEFAULT_IIN
from protocol.card.personalize import Issuer
from protocol.card.profile import RID, CardProfile
from protocol.crypto import PrivateKey, PublicKey, mac, sha256
from protocol.engine import Engine, Peer
from protocol.envelope import Wire
from protocol.errors import ProtocolError, UnknownKey
from protocol.pki import Identity, Use
from protocol.roles.bank import bank_steps
from protocol.roles.bank.customers import new_branch_code, open_customer
from protocol.roles.bank.party import Bank, BankPolicy
from protocol.roles.party import PartyKeys
from protocol.roles.se import se_steps
from protocol.roles.se.party import SecureElement
from protocol.roles.sp import SoftwareProvider, sp_steps
from protocol.roles.tsm import tsm_steps
from protocol.roles.tsm.freshness import STALE_AFTER_S
from protocol.roles.tsm.issuer import EmvIssuer
from protocol.roles.tsm.party import Tsm, TsmPolicy
from protocol.roles.tsm.stops import refresh_stops
from protocol.roles.tsm.tables import STOP_LISTS
from protocol.roles.wallet import Call, Exchanged, Flow, Wallet, attest, enroll, issue_cards, open_account, register
from protocol.rows import MemoryStore
from protocol.types import Purpose, Role, TrustClass

T = TypeVar("T")
START_S = 1_800_000_000
YEAR_S = 366 * 24 * 3600
SOFTWARE = "tapveil-wallet"
PACKAGE = b"#!/usr/bin/env python3\nthe wallet, as released\n"
PLATFORM = (("platform/boot", b"boot loader 1.0"), ("platform/os", b"operating system 1.0"))
PASSCODE = "correct-7351"


class FixedClock:
    """A clock that moves when told."""

    def __init__(self, now_s: int = START_S) -> None:
        self.time_s = now_s

    def now_s(self) -> int:
        return self.time_s


class SeededEntropy:
    """Randomness from a seed: SHAKE-256 over a counter."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0

    def bytes(self, n: int, /) -> bytes:
        self._count += 1
        return hashlib.shake_256(f"{self._seed}/{self._count}".encode()).digest(n)


class MemoryDirectory:
    """The PKI as a dict."""

    def __init__(self) -> None:
        self.identities: list[Identity] = []

    def named(self, name: str, use: Use) -> Identity:
        found = [i for i in self.identities if i.name == name and i.use is use]
        if len(found) != 1:
            raise UnknownKey(name)
        return found[0]

    def by_thumbprint(self, thumbprint: bytes) -> Identity:
        for identity in self.identities:
            if identity.use is Use.SIGN and identity.key.thumbprint == thumbprint:
                return identity
        raise UnknownKey


class TestSecrets:
    """Blind indexes under a fixed key; passcodes hashed cheaply, since Argon2id is tested at the keystore."""

    __test__ = False

    def blind(self, label: str, value: bytes) -> bytes:
        return mac(b"blind", label.encode(), value)

    def passcode_matches(self, stored_hash: bytes, passcode: bytes) -> bool:
        return stored_hash == sha256(passcode)

    def hash(self, pin: str) -> bytes:
        return sha256(pin.encode())

    def matches(self, stored: bytes, pin: str) -> bool:
        return stored == sha256(pin.encode())


@cache
def emv_keys() -> tuple[rsa.PrivateKey, rsa.PrivateKey]:
    """EMV CA and issuer key, made once a process."""
    return rsa.generate_key(rsa.CA_BITS), rsa.generate_key(rsa.ISSUER_BITS)


@cache
def card_key(number: int) -> rsa.PrivateKey:
    """Card keys are costly: the same few serve every world, each at most once in it."""
    del number
    return rsa.generate_key(rsa.ICC_BITS)


class CardKeyPool:
    """Hands out the shared card keys in order."""

    def __init__(self) -> None:
        self.next = 0

    def take(self, number: int) -> tuple[rsa.PrivateKey, ...]:
        keys = tuple(card_key(self.next + i) for i in range(number))
        self.next += number
        return keys


@dataclass
class Party:
    """One party's engine and store, and who it is on the transport."""

    name: str
    role: Role
    engine: Engine
    store: MemoryStore
    steps: dict[str, Any]
    value: Any


@dataclass
class Phone:
    """An SE, its wallet, and the files it measures."""

    name: str
    party: Party
    wallet: Wallet
    platform: MeasuredPhone
    directory: Path
    wallet_key: PrivateKey
    user: str = ""

    @property
    def application(self) -> Path:
        return self.platform.files.application


@dataclass
class World:
    """Two banks, a TSM, a software provider, a merchant's identity, and phones on demand."""

    tmp: Path
    seed: str = ""
    clock: FixedClock = field(default_factory=FixedClock)
    directory: MemoryDirectory = field(default_factory=MemoryDirectory)
    parties: dict[str, Party] = field(default_factory=dict)
    phones: dict[str, Phone] = field(default_factory=dict)
    calls: list[tuple[str, str, Wire, Wire | ProtocolError]] = field(default_factory=list)
    tap: Callable[[str, str, Wire], Wire] | None = None
    """Sees and may alter every request on its way."""
    tap_reply: Callable[[str, str, Wire], Wire] | None = None
    """The same for every reply."""
    card_keys: CardKeyPool = field(default_factory=CardKeyPool)
    fetches_stops: bool = True
    """Does the TSM fetch the banks' lists of stops, as its server does every minute?"""

    def __post_init__(self) -> None:
        self.entropy = SeededEntropy(self.seed or secrets.token_hex(16))
        now_s = self.clock.now_s()
        self.root = pki.create_root(
            self.key(), name="tapveil-ca", from_s=now_s - 60, until_s=now_s + 10 * YEAR_S, entropy=self.entropy
        )
        self.manufacturer_key = self.key()
        self.manufacturer = issue_manufacturer_certificate(
            self.manufacturer_key, name="maker", valid_from_s=now_s - 60, valid_until_s=now_s + 10 * YEAR_S,
            entropy=self.entropy,
        )  # fmt: skip
        self.platform_list = MeasurementList()
        for path, content in PLATFORM:
            self.platform_list = self.platform_list.with_entry(Measurement(path=path, digest=sha256(content)))
        for bank in ("bank-a", "bank-b"):
            self.add_bank(bank)
        self.add_tsm("tsm-1")
        self.add_provider("sp-1")
        self.merchant = self.certified("shop-1", Role.MERCHANT)
        self.refresh_stops()

    def key(self) -> PrivateKey:
        return PrivateKey.generate(self.entropy)

    def certified(self, name: str, role: Role, *uses: Use) -> PartyKeys:
        """Long-term keys with certificates in the directory."""
        keys = PartyKeys(name=name, sign=self.key(), seal=self.key())
        pairs = ((Use.SIGN, keys.sign), (Use.SEAL, keys.seal))
        for use, key in pairs:
            if not uses or use in uses:
                self.publish(name, role, use, key.public)
        return keys

    def publish(self, name: str, role: Role, use: Use, key: PublicKey) -> None:
        now_s = self.clock.now_s()
        der = pki.issue(
            self.root, key, role=role, name=name, use=use, from_s=now_s - 60, until_s=now_s + YEAR_S,
            entropy=self.entropy,
        )  # fmt: skip
        identity = pki.verify(der, root=self.root.certificate, now_s=now_s, use=use)
        self.directory.identities.append(identity)

    # --- parties ---------------------------------------------------------------------------------------------------
    def join(self, name: str, role: Role, steps: dict[str, Any], value: Any) -> Party:
        store = MemoryStore()
        engine = Engine(
            steps, store=store, clock=self.clock, entropy=self.entropy, peers=_Peers(self, Peer(role=role, name=name))
        )
        self.parties[name] = Party(name=name, role=role, engine=engine, store=store, steps=steps, value=value)
        return self.parties[name]

    def add_bank(self, name: str) -> Party:
        now_s = self.clock.now_s()
        keys = self.certified(name, Role.BANK)
        issuer_key = self.key()
        issuer = pki.Issuer(
            key=issuer_key,
            certificate=pki.issue(
                self.root, issuer_key.public, role=Role.BANK, name=name, use=Use.ISSUE, from_s=now_s - 60,
                until_s=now_s + 3 * YEAR_S, entropy=self.entropy,
            ),
        )  # fmt: skip
        appraiser = BankAppraiser(
            bank=name, manufacturer=self.manufacturer, platform=self.platform_list,
            references={SOFTWARE: self.reference_values(keys)},
        )  # fmt: skip
        bank = Bank(
            keys=keys, issuer=issuer, directory=self.directory, appraiser=appraiser, secrets=TestSecrets(),
            policy=BankPolicy(),
            emv_ca=(CaKey(rid=RID, index=1, key=emv_keys()[0].public),),
        )  # fmt: skip
        return self.join(name, Role.BANK, bank_steps(bank), bank)

    def reference_values(self, keys: PartyKeys) -> ReferenceValues:
        now_s = self.clock.now_s()
        software = Software.of(PACKAGE, software_id=SOFTWARE, version="1.0.0")
        signed = sign_reference_values(
            software, self.platform_list, bank_key=keys.sign, bank_id=keys.name, valid_from_s=now_s - 60,
            valid_until_s=now_s + YEAR_S, entropy=self.entropy,
        )  # fmt: skip
        return verify_reference_values(signed, bank_key=keys.sign.public, bank_id=keys.name, now_s=now_s)

    def add_tsm(self, name: str) -> Party:
        now_s = self.clock.now_s()
        ca, private = emv_keys()
        ca_key = CaKey(rid=RID, index=1, key=ca.public)
        expiry = Month(year=2032, month=12)
        certificate = certify_issuer(
            ca, private.public, iin=DEFAULT_IIN, expiry=expiry, serial=b"\1\2\3", entropy=self.entropy
        )
        import datetime

        today = datetime.datetime.fromtimestamp(now_s, tz=datetime.UTC).date()
        tsm = Tsm(
            keys=self.certified(name, Role.TSM), cookie_key=self.entropy.bytes(32), directory=self.directory,
            issuer=EmvIssuer(
                issuer=Issuer.open(ca_key, private, certificate, today=today),
                master_key=bytes.fromhex("0123456789abcdeffedcba9876543210"), profile=CardProfile(), uses=1,
                verify_above_minor=TsmPolicy().verify_above_minor,
            ),
            emv_ca=(ca_key,), secrets=TestSecrets(), policy=TsmPolicy(),
        )  # fmt: skip
        return self.join(name, Role.TSM, tsm_steps(tsm), tsm)

    def add_provider(self, name: str) -> Party:
        now_s = self.clock.now_s()
        keys = self.certified(name, Role.SP)
        software = Software.of(PACKAGE, software_id=SOFTWARE, version="1.0.0")
        release = sign_release(
            software, sp_key=keys.sign, sp_id=name, valid_from_s=now_s - 60, valid_until_s=now_s + YEAR_S,
            entropy=self.entropy,
        )  # fmt: skip
        references: Mapping[str, bytes] = {
            bank: self.parties[bank].value.appraiser.references[SOFTWARE].wire for bank in ("bank-a", "bank-b")
        }
        provider = SoftwareProvider(
            keys=keys, software=SOFTWARE, release=release, package=PACKAGE, reference_values=references
        )
        return self.join(name, Role.SP, sp_steps(provider), provider)

    def add_phone(self, name: str) -> Phone:
        now_s = self.clock.now_s()
        directory = self.tmp / name
        directory.mkdir()
        files: dict[str, Path] = {}
        for path, content in PLATFORM:
            files[path] = directory / path.replace("/", "-")
            files[path].write_bytes(content)
        attestation_key, wallet_key = self.key(), self.key()
        certificate = issue_attestation_certificate(
            AttestationKey(public=attestation_key.public, trust_class=TrustClass.SOFTWARE),
            ca_key=self.manufacturer_key, ca_certificate=self.manufacturer, valid_from_s=now_s - 60,
            valid_until_s=now_s + YEAR_S, entropy=self.entropy,
        )  # fmt: skip
        platform = MeasuredPhone(
            mtm=SoftMtm(attestation_key, self.clock), certificate=certificate,
            files=PhoneFiles(platform=files, application=directory / "wallet.pyz", software=SOFTWARE),
        )  # fmt: skip
        element_key = self.key()
        self.publish(name, Role.SE, Use.SIGN, element_key.public)
        self.publish(name, Role.PHONE, Use.SIGN, wallet_key.public)
        element = SecureElement(
            name=name, key=element_key, wallet_key=wallet_key.public, root=self.root.certificate,
            directory=self.directory, platform=platform, card_keys=self.card_keys, pins=TestSecrets(),
            emv_ca=(CaKey(rid=RID, index=1, key=emv_keys()[0].public),),
        )  # fmt: skip
        party = self.join(name, Role.SE, se_steps(element), element)
        wallet = Wallet(
            secure_element=name, secure_element_key=element_key.public, key=wallet_key, directory=self.directory,
            clock=self.clock, entropy=self.entropy,
        )  # fmt: skip
        self.phones[name] = Phone(
            name=name, party=party, wallet=wallet, platform=platform, directory=directory, wallet_key=wallet_key
        )
        return self.phones[name]

    # --- running ---------------------------------------------------------------------------------------------------
    def deliver(self, peer: str, rpc: str, wire: Wire, caller: Peer | None) -> Wire:
        """One request to a party, recorded."""
        if rpc in ("Tsm.Authorize", "Tsm.AuthorizeBatch") and self.fetches_stops:
            self.refresh_stops()
        sent = wire if self.tap is None else self.tap(peer, rpc, wire)
        try:
            reply = self.parties[peer].engine.handle(rpc, sent, caller)
        except ProtocolError as refusal:
            self.calls.append((peer, rpc, sent, refusal))
            raise
        self.calls.append((peer, rpc, sent, reply))
        return reply if self.tap_reply is None else self.tap_reply(peer, rpc, reply)

    def send(self, phone: Phone, call: Call) -> Wire:
        """A call of a phone's wallet. Only banks see who calls."""
        peer = phone.name if call.peer == "se" else call.peer
        known = self.parties[peer].role is Role.BANK
        return self.deliver(peer, call.rpc, call.wire, Peer(role=Role.PHONE, name=phone.name) if known else None)

    def run(self, phone: Phone, flow: Flow[T]) -> T:
        """A whole flow, each call answered at once."""
        try:
            call = next(flow)
            while True:
                call = flow.send(Exchanged(sent=call.wire, reply=self.send(phone, call)))
        except StopIteration as done:
            result: T = done.value
            return result

    def refresh_stops(self, *, anew: bool = False) -> None:
        """The TSM's lists of stops, unless they are young enough; unrecorded, since it happens all the time."""
        now_s, tsm = self.clock.now_s(), self.parties["tsm-1"]
        minutes = {row.bank: row.minute_s for row in tsm.store.scan(STOP_LISTS)}
        for bank in (party for party in self.parties.values() if party.role is Role.BANK):
            if anew or now_s - minutes.get(bank.name, 0) > STALE_AFTER_S:
                refresh_stops(tsm.value, bank.name, tsm.store, _Direct(self), now_s, self.entropy)

    # --- phases ----------------------------------------------------------------------------------------------------
    def branch_code(self, bank: str, *, limit_minor: int = 2_000_000, passcode: str = PASSCODE) -> str:
        code = new_branch_code(self.entropy)
        unit = open_customer(
            self.parties[bank].value, name="A Person", passcode_hash=sha256(passcode.encode()),
            limit_minor=limit_minor, currency="TWD", branch_code=code, now_s=self.clock.now_s(), entropy=self.entropy,
        )  # fmt: skip
        self.parties[bank].store.apply(unit)
        return code

    def init(self, phone: Phone, bank: str = "bank-a") -> str:
        phone.user = self.run(phone, enroll(phone.wallet, bank=bank, branch_code=self.branch_code(bank)))
        return phone.user

    def install(self, phone: Phone, bank: str = "bank-a") -> None:
        before = self.run(phone, attest(phone.wallet, bank=bank, purpose=Purpose.INSTALL, software=SOFTWARE))
        assert before.allowed, before.reason
        phone.application.write_bytes(PACKAGE)
        after = self.run(phone, attest(phone.wallet, bank=bank, purpose=Purpose.REPORT, software=SOFTWARE))
        assert after.allowed, after.reason

    def launch(self, phone: Phone, bank: str = "bank-a") -> str:
        """The reason of a refusal, or empty."""
        decision = self.run(phone, attest(phone.wallet, bank=bank, purpose=Purpose.LAUNCH, software=SOFTWARE))
        return decision.reason

    def ready(self, name: str = "phone-1", bank: str = "bank-a") -> Phone:
        """A phone that was enrolled, installed and launched."""
        phone = self.add_phone(name)
        self.init(phone, bank)
        self.install(phone, bank)
        assert self.launch(phone, bank) == ""
        return phone

    def account(self, phone: Phone, bank: str = "bank-a", tsm: str = "tsm-1", passcode: str = PASSCODE) -> str:
        flow = open_account(phone.wallet, bank=bank, tsm=tsm, software=SOFTWARE, passcode=passcode)
        return self.run(phone, flow).aid

    def service(self, phone: Phone, aid: str, tsm: str = "tsm-1", maximum_minor: int = 0) -> str:
        return self.run(phone, register(phone.wallet, tsm=tsm, aid=aid, maximum_minor=maximum_minor)).tid

    def cards(self, phone: Phone, tid: str, number: int = 2, tsm: str = "tsm-1") -> None:
        self.run(phone, issue_cards(phone.wallet, tsm=tsm, tid=tid, number=number))

    def restart(self, party: str) -> list[ProtocolError]:
        """The party's process ends and starts again over what it had stored; the questions it could not finish."""
        old = self.parties[party]
        peers = _Peers(self, Peer(role=old.role, name=party))
        old.engine = Engine(old.steps, store=old.store, clock=self.clock, entropy=self.entropy, peers=peers)
        return old.engine.resume()

    def swap_step(self, party: str, step: Any) -> None:
        """Replace one step of a party, for a variant without a defence."""
        self.parties[party].steps[step.rpc] = step

    def snapshot(self, party: str) -> dict[str, Any]:
        """Every row of a party: a refusal changes nothing."""
        from protocol.rows import ALL_TABLES

        store = self.parties[party].store
        moving = ("stop_lists",)  # fetched every minute, whatever is refused meanwhile
        return {name: sorted(map(repr, store.scan(table))) for name, table in ALL_TABLES.items() if name not in moving}


class _Peers:
    """How a party of this world reaches another."""

    def __init__(self, world: World, me: Peer) -> None:
        self._world = world
        self._me = me

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        return self._world.deliver(peer, rpc, request, self._me)


class _Direct:
    """From the TSM to a bank, past all that sees and alters requests."""

    def __init__(self, world: World) -> None:
        self._world = world

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        return self._world.parties[peer].engine.handle(rpc, request, Peer(role=Role.TSM, name="tsm-1"))


def without(wire: Wire, **changes: bytes) -> Wire:
    """The wire with some part changed."""
    return replace(wire, **changes)
