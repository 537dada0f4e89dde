"""The wallet toward the TSM (TID, CARD), the TSM that the suite plays toward the bank, and a merchant's terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance.bundle import Bundle, Played, Tested
from conformance.calls import Connection
from conformance.drafts import Draft, Post, checked, keyed_reply, sealed_reply, signed_reply
from conformance.emv import CardKey
from conformance.phone import Account
from conformance.wire import (
    OBJECT_LIFE_S,
    Key,
    Signed,
    Signer,
    decrypt,
    encode,
    encrypt,
    hash_of,
    pack,
    seal,
    sha256,
    sign,
    unseal,
    verify,
)


def commitment(tid: str, pk_tid: bytes, sid: bytes, r: bytes) -> bytes:
    """com = H(com-input)."""
    return hash_of(["tapveil-com", tid, pk_tid, sid, r])


def card_session(n_t: bytes) -> bytes:
    """`session` of IssueCards and ActivateCards."""
    return hash_of(["tapveil-card-session", n_t])[:16]


def merkle_root(keys: Sequence[CardKey]) -> bytes:
    """`root` of card-keys."""
    level = [sha256(b"\0", encode([key.salt, key.public])) for key in keys]
    while len(level) > 1:
        above = [sha256(b"\1", *level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
        level = above + (level[-1:] if len(level) % 2 else [])
    return level[0]


@dataclass(frozen=True)
class Offer:
    """TID-1b, opened."""

    sid: bytes
    n_t: bytes
    key: bytes


@dataclass(frozen=True)
class Binding:
    """What TID-2 commits to: r, com, N2 and BINFO."""

    r: bytes
    com: bytes
    n2: bytes
    binfo: bytes


@dataclass
class Wallet:
    """One TID: its keys in the SE, and the anonymous channel to the TSM."""

    tsm: Tested
    connection: Post
    tid: str = field(default_factory=lambda: f"t-{os.urandom(16).hex()}")
    sk_tid: Key = field(default_factory=Key.new)
    dk_tid: Key = field(default_factory=Key.new)
    n_u: bytes = field(default_factory=lambda: os.urandom(32))

    @property
    def signer(self) -> Signer:
        return Signer(self.tid, self.sk_tid)

    # --- TID ---------------------------------------------------------------------------------------------------------
    def open_account(self) -> Draft[Signed]:
        """TID-1a."""
        return Draft(
            rpc="Tsm.OpenAccount", to=self.connection, audience=self.tsm.name, signer=self.signer,
            name="service-request",
            payload={"tid": self.tid, "pk_tid": self.sk_tid.point, "ek_tid": self.dk_tid.point, "n_u": self.n_u},
            wrap=lambda signed: seal(self.tsm.seal, "service-request", signed),
            open=sealed_reply(self.tsm, "service-offer", self.tid, self.dk_tid),
        )  # fmt: skip

    def offer(self) -> Offer:
        """TID-1."""
        reply = self.open_account().send()
        return Offer(reply["sid"], reply["n_t"], reply["key"])

    def bind(self, account: Account, offer: Offer, **changes: Any) -> Binding:
        """TID-2a, TID-2b."""
        r, n2 = os.urandom(32), os.urandom(32)
        com = commitment(self.tid, self.sk_tid.point, offer.sid, r)
        return Binding(r, com, n2, account.bank_info(tsm=self.tsm.name, sid=offer.sid, com=com, n2=n2, **changes))

    def tsm_info(self, account: Account, offer: Offer, binding: Binding, **changes: Any) -> bytes:
        """TID-2c: TSMINFO."""
        fields = {
            "bank": account.bank, "sid": offer.sid, "tid": self.tid, "aid": account.aid, "r": binding.r,
            "com": binding.com, "binfo_digest": sha256(binding.binfo), "n2": binding.n2,
            "expires_at_s": account.expires_at_s, "limit_minor": account.limit_minor, "currency": account.currency,
            "n_t": offer.n_t, **changes.pop("fields", {}),
        }  # fmt: skip
        arguments = {"audience": self.tsm.name, **changes}
        return sign(arguments.pop("signer", self.signer), "tsm-info", fields, **arguments)

    def shown(self, account: Account, offer: Offer, **changes: Any) -> bytes:
        """S_AID(SID, H(pass))."""
        fields = {"sid": offer.sid, "pass_digest": sha256(account.launch_pass), **changes.pop("fields", {})}
        arguments = {"audience": self.tsm.name, **changes}
        signer, name = arguments.pop("signer", account.signer), arguments.pop("name", "possession-session")
        return sign(signer, name, fields, **arguments)

    def prove(
        self, account: Account, offer: Offer, *, binding: Binding | None = None, maximum_minor: int = 0,
        key: bytes | None = None, session: bytes | None = None, **fields: Any,
    ) -> Draft[Signed]:  # fmt: skip
        """TID-2d."""
        bound = binding or self.bind(account, offer)
        payload = {
            "binfo": bound.binfo, "tsminfo": self.tsm_info(account, offer, bound),
            "launch_pass": account.launch_pass, "possession": self.shown(account, offer),
            "maximum_minor": maximum_minor, **fields,
        }  # fmt: skip
        return Draft(
            rpc="Tsm.ProveCredit", to=self.connection, audience=self.tsm.name, signer=self.signer,
            name="credit-proof", payload=payload, session=offer.sid if session is None else session,
            wrap=lambda signed: encrypt(key or offer.key, "credit-proof", signed),
            open=keyed_reply(self.tsm, "service-account", self.tid, offer.key),
        )  # fmt: skip

    def certificate(self, data: bytes) -> Signed:
        """CERT_TID, verified."""
        found = verify(
            data, self.tsm.sign, "tid-certificate", issuer=self.tsm.name, audience=self.tid, life_s=OBJECT_LIFE_S
        )
        return checked(found, "tid-certificate")

    def close(self, offer: Offer, **fields: Any) -> Draft[Signed]:
        """Give the grant back."""
        return Draft(
            rpc="Tsm.CloseAccount", to=self.connection, audience=self.tsm.name, signer=self.signer,
            name="close-account", payload={"tid": self.tid, "sid": offer.sid, **fields}, session=sha256(offer.sid),
            wrap=lambda signed: encrypt(offer.key, "close-account", signed),
            open=keyed_reply(self.tsm, "account-closed", self.tid, offer.key),
        )  # fmt: skip

    # --- CARD --------------------------------------------------------------------------------------------------------
    def request_cards(self, offer: Offer, n_u: bytes) -> Draft[Signed]:
        """CARD-1."""
        return Draft(
            rpc="Tsm.RequestCards", to=self.connection, audience=self.tsm.name, signer=self.signer,
            name="card-request", payload={"n_u": n_u},
            wrap=lambda signed: seal(self.tsm.seal, "card-request", signed),
            open=keyed_reply(self.tsm, "card-challenge", self.tid, offer.key),
        )  # fmt: skip

    def shown_for_cards(self, account: Account, n_t: bytes, **changes: Any) -> bytes:
        """S_AID(N_T, H(pass))."""
        fields = {"n_t": n_t, "pass_digest": sha256(account.launch_pass), **changes.pop("fields", {})}
        arguments = {"audience": self.tsm.name, **changes}
        signer, name = arguments.pop("signer", account.signer), arguments.pop("name", "possession-cards")
        return sign(signer, name, fields, **arguments)

    def held(self, key: CardKey, n_t: bytes) -> dict[str, bytes]:
        """One card-key part."""
        digest = hash_of(["tapveil-card-possession", self.tsm.name, n_t])
        return {"modulus": key.public, "salt": key.salt, "possession": key.possession(digest)}

    def card_keys(
        self, account: Account, offer: Offer, n_u: bytes, n_t: bytes, keys: Sequence[CardKey], *,
        parts: list[Any] | None = None, session: bytes | None = None, **fields: Any,
    ) -> Draft[Signed]:  # fmt: skip
        """CARD-3. `parts` are what is sent beside the signature, when it is not what `keys` give."""
        held = [self.held(key, n_t) for key in keys] if parts is None else parts
        encoded = [part if isinstance(part, bytes) else encode(part) for part in held]
        payload = {
            "tid": self.tid, "n_u": n_u, "n_t": n_t, "root": merkle_root(keys), "launch_pass": account.launch_pass,
            "possession": self.shown_for_cards(account, n_t), **fields,
        }  # fmt: skip
        return Draft(
            rpc="Tsm.IssueCards", to=self.connection, audience=self.tsm.name, signer=self.signer, name="card-keys",
            payload=payload, session=card_session(n_t) if session is None else session,
            wrap=lambda signed: encrypt(offer.key, "card-keys", pack(signed, *encoded)),
            open=lambda cose, digest: self._issued(offer, cose, digest),
        )  # fmt: skip

    def _issued(self, offer: Offer, cose: bytes, digest: bytes) -> Signed:
        """CARD-4: opened inside the SE."""
        signed = unseal(self.dk_tid, decrypt(offer.key, cose, "cards-issued", digest), "cards-issued", digest)
        return signed_reply(self.tsm, "cards-issued", self.tid)(signed, digest)

    def activate_cards(
        self, offer: Offer, n_t: bytes, pans: list[str], *, session: bytes | None = None, **fields: Any
    ) -> Draft[Signed]:
        """CARD-5."""
        return Draft(
            rpc="Tsm.ActivateCards", to=self.connection, audience=self.tsm.name, signer=self.signer,
            name="card-activation", payload={"pans": pans, "n_t": n_t, **fields},
            session=card_session(n_t) if session is None else session,
            wrap=lambda signed: encrypt(offer.key, "card-activation", signed),
            open=keyed_reply(self.tsm, "cards-active", self.tid, offer.key),
        )  # fmt: skip


class PlayedTsm:
    """The suite as a TSM, toward the bank under test (TID-3b)."""

    def __init__(self, bundle: Bundle) -> None:
        self.party = bundle.played_tsm
        self.bank = bundle.bank
        self.connection = Connection(bundle.bank.mutual_address, bundle.bank.name, self.party.tls)

    @property
    def name(self) -> str:
        return self.party.name

    def ask(
        self, account: Account, *, sid: bytes | None = None, binfo: bytes | None = None,
        connection: Connection | None = None, info: dict[str, Any] | None = None, **fields: Any,
    ) -> Draft[Signed]:  # fmt: skip
        """TSMBINFO. `info` are the changes of BINFO, `fields` those of TSMBINFO."""
        sid = os.urandom(48) if sid is None else sid
        com, n2, key = os.urandom(32), os.urandom(32), os.urandom(32)
        if binfo is None:
            binfo = account.bank_info(tsm=self.name, sid=sid, com=com, n2=n2, **(info or {}))
        payload = {
            "binfo": binfo, "sid": sid, "aid": account.aid, "com": com, "binfo_digest": sha256(binfo), "n2": n2,
            "expires_at_s": account.expires_at_s, "limit_minor": account.limit_minor, "currency": account.currency,
            "key": key, **fields,
        }  # fmt: skip
        return Draft(
            rpc="Bank.ApproveGrant", to=connection or self.connection, audience=self.bank.name,
            signer=self.party.signer, name="grant-request", payload=payload,
            wrap=lambda signed: seal(self.bank.seal, "grant-request", signed),
            open=keyed_reply(self.bank, "grant-approval", self.name, key),
        )  # fmt: skip

    def promise(self, data: bytes) -> Signed:
        """The bank's promise, verified."""
        found = verify(data, self.bank.sign, "promise", issuer=self.bank.name, audience=self.name, life_s=OBJECT_LIFE_S)
        return checked(found, "promise")

    def release(self, aid: str, sid: bytes, *, connection: Connection | None = None) -> Draft[Signed]:
        """Give a grant back."""
        return Draft(
            rpc="Bank.ReleaseGrant", to=connection or self.connection, audience=self.bank.name,
            signer=self.party.signer, name="grant-release", payload={"aid": aid, "sid": sid},
            wrap=lambda signed: seal(self.bank.seal, "grant-release", signed),
            open=sealed_reply(self.bank, "grant-released", self.name, self.party.seal),
        )  # fmt: skip

    def claim(self, payload: dict[str, Any], *, connection: Connection | None = None) -> Draft[Signed]:
        """SETTLE: what the bank owes under a grant."""
        return Draft(
            rpc="Bank.SubmitClaim", to=connection or self.connection, audience=self.bank.name,
            signer=self.party.signer, name="claim", payload=payload,
            wrap=lambda signed: seal(self.bank.seal, "claim", signed),
            open=sealed_reply(self.bank, "claim-accepted", self.name, self.party.seal),
        )  # fmt: skip

    def close(self, aid: str, sid: bytes, currency: str) -> Signed:
        """The claim of nothing that closes a grant, as its first one."""
        said = {
            "aid": aid, "sid_digest": sha256(sid), "sequence": 1, "claimed_minor": 0, "credited_minor": 0,
            "currency": currency, "root": os.urandom(32), "closing": True,
        }  # fmt: skip
        return self.claim(said).send()

    def trace(self, payload: dict[str, Any], *, connection: Connection | None = None) -> Draft[Signed]:
        """TRACE: who made this purchase?"""
        return Draft(
            rpc="Bank.RequestTrace", to=connection or self.connection, audience=self.bank.name,
            signer=self.party.signer, name="trace-request", payload=payload,
            wrap=lambda signed: seal(self.bank.seal, "trace-request", signed),
            open=sealed_reply(self.bank, "trace-state", self.name, self.party.seal),
        )  # fmt: skip

    def list_stops(self, *, connection: Connection | None = None) -> Draft[Signed]:
        """What is stopped of what was granted to this TSM?"""
        return Draft(
            rpc="Bank.ListStops", to=connection or self.connection, audience=self.bank.name,
            signer=self.party.signer, name="list-stops", payload={},
            open=sealed_reply(self.bank, "stop-list", self.name, self.party.seal),
        )  # fmt: skip


def sign_on(tsm: Tested, merchant: Played, connection: Post, **fields: Any) -> Draft[Signed]:
    """A terminal signs on with a key of its own."""
    payload = {
        "merchant_name": "Conformance", "merchant_identifier": "CONFORMANCE0001",
        "terminal": os.urandom(4).hex().upper(), "terminal_key": Key.new().point, **fields,
    }  # fmt: skip
    return Draft(
        rpc="Tsm.SignOn", to=connection, audience=tsm.name, signer=merchant.signer, name="sign-on", payload=payload,
        open=signed_reply(tsm, "signed-on", merchant.name),
    )  # fmt: skip
