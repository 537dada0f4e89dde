"""The phone toward its bank: SE, MTM and wallet in one, as far as the bank can see (INIT, ATT, AID)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from conformance.bundle import Bundle, Measured, Person, PhoneKeys
from conformance.calls import Connection
from conformance.drafts import Draft, checked, keyed_reply, sealed_reply, signed_reply
from conformance.tpm import Forgery, listing, qualifying, quote, replay
from conformance.wire import (
    OBJECT_LIFE_S,
    Key,
    Signed,
    Signer,
    decode,
    decrypt,
    encrypt,
    need,
    pack,
    seal,
    sha256,
    sign,
    unseal,
    verify,
)

JUDGE = {"install": "Bank.ApproveInstall", "report": "Bank.ReportInstall", "launch": "Bank.VerifyLaunch"}
RUNS = ("report", "launch", "account")
"""Purposes whose quote covers the application too."""


@dataclass(frozen=True)
class Opening:
    """AID-1 and AID-2 are done; PK_AID and EK_AID are made."""

    n_u: bytes
    n_b: bytes
    kx: bytes
    session: bytes
    sk_aid: Key = field(default_factory=Key.new)
    dk_aid: Key = field(default_factory=Key.new)


@dataclass(frozen=True)
class Certified:
    """AID-6, opened: CERT_AID and K."""

    certificate: Signed
    key: bytes


@dataclass(frozen=True)
class Account:
    """An anonymous account as the SE keeps it."""

    bank: str
    aid: str
    sk_aid: Key
    key: bytes
    expires_at_s: int
    limit_minor: int
    currency: str
    launch_pass: bytes = b""

    @property
    def signer(self) -> Signer:
        return Signer(self.aid, self.sk_aid)

    def bank_info(self, *, tsm: str, sid: bytes, com: bytes, n2: bytes, **changes: Any) -> bytes:
        """TID-2b: BINFO."""
        fields = {
            "tsm": tsm, "sid": sid, "aid": self.aid, "com": com, "expires_at_s": self.expires_at_s,
            "limit_minor": self.limit_minor, "currency": self.currency, "n2": n2,
        }  # fmt: skip
        fields.update(changes.pop("fields", {}))
        key, signer = changes.pop("key", self.key), changes.pop("signer", self.signer)
        arguments = {"audience": self.bank, **changes}
        return encrypt(key, "bank-info", sign(signer, "bank-info", fields, **arguments))


class Phone:
    """One phone with its person. Methods return drafts; the caller keeps what the replies bring."""

    def __init__(self, bundle: Bundle, keys: PhoneKeys, person: Person) -> None:
        self.keys = keys
        self.person = person
        self.bank = bundle.bank
        self.software = bundle.software
        self.platform = bundle.platform
        self.application = Measured(f"app/{bundle.software}", bundle.software_digest)
        self.connection = Connection(bundle.bank.mutual_address, bundle.bank.name, keys.tls)
        self.sk_u = Key.new()
        self.dk_u = Key.new()
        self.user = ""
        self.sessions = 0

    @property
    def name(self) -> str:
        return self.keys.name

    @property
    def by_user(self) -> Signer:
        return Signer(self.user, self.sk_u)

    @property
    def by_se(self) -> Signer:
        return Signer(self.name, self.keys.se)

    # --- evidence ----------------------------------------------------------------------------------------------------
    def measured(self, purpose: str) -> list[Measured]:
        """What the engine measures from its boot on."""
        return [*self.platform, self.application] if purpose in RUNS else self.platform

    def evidence(
        self, purpose: str, n_b: bytes, *, requested_key: bytes = b"", software: str | None = None,
        entries: list[Measured] | None = None, shown: bytes | None = None, forged: Forgery | None = None,
        attestation: Key | None = None, quoted: dict[str, Any] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """ATT-D2 to D6, ATT-L2 to L6. `entries` were measured, `shown` is sent, `quoted` are changes of quote-input."""
        named = ("" if purpose == "enroll" else self.software) if software is None else software
        user = self.name if purpose == "enroll" else self.user
        n_am = os.urandom(32)
        facts = {
            "purpose": purpose, "bank": self.bank.name, "user": user, "software": named, "n_am": n_am, "n_b": n_b,
            "requested_key": requested_key, **(quoted or {}),
        }  # fmt: skip
        events = self.measured(purpose) if entries is None else entries
        return {
            "software": named,
            "measurement_list": listing(events) if shown is None else shown,
            "quote": quote(attestation or self.keys.attestation, qualifying(**facts), replay(events), forged),
            "n_am": n_am,
        }

    # --- INIT --------------------------------------------------------------------------------------------------------
    def challenge(self, purpose: str) -> Draft[Signed]:
        """ATT-D1, ATT-L1: ask for N_B."""
        return Draft(
            rpc="Bank.Challenge", to=self.connection, audience=self.bank.name,
            signer=Signer(self.name, self.keys.wallet), name="challenge-request", payload={"purpose": purpose},
            open=signed_reply(self.bank, "challenge", self.name),
        )  # fmt: skip

    def nonce(self, purpose: str) -> bytes:
        """N_B for this purpose."""
        n_b: bytes = self.challenge(purpose).send()["n_b"]
        return n_b

    def statement(self, *, signer: Signer | None = None, fields: dict[str, Any] | None = None, **changes: Any) -> bytes:
        """S_SE(PK_U, EK_U, attestation key and certificate, wallet key)."""
        payload = {
            "pk_u": self.sk_u.point, "ek_u": self.dk_u.point, "attestation_key": self.keys.attestation.point,
            "attestation_certificate": self.keys.attestation_certificate, "wallet_key": self.keys.wallet.point,
            **(fields or {}),
        }  # fmt: skip
        arguments = {"audience": self.bank.name, **changes}
        return sign(signer or self.by_se, "secure-element-statement", payload, **arguments)

    def enroll(self, **fields: Any) -> Draft[Signed]:
        """INIT-3."""
        n_b = fields.pop("n_b", None) or self.nonce("enroll")
        payload = {
            "branch_code": self.person.branch_code, "pk_u": self.sk_u.point, "se_statement": self.statement(),
            "evidence": self.evidence("enroll", n_b), "n_b": n_b, **fields,
        }  # fmt: skip
        return Draft(
            rpc="Bank.Enroll", to=self.connection, audience=self.bank.name, signer=Signer(self.name, self.sk_u),
            name="enroll", payload=payload, open=signed_reply(self.bank, "enrolled", self.name),
        )  # fmt: skip

    # --- ATT ---------------------------------------------------------------------------------------------------------
    def attest(
        self, purpose: str, *, n_b: bytes | None = None, evidence: dict[str, Any] | None = None, **how: Any
    ) -> Draft[Signed]:
        """ATT-D6, ATT-D7, ATT-L6."""
        asked = n_b or self.nonce(purpose)
        payload = {
            "purpose": purpose, "evidence": evidence or self.evidence(purpose, asked, **how), "n_b": asked,
        }  # fmt: skip
        return Draft(
            rpc=JUDGE[purpose], to=self.connection, audience=self.bank.name, signer=self.by_user,
            name="attestation-evidence", payload=payload,
            wrap=lambda signed: seal(self.bank.seal, "attestation-evidence", signed),
            open=sealed_reply(self.bank, "attestation-decision", self.user, self.dk_u),
        )  # fmt: skip

    def install(self) -> None:
        """ATT-D1 to ATT-D7."""
        for purpose in ("install", "report"):
            need(self.attest(purpose).send()["allowed"], f"{purpose} is not allowed")

    def passes(self) -> dict[str, bytes]:
        """ATT-L1 to ATT-L6: the launch passes, by AID."""
        decision = self.attest("launch").send()
        need(decision["allowed"], "launch is not allowed")
        return {item["aid"]: item["launch_pass"] for item in decision["passes"]}

    # --- AID ---------------------------------------------------------------------------------------------------------
    def request_account(self, n_u: bytes, kx: bytes) -> Draft[Signed]:
        """AID-1."""
        return Draft(
            rpc="Bank.RequestAccount", to=self.connection, audience=self.bank.name, signer=self.by_user,
            name="account-request", payload={"n_u": n_u, "kx": kx},
            wrap=lambda signed: seal(self.bank.seal, "account-request", signed),
            open=keyed_reply(self.bank, "account-challenge", self.user, kx),
        )  # fmt: skip

    def opening(self) -> Opening:
        """AID-1 and AID-2."""
        self.sessions += 1
        n_u, kx = os.urandom(32), os.urandom(32)
        reply = self.request_account(n_u, kx).send()
        need(reply["n_u"] == n_u, "AID-2 is of another session")
        return Opening(n_u=n_u, n_b=reply["n_b"], kx=kx, session=reply["session"])

    def endorsed(self, opening: Opening, *, signer: Signer | None = None, **fields: Any) -> bytes:
        """AID-4: S_SE(N_B, PK_AID, EK_AID)."""
        payload = {"n_b": opening.n_b, "pk_aid": opening.sk_aid.point, "ek_aid": opening.dk_aid.point, **fields}
        return sign(signer or self.by_se, "account-keys-se", payload, audience=self.bank.name)

    def self_signed(self, opening: Opening, *, signer: Signer | None = None, **fields: Any) -> bytes:
        """AID-4: S_AID(N_U, N_B, EK_AID)."""
        payload = {"n_u": opening.n_u, "n_b": opening.n_b, "ek_aid": opening.dk_aid.point, **fields}
        by_aid = Signer(opening.sk_aid.kid.hex(), opening.sk_aid)
        return sign(signer or by_aid, "account-keys-aid", payload, audience=self.bank.name)

    def certify(
        self, opening: Opening, *, endorsed: bytes | None = None, self_signed: bytes | None = None,
        passcode: str | None = None, kx: bytes | None = None, session: bytes | None = None, **fields: Any,
    ) -> Draft[Certified]:  # fmt: skip
        """AID-5."""
        proof = (self.person.passcode if passcode is None else passcode).encode()
        payload = {
            "n_u": opening.n_u, "n_b": opening.n_b, "pk_aid": opening.sk_aid.point, "ek_aid": opening.dk_aid.point,
            "auth": [{"factor": "passcode", "proof": proof}], **fields,
        }  # fmt: skip
        if "evidence" not in payload:
            payload["evidence"] = self.evidence("account", opening.n_b, requested_key=opening.sk_aid.point)
        others = (endorsed or self.endorsed(opening), self_signed or self.self_signed(opening))
        return Draft(
            rpc="Bank.CertifyAccount", to=self.connection, audience=self.bank.name, signer=self.by_user,
            name="account-keys", payload=payload, session=session or opening.session,
            wrap=lambda signed: encrypt(kx or opening.kx, "account-keys", pack(signed, *others)),
            open=lambda cose, digest: self._certified(opening, cose, digest),
        )  # fmt: skip

    def _certified(self, opening: Opening, cose: bytes, digest: bytes) -> Certified:
        """AID-6, AID-7: only the SE can open it."""
        name = "account-certificate"
        parts = decode(unseal(opening.dk_aid, decrypt(opening.kx, cose, name, digest), name, digest))
        need(isinstance(parts, list) and len(parts) == 2 and len(parts[1]) == 32, "not a certificate and a key")
        certificate = checked(
            verify(
                parts[0], self.bank.sign, "aid-certificate", issuer=self.bank.name, audience=self.user,
                life_s=OBJECT_LIFE_S,
            ),
            "aid-certificate",
        )  # fmt: skip
        return Certified(certificate, parts[1])

    def activate(self, opening: Opening, certified: Certified, tsm: str, **fields: Any) -> Draft[Signed]:
        """AID-8 is told to the bank."""
        aid = certified.certificate["aid"]
        return Draft(
            rpc="Bank.ActivateAccount", to=self.connection, audience=self.bank.name,
            signer=Signer(aid, opening.sk_aid), name="account-activation",
            payload={"aid": aid, "n_b": opening.n_b, "tsm": tsm, **fields}, session=opening.session,
            wrap=lambda signed: encrypt(certified.key, "account-activation", signed),
            open=keyed_reply(self.bank, "account-active", aid, certified.key),
        )  # fmt: skip

    def account(self, tsm: str) -> Account:
        """AID-1 to AID-8."""
        opening = self.opening()
        certified = self.certify(opening).send()
        active = self.activate(opening, certified, tsm).send()
        return account_of(self, opening, certified, active["launch_pass"])


def account_of(phone: Phone, opening: Opening, certified: Certified, launch_pass: bytes) -> Account:
    """What the SE keeps after AID-8, once it has compared the certificate with what it asked for."""
    told = certified.certificate
    need((told["n_u"], told["n_b"]) == (opening.n_u, opening.n_b), "CERT_AID is of another session")
    need((told["pk_aid"], told["ek_aid"]) == (opening.sk_aid.point, opening.dk_aid.point), "CERT_AID is of other keys")
    need(told["key_digest"] == sha256(certified.key), "CERT_AID is of another K")
    return Account(
        bank=phone.bank.name, aid=told["aid"], sk_aid=opening.sk_aid, key=certified.key,
        expires_at_s=told["expires_at_s"], limit_minor=told["limit_minor"], currency=told["currency"],
        launch_pass=launch_pass,
    )  # fmt: skip
