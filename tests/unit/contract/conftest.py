"""One run of all phases, taken apart layer by layer with the parties' own keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from pycddl import Schema
from support.claims import Desk
from support.counter import Counter, set_pin
from support.customer import amend
from support.settling import begin
from support.shop import Stall
from support.stopping import fetch, freeze_customer
from support.tape import pin_word
from support.tracing import answer_any, trace_any
from support.world import SOFTWARE, Phone, World

from parties.contract import CDDL, ROOT
from protocol import codec, cose
from protocol.contract import Key, Rpc
from protocol.cose import ENCRYPT0_TAG, SIGN1_TAG, Sign1
from protocol.crypto import PrivateKey
from protocol.envelope import Stamp, Wire
from protocol.errors import DecryptionFailed, ProtocolError
from protocol.messages.pay import Verdict
from protocol.messages.se import SeMeasure, SeMeasured, SePin, SeReopenPin
from protocol.roles.ledger import LEDGER
from protocol.roles.merchant import TERMINAL_KEYS
from protocol.roles.merchant.giveback import sign_refund
from protocol.roles.merchant.lane import record_answer
from protocol.roles.se.pin import MAX_WRONG
from protocol.roles.se.tables import ACCOUNTS, OWNERS, SERVICE_KEYS
from protocol.roles.statement import sign_statement, tsm_sums_with_merchant
from protocol.roles.tsm.tables import TID_LIST
from protocol.roles.wallet import close_service, fetch_reference_values, fetch_release, status
from protocol.types import Role

MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Layer:
    """One object as it stood on the wire: `rule` is its rule in payloads.cddl."""

    rule: str
    data: bytes


@dataclass(slots=True)
class Peeled:
    """A whole message: its form, the signatures found in it, and every layer."""

    form: str
    signed: list[Sign1]
    layers: list[Layer]


@dataclass(slots=True)
class Keys:
    """Every key of the run, by what it does."""

    private: list[PrivateKey] = field(default_factory=list)
    shared: dict[bytes, str] = field(default_factory=dict)
    signers: dict[bytes, Key] = field(default_factory=dict)

    def signer(self, kid: bytes) -> Key:
        """Whose signing key has this thumbprint; keys nobody keeps are one-time keys."""
        return self.signers.get(kid, Key.ONCE)


@dataclass(slots=True)
class Run:
    """What was sent and answered, by RPC."""

    world: World
    keys: Keys
    requests: dict[str, Wire] = field(default_factory=dict)
    replies: dict[str, Wire] = field(default_factory=dict)
    files: list[bytes] = field(default_factory=list)
    """Objects that travel by no call."""

    def request(self, rpc: Rpc) -> Peeled:
        """The request of this call, taken apart."""
        return peel(self.requests[rpc.full_name].cose, self.keys, b"")

    def reply(self, rpc: Rpc) -> Peeled:
        """The reply of this call, taken apart."""
        return peel(self.replies[rpc.full_name].cose, self.keys, self.requests[rpc.full_name].digest)

    def messages(self, rpcs: tuple[Rpc, ...]) -> Iterator[Peeled]:
        """All of them."""
        for rpc in rpcs:
            yield self.request(rpc)
            yield self.reply(rpc)
        for data in self.files:
            yield peel(data, self.keys, b"")


def _name(data: bytes) -> tuple[str, int]:
    header = codec.decode(codec.decode(data[1:], max_bytes=MAX_BYTES)[0], max_bytes=MAX_BYTES)
    return header[3].removeprefix("application/vnd.tapveil.").removesuffix("+cbor"), header[1]


def _decrypt(data: bytes, keys: Keys, digest: bytes) -> tuple[str, str, bytes]:
    """(name of the key in a form, rule, plaintext) under whichever key and context open it."""
    name, alg = _name(data)
    for context in (digest, b""):
        if alg == -65537:
            for private in keys.private:
                try:
                    plain = cose.unseal(private, data, name=name, max_bytes=MAX_BYTES, request_digest=context)
                except DecryptionFailed:
                    continue
                return "E", "encrypt0-hpke", plain
        for shared, label in keys.shared.items():
            try:
                plain = cose.decrypt(shared, data, name=name, max_bytes=MAX_BYTES, request_digest=context)
            except ProtocolError:
                continue
            return label, "encrypt0-aead", plain
    raise AssertionError(f"no key of the run opens {name}")


def peel(data: bytes, keys: Keys, digest: bytes) -> Peeled:
    """Take a COSE object apart, down to the payloads and the objects that they carry."""
    if data[:1] == SIGN1_TAG:
        return _signature(data, keys, digest)
    label, rule, plain = _decrypt(data, keys, digest)
    name, _ = _name(data)
    header = codec.decode(data[1:], max_bytes=MAX_BYTES)[0]
    layers = [Layer(rule, data), Layer("hpke-header" if label == "E" else "aead-header", header)]
    if plain[:1] in (SIGN1_TAG, ENCRYPT0_TAG):
        inner = peel(plain, keys, digest)
        form = inner.form
    else:
        layers.append(Layer(f"{name}-parts", plain))
        form, inner = _parts(name, codec.decode(plain, max_bytes=MAX_BYTES), keys, digest)
    wrapped = f"E({form})" if label == "E" else f"{{{form}}}{label}"
    return Peeled(wrapped, inner.signed, [*layers, *inner.layers])


def _parts(name: str, parts: list[bytes], keys: Keys, digest: bytes) -> tuple[str, Peeled]:
    signed = [_signature(part, keys, digest) for part in parts if part[:1] == SIGN1_TAG]
    merged = Peeled("", [s for p in signed for s in p.signed], [layer for p in signed for layer in p.layers])
    rest = [part for part in parts if part[:1] != SIGN1_TAG]
    if not rest:
        return ", ".join(f"S_{keys.signer(p.signed[0].kid).removeprefix('SK_')}" for p in signed), merged
    if name == "account-certificate":
        return "S, K", merged
    merged.layers += [Layer("card-key", part) for part in rest]
    return "S, [PK_C, salt, S_C]…", merged


def _signature(data: bytes, keys: Keys, digest: bytes) -> Peeled:
    sign1 = cose.parse_sign1(data, max_bytes=MAX_BYTES)
    layers = [Layer("sign1", data), Layer("sign1-header", sign1.protected), Layer(sign1.name, sign1.payload)]
    peeled = Peeled("S", [sign1], layers)
    # What the wallet carries to and from the SE is seen on its own way, but for the bank's word from the branch.
    if sign1.name.startswith("se-") and sign1.name != SeReopenPin.NAME:
        return peeled
    for value in _byte_strings(codec.decode(sign1.payload, max_bytes=MAX_BYTES)):
        if value[:2] in (SIGN1_TAG + b"\x84", ENCRYPT0_TAG + b"\x83"):
            inner = peel(value, keys, digest)
            peeled.signed += inner.signed
            peeled.layers += inner.layers
    return peeled


def _byte_strings(plain: Any) -> Iterator[bytes]:
    if isinstance(plain, bytes):
        yield plain
    elif isinstance(plain, dict | list):
        for item in plain.values() if isinstance(plain, dict) else plain:
            yield from _byte_strings(item)


def _keys_of(world: World, phone: Any) -> Keys:
    keys = Keys()
    roles = {Role.BANK: Key.BANK, Role.TSM: Key.TSM, Role.SP: Key.SP}
    for party in world.parties.values():
        if party.role in roles:
            keys.private.append(party.value.keys.seal)
            keys.signers[party.value.keys.sign.public.thumbprint] = roles[party.role]
    keys.signers[world.merchant.sign.public.thumbprint] = Key.MERCHANT
    keys.signers[phone.wallet_key.public.thumbprint] = Key.WALLET
    keys.signers[phone.party.value.key.public.thumbprint] = Key.SE
    store = phone.party.store
    pairs = [(Key.USER, row.sk_u, row.dk_u) for row in store.scan(OWNERS)]
    pairs += [(Key.AID, row.sk_aid, row.dk_aid) for row in store.scan(ACCOUNTS)]
    pairs += [(Key.TID, row.sk_tid, row.dk_tid) for row in store.scan(SERVICE_KEYS)]
    for key, signing, sealing in pairs:
        keys.signers[PrivateKey.from_bytes(signing).public.thumbprint] = key
        keys.private.append(PrivateKey.from_bytes(sealing))
    keys.shared |= {row.kx: "kx" for row in store.scan(ACCOUNTS)} | {row.k_aid: "K" for row in store.scan(ACCOUNTS)}
    keys.shared |= {row.k_tid: "K" for row in store.scan(SERVICE_KEYS)}
    keys.shared |= {row.k_bank: "K" for row in world.parties["tsm-1"].store.scan(TID_LIST)}
    for row in world.parties["shop-1"].store.scan(TERMINAL_KEYS):
        keys.signers[PrivateKey.from_bytes(row.private_key).public.thumbprint] = Key.TERMINAL
    return keys


def _pay(world: World, phone: Phone, tid: str) -> None:
    """A small purchase at the till with a refund, one above the limit that is reversed, a PIN locked and reopened."""
    stall = Stall.open(world)
    set_pin(world, phone)
    sale = stall.asked(phone, tid)
    asked = stall.row(sale)
    stall.apply(record_answer(stall.shop, asked, stall.to_tsm("Tsm.Authorize", asked.request), stall.now_s))
    stall.state(sale)
    pending = stall.refund_row(stall.refund(sale, 1_000))
    stall.to_tsm("Tsm.Refund", stall.apply(sign_refund(stall.shop, pending, stall.now_s, world.entropy)).request)
    stall.to_tsm("Tsm.SettleBatch", begin(stall).request)
    stall.cancel(stall.start())
    (row,) = stall.party.store.scan(TERMINAL_KEYS)
    key = PrivateKey.from_bytes(row.private_key)
    counter = Counter(world=world, keys=world.merchant, key=key, terminal=stall.terminal)
    purchase = counter.ask_verified(phone, tid, 25_000)
    (decided,) = counter.authorize_batch(purchase)
    assert decided.verdict is Verdict.APPROVED
    counter.reverse(purchase.sale)
    for _ in range(MAX_WRONG):
        with pytest.raises(ProtocolError):
            set_pin(world, phone, new="2580", old="9999")
    command = SeReopenPin(bank="bank-a", approval=pin_word(world, phone.user))
    world.run(phone, phone.wallet.command("ReopenPin", command, SePin))


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """INIT, ATT, AID, TID, CARD, PAY, closing, and the software provider, each once."""
    world = World(tmp_path_factory.mktemp("contract"), seed="contract")
    phone = world.ready()
    tid = world.service(phone, world.account(phone), maximum_minor=30_000)
    world.cards(phone, tid, number=3)
    world.launch(phone)  # now there is an active AID, so the decision brings a pass
    world.run(phone, status(phone.wallet))
    world.run(phone, phone.wallet.command("Measure", SeMeasure(), SeMeasured))
    world.run(phone, fetch_release(phone.wallet, provider="sp-1", software=SOFTWARE))
    world.run(phone, fetch_reference_values(phone.wallet, provider="sp-1", software=SOFTWARE, bank="bank-a"))
    _pay(world, phone, tid)
    Desk(world).claim()
    trace_any(world)
    amend(world, "tsm-1", TID_LIST, spent_minor=499_000)  # so little is left that the TSM asks for further credit
    world.cards(phone, tid, number=1)
    freeze_customer(world, phone.user)
    fetch(world)
    world.run(phone, close_service(phone.wallet, tsm="tsm-1", tid=tid))
    captured = Run(world, _keys_of(world, phone))
    for _, rpc, wire, reply in world.calls:
        if not isinstance(reply, Wire):
            assert rpc == "SecureElement.SetPin"  # the wrong entries
            continue
        captured.requests[rpc], captured.replies[rpc] = wire, reply
    captured.files.append(_statement(world))
    officers, kept = answer_any(world)
    captured.files += kept
    captured.keys.signers |= {key.public.thumbprint: Key.OFFICER for key in officers}
    captured.keys.private.append(world.merchant.seal)
    return captured


def _statement(world: World) -> bytes:
    tsm = world.parties["tsm-1"]
    stamp = Stamp.fresh(world.clock.now_s(), world.entropy)
    sums = tsm_sums_with_merchant(tsm.store.scan(LEDGER), merchant="shop-1")
    (part,) = sign_statement(tsm.value.keys.signer, sums, counterparty="shop-1", under_way=0, stamp=stamp)
    return part


@pytest.fixture(scope="package")
def rule() -> Callable[[str], Schema]:
    """Rule name → a schema whose root it is. pycddl searches with a pattern anywhere, so here patterns are anchored."""
    text = re.sub(r'\.regexp "(.*?)"', r'.regexp "^(\1)$"', (ROOT / CDDL).read_text())

    @cache
    def schema(name: str) -> Schema:
        return Schema(f"root = {name}\n{text}")

    return schema
