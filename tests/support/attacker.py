"""Attackers with the powers that the symbolic models give them, and variants of parties with a defence removed.

The network is always the attacker's. A test takes further powers by name: keys outside any secure element
(`ForeignTid`, `Owner`), a TSM with its keys (`CorruptTsm`), a wallet with its wallet key (`command`, `raw_command`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import pytest
from support.world import Phone, World, card_key

from protocol import codec, cose, envelope
from protocol.card.possession import sign_possession
from protocol.commitments import card_leaf, card_session, commitment, merkle_root, possession_digest
from protocol.crypto import PrivateKey, PublicKey, new_key, sha256
from protocol.engine import EVIDENCE, Context, Peer
from protocol.envelope import Opened, Signer, Stamp, Wire
from protocol.errors import PeerAnswerInvalid, ProtocolError
from protocol.messages.attest import PossessionForCards, PossessionForSession
from protocol.messages.card import CardChallenge, CardKey, CardKeys, CardRequest, CardsIssued
from protocol.messages.se import SealedRequest, SeBankInfo, SeMakeBankInfo, SeSignService, Statement
from protocol.messages.service import (
    BankInfo,
    CreditProof,
    GrantApproval,
    GrantRelease,
    GrantRequest,
    Promise,
    ServiceOffer,
    ServiceRequest,
    TsmInfo,
)
from protocol.pki import Use
from protocol.roles.ledger import LEDGER
from protocol.roles.se.party import SecureElement
from protocol.roles.se.tables import ACCOUNTS, SERVICE_KEYS
from protocol.rows import Decision, Insert, Rows, Table, Update, Value
from protocol.schema import Message, Record
from protocol.types import Role

M = TypeVar("M", bound=Message)
R = TypeVar("R")
ANY = 1 << 20
"""Bytes enough for anything: an attacker has no bounds to keep."""


@contextmanager
def refused(world: World, error: type[ProtocolError], code: str, *, unchanged: tuple[str, ...] = ()) -> Iterator[None]:
    """The block ends in exactly this refusal, and no row of `unchanged` (of any party, if empty) has changed."""
    names = unchanged or tuple(world.parties)
    before = {name: world.snapshot(name) for name in names}
    with pytest.raises(error) as caught:
        yield
    assert (type(caught.value), caught.value.code) == (error, code)
    assert {name: world.snapshot(name) for name in names} == before


@contextmanager
def unusable(world: World, cause: type[ProtocolError], *, unchanged: tuple[str, ...]) -> Iterator[None]:
    """The block ends because a party's answer failed the check `cause`; nothing of it was taken, and the question stays
    open for a good answer."""
    before = {name: world.snapshot(name) for name in unchanged}
    with pytest.raises(PeerAnswerInvalid) as caught:
        yield
    assert (caught.value.code, type(caught.value.__cause__)) == ("PEER_ANSWER_INVALID", cause)
    assert {name: world.snapshot(name) for name in unchanged} == before


def read(kind: type[M], signed: bytes) -> M:
    """The payload of a signed object: an attacker reads without verifying."""
    return kind.from_bytes(cose.parse_sign1(signed, max_bytes=ANY).payload)


def decrypt(kind: type[Record], key: bytes, data: bytes, request_digest: bytes = b"") -> bytes:
    """What is under a shared key that leaked."""
    return cose.decrypt(key, data, name=kind.NAME, max_bytes=ANY, request_digest=request_digest)


def unseal(kind: type[Record], key: PrivateKey, data: bytes, request_digest: bytes = b"") -> bytes:
    """What is sealed to a key that leaked."""
    return cose.unseal(key, data, name=kind.NAME, max_bytes=ANY, request_digest=request_digest)


def stamp(world: World) -> Stamp:
    """Now, with a new nonce."""
    return Stamp.fresh(world.clock.now_s(), world.entropy)


def nonce(world: World) -> bytes:
    """32 random bytes."""
    return world.entropy.bytes(32)


def evidence(world: World, party: str, kind: type[M]) -> list[M]:
    """What a corrupt party kept of what it received."""
    return [read(kind, row.signed) for row in world.parties[party].store.scan(EVIDENCE) if row.message == kind.NAME]


# --- a corrupt wallet ----------------------------------------------------------------------------------------------
def command(world: World, phone: Phone, rpc: str, message: Message, reply: type[M]) -> M:
    """Any command, in any order, under the wallet key."""
    return world.run(phone, phone.wallet.command(rpc, message, reply))


def raw_command(world: World, phone: Phone, rpc: str, message: Message, reply: type[M], **more: Any) -> M:
    """A command with fields that its type does not have, under the wallet key."""
    claims = cose.Claims(
        issuer=phone.name, audience=phone.name, issued_at_s=world.clock.now_s(),
        expires_at_s=world.clock.now_s() + 60, nonce=world.entropy.bytes(16),
    )  # fmt: skip
    payload = codec.encode({**message.plain(), **more})
    wire = Wire(cose=cose.sign(phone.wallet_key, name=message.NAME, claims=claims, payload=payload))
    return read(reply, world.deliver(phone.name, f"SecureElement.{rpc}", wire, None).cose)


def request_of(world: World, phone: Phone, tid: str, statement: Statement) -> Wire:
    """A statement that the SE signed and sealed for the TSM."""
    message = SeSignService(tid=tid, statement=statement, maximum_minor=0, aid="")
    made = command(world, phone, "SignService", message, SealedRequest)
    return Wire(cose=made.cose, session=made.session)


def answer_offer(world: World, phone: Phone, tid: str, aid: str, reply: bytes) -> SeBankInfo:
    """Hand an offer to the SE, true or forged."""
    message = SeMakeBankInfo(tid=tid, aid=aid, reply=reply, nonce1=nonce(world))
    return command(world, phone, "MakeBankInfo", message, SeBankInfo)


# --- keys outside any secure element -------------------------------------------------------------------------------
@dataclass
class Owner:
    """An AID whose keys the attacker holds: a customer who broke their own SE, or the victim of a break."""

    world: World
    aid: str
    bank: str
    sk: PrivateKey
    k: bytes
    launch_pass: bytes
    expires_at_s: int
    limit_minor: int
    currency: str

    @classmethod
    def of(cls, world: World, phone: Phone, aid: str) -> Owner:
        """Read out of the SE of `phone`."""
        (row,) = (row for row in world.parties[phone.name].store.scan(ACCOUNTS) if row.aid == aid)
        return cls(
            world=world, aid=aid, bank=row.bank, sk=PrivateKey.from_bytes(row.sk_aid), k=row.k_aid,
            launch_pass=row.launch_pass, expires_at_s=row.expires_at_s, limit_minor=row.limit_minor,
            currency=row.currency,
        )  # fmt: skip

    def _sign(self, message: Message, audience: str) -> bytes:
        return envelope.sign(Signer(name=self.aid, key=self.sk), message, audience=audience, stamp=stamp(self.world))

    def bank_info(self, *, tsm: str, sid: bytes, com: bytes, n2: bytes) -> bytes:
        """BINFO."""
        message = BankInfo(
            tsm=tsm, sid=sid, aid=self.aid, com=com, expires_at_s=self.expires_at_s, limit_minor=self.limit_minor,
            currency=self.currency, n2=n2,
        )  # fmt: skip
        signed = self._sign(message, self.bank)
        return cose.encrypt(self.k, self.world.entropy, name=BankInfo.NAME, plaintext=signed)

    def shows_session(self, tsm: str, sid: bytes) -> bytes:
        """Possession for TID-3."""
        return self._sign(PossessionForSession(sid=sid, pass_digest=sha256(self.launch_pass)), tsm)

    def shows_cards(self, tsm: str, n_t: bytes) -> bytes:
        """Possession for CARD-3."""
        return self._sign(PossessionForCards(n_t=n_t, pass_digest=sha256(self.launch_pass)), tsm)


@dataclass
class ForeignTid:
    """A service account whose keys are in no SE: the attacker's own, or stolen."""

    world: World
    tsm: str
    tid: str
    sk: PrivateKey
    dk: PrivateKey
    sid: bytes = b""
    n_t: bytes = b""
    key: bytes = b""
    card_n_u: bytes = field(default=b"", init=False)
    card_n_t: bytes = field(default=b"", init=False)

    @classmethod
    def make(cls, world: World, tsm: str = "tsm-1", tid: str = "") -> ForeignTid:
        """New keys, under a name that the attacker chooses."""
        name = tid or f"t-{world.entropy.bytes(16).hex()}"
        return cls(world=world, tsm=tsm, tid=name, sk=world.key(), dk=world.key())

    @classmethod
    def stolen(cls, world: World, phone: Phone, tid: str) -> ForeignTid:
        """SK_TID, DK_TID and K_TID,TSM of a phone; not its SK_AID."""
        (row,) = (row for row in world.parties[phone.name].store.scan(SERVICE_KEYS) if row.tid == tid)
        sk, dk = PrivateKey.from_bytes(row.sk_tid), PrivateKey.from_bytes(row.dk_tid)
        return cls(world=world, tsm=row.tsm, tid=tid, sk=sk, dk=dk, sid=row.sid, n_t=row.n_t, key=row.k_tid)

    def sign(self, message: Message) -> bytes:
        return envelope.sign(Signer(name=self.tid, key=self.sk), message, audience=self.tsm, stamp=stamp(self.world))

    def _seal(self, message: Message) -> Wire:
        key = self.world.directory.named(self.tsm, Use.SEAL).key
        return Wire(cose=cose.seal(key, name=message.NAME, plaintext=self.sign(message)))

    def open(self) -> ForeignTid:
        """TID-1 with the TSM: SID, N_T and K."""
        message = ServiceRequest(
            tid=self.tid, pk_tid=self.sk.public.encoded, ek_tid=self.dk.public.encoded, n_u=nonce(self.world)
        )
        wire = self._seal(message)
        reply = self.world.deliver(self.tsm, "Tsm.OpenAccount", wire, None)
        offer = read(ServiceOffer, unseal(ServiceOffer, self.dk, reply.cose, wire.digest))
        self.sid, self.n_t, self.key = offer.sid, offer.n_t, offer.key
        return self

    def info(self, owner: Owner, binfo: bytes, *, r: bytes, com: bytes, n2: bytes) -> TsmInfo:
        """TSMINFO that agrees with what `owner` says."""
        return TsmInfo(
            bank=owner.bank, sid=self.sid, tid=self.tid, aid=owner.aid, r=r, com=com, binfo_digest=sha256(binfo),
            n2=n2, expires_at_s=owner.expires_at_s, limit_minor=owner.limit_minor, currency=owner.currency,
            n_t=self.n_t,
        )  # fmt: skip

    def commit(self, r: bytes) -> bytes:
        """com over this TID and session."""
        return commitment(tid=self.tid, pk_tid=self.sk.public.encoded, sid=self.sid, r=r)

    def proof(self, owner: Owner) -> CreditProof:
        """An honest TID-3 by who holds both keys."""
        r, n2 = nonce(self.world), nonce(self.world)
        com = self.commit(r)
        binfo = owner.bank_info(tsm=self.tsm, sid=self.sid, com=com, n2=n2)
        return CreditProof(
            binfo=binfo, tsminfo=self.sign(self.info(owner, binfo, r=r, com=com, n2=n2)),
            launch_pass=owner.launch_pass, possession=owner.shows_session(self.tsm, self.sid), maximum_minor=0,
        )  # fmt: skip

    def prove(self, proof: CreditProof) -> Wire:
        """TID-3 in this session."""
        sealed = cose.encrypt(self.key, self.world.entropy, name=CreditProof.NAME, plaintext=self.sign(proof))
        return self.world.deliver(self.tsm, "Tsm.ProveCredit", Wire(cose=sealed, session=self.sid), None)

    def ask_cards(self) -> bytes:
        """CARD-1: N_T."""
        wire = self._seal(CardRequest(n_u=nonce(self.world)))
        reply = self.world.deliver(self.tsm, "Tsm.RequestCards", wire, None)
        challenge = read(CardChallenge, decrypt(CardChallenge, self.key, reply.cose, wire.digest))
        self.card_n_u, self.card_n_t = challenge.n_u, challenge.n_t
        return challenge.n_t

    def card_key(self, number: int = 90) -> CardKey:
        """A card key of the attacker's own, with S_C for this TSM and N_T."""
        key = card_key(number)
        digest = possession_digest(tsm=self.tsm, n_t=self.card_n_t)
        possession = sign_possession(key, digest, self.world.entropy)
        return CardKey(modulus=key.public.to_bytes(), salt=nonce(self.world), possession=possession)

    def take_cards(self, keys: list[CardKey], launch_pass: bytes, possession: bytes) -> CardsIssued:
        """CARD-3 over these keys, and what CARD-4 brings."""
        root = merkle_root([card_leaf(salt=key.salt, modulus=key.modulus) for key in keys])
        message = CardKeys(
            tid=self.tid, n_u=self.card_n_u, n_t=self.card_n_t, root=root, launch_pass=launch_pass,
            possession=possession,
        )  # fmt: skip
        return self.open_cards(self.send_cards(envelope.pack([self.sign(message), *(key.to_bytes() for key in keys)])))

    def send_cards(self, plaintext: bytes) -> tuple[Wire, bytes]:
        """CARD-3 with any content, under K: CARD-4 and the request's digest."""
        sealed = cose.encrypt(self.key, self.world.entropy, name=CardKeys.NAME, plaintext=plaintext)
        wire = Wire(cose=sealed, session=card_session(self.card_n_t))
        return self.world.deliver(self.tsm, "Tsm.IssueCards", wire, None), wire.digest

    def open_cards(self, answer: tuple[Wire, bytes]) -> CardsIssued:
        """CARD-4 by who holds K and DK_TID."""
        reply, digest = answer
        inner = decrypt(CardsIssued, self.key, reply.cose, digest)
        return read(CardsIssued, unseal(CardsIssued, self.dk, inner, digest))


# --- a corrupt TSM -------------------------------------------------------------------------------------------------
@dataclass
class CorruptTsm:
    """A certified TSM whose keys are the attacker's."""

    world: World
    name: str

    @property
    def keys(self) -> Any:
        return self.world.parties[self.name].value.keys

    def _ask(self, bank: str, rpc: str, message: Message) -> tuple[Wire, Wire]:
        signed = envelope.sign(self.keys.signer, message, audience=bank, stamp=stamp(self.world))
        wire = Wire(cose=cose.seal(self.world.directory.named(bank, Use.SEAL).key, name=message.NAME, plaintext=signed))
        return wire, self.world.deliver(bank, rpc, wire, Peer(role=Role.TSM, name=self.name))

    def question(self, info: TsmInfo, binfo: bytes) -> GrantRequest:
        """TSMBINFO as an honest TSM would make it."""
        return GrantRequest(
            binfo=binfo, sid=info.sid, aid=info.aid, com=info.com, binfo_digest=sha256(binfo), n2=info.n2,
            expires_at_s=info.expires_at_s, limit_minor=info.limit_minor, currency=info.currency,
            key=new_key(self.world.entropy),
        )  # fmt: skip

    def ask(self, bank: str, question: GrantRequest) -> Promise:
        """The bank's promise on this TSMBINFO."""
        wire, reply = self._ask(bank, "Bank.ApproveGrant", question)
        approval = read(GrantApproval, decrypt(GrantApproval, question.key, reply.cose, wire.digest))
        return read(Promise, approval.promise)

    def release(self, bank: str, aid: str, sid: bytes) -> None:
        """A release in this TSM's name."""
        self._ask(bank, "Bank.ReleaseGrant", GrantRelease(aid=aid, sid=sid))

    def offer(self, request: Wire, signer: PrivateKey | None = None, **changes: Any) -> bytes:
        """TID-1b for this TID-1a, with any SID, N_T and K; signed by the TSM, or by another key."""
        asked = read(ServiceRequest, unseal(ServiceRequest, self.keys.seal, request.cose))
        message = replace(
            ServiceOffer(
                tid=asked.tid, pk_tid=asked.pk_tid, n_u=asked.n_u, sid=b"\0", n_t=nonce(self.world),
                key=new_key(self.world.entropy),
            ),
            **changes,
        )  # fmt: skip
        signed = envelope.sign(
            Signer(name=self.name, key=signer or self.keys.sign), message, audience=asked.tid,
            stamp=stamp(self.world), request_digest=request.digest,
        )  # fmt: skip
        key = PublicKey.from_bytes(asked.ek_tid)
        return cose.seal(key, name=ServiceOffer.NAME, plaintext=signed, request_digest=request.digest)


# --- parties without a defence -------------------------------------------------------------------------------------
class Hiding:
    """Rows as a step sees them that does not look into some tables."""

    def __init__(self, rows: Rows, *tables: Table[Any]) -> None:
        self._rows = rows
        self._names = {table.name for table in tables}

    def get(self, table: Table[R], *key: Value) -> R | None:
        return None if table.name in self._names else self._rows.get(table, *key)

    def find(self, table: Table[R], column: str, value: Value) -> tuple[R, ...]:
        return () if table.name in self._names else self._rows.find(table, column, value)


def unbooked(decision: Decision) -> Decision:
    """The same decision without its ledger entries, whose names keep anything from being posted twice."""
    return replace(decision, writes=tuple(write for write in decision.writes if write.table is not LEDGER))


def overwriting(decision: Decision, rows: Rows) -> Decision:
    """The same decision over tables without their UNIQUE: what is there already is replaced, and nothing is booked."""
    decision = unbooked(decision)
    writes = tuple(
        Update(write.table, write.row)
        if isinstance(write, Insert) and rows.get(write.table, *write.table.key_of(write.row)) is not None
        else write
        for write in decision.writes
    )
    return replace(decision, writes=writes)


def recast(element: SecureElement, kind: type[SecureElement]) -> SecureElement:
    """The same secure element, with another class's habits."""
    return kind(**{each.name: getattr(element, each.name) for each in fields(element)})


def taking(element: SecureElement, given: dict[str, Any]) -> SecureElement:
    """An SE whose commands have room for more: what its types do not name goes to `given`."""

    class Taking(SecureElement):
        def command(self, kind: type[M], wire: Wire, ctx: Context) -> Opened[M]:
            sign1 = envelope.peek(kind, wire.cose)
            verified = cose.verify(sign1, self.wallet_key, name=kind.NAME)
            plain = codec.decode(verified.payload, max_bytes=ANY)
            given.update({name: value for name, value in plain.items() if name not in kind.specs()})
            message = kind.parse({name: value for name, value in plain.items() if name in kind.specs()})
            return Opened(message=message, claims=verified.claims, key=self.wallet_key, wire=wire.cose)

    return recast(element, Taking)


def swap(world: World, party: str, kind: Callable[[Any], Any], value: Any = None) -> Any:
    """Install a variant of a step; `value` if the party itself is a variant too."""
    step = kind(value if value is not None else world.parties[party].value)
    world.swap_step(party, step)
    return step
