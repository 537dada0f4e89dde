"""Expiry and limit raised on their way between bank, phone and TSM (paper §2.4 AID-6, §2.5 TID-2 … TID-4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.attacker import (
    CorruptTsm,
    ForeignTid,
    Owner,
    command,
    decrypt,
    nonce,
    raw_command,
    read,
    recast,
    refused,
    request_of,
    stamp,
    swap,
    unusable,
)
from support.world import PASSCODE, SOFTWARE, Phone, World

from protocol import cose, envelope
from protocol.crypto import PrivateKey, sha256
from protocol.envelope import Signer, Wire
from protocol.errors import (
    CreditMismatch,
    DecryptionFailed,
    FieldMismatch,
    Malformed,
    SignatureInvalid,
)
from protocol.messages.account import AccountCertificate, AidCertificate
from protocol.messages.se import (
    SealedRequest,
    SeBankInfo,
    SeBeginAccount,
    SeGenerateAccountKeys,
    SeGenerateServiceKeys,
    SeInstallAccount,
    SeMakeBankInfo,
    SeSignService,
    Statement,
)
from protocol.messages.service import BankInfo, CreditProof, GrantRequest, Promise, TsmInfo
from protocol.pki import Identity
from protocol.ports import Entropy
from protocol.roles.bank.grant import ApproveGrantStep, Granting
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, LIVE_GRANTS, AnonymousAccount
from protocol.roles.se.account import InstallAccountStep
from protocol.roles.se.party import SecureElement
from protocol.roles.se.tables import ACCOUNTS
from protocol.roles.tsm.register import ProveCreditStep
from protocol.roles.tsm.tables import SERVICES, TID_LIST
from protocol.rows import Decision, Rows

RAISED = {"limit": {"limit_minor": 50_000_000}, "expiry": {"expires_at_s": 2_000_000_000}}
tampering = pytest.mark.parametrize("changes", RAISED.values(), ids=RAISED.keys())


class AnyCredit(ApproveGrantStep):
    """A bank that does not look up what it certified."""

    def check_credit(self, message: GrantRequest, account: AnonymousAccount) -> None:
        pass


class Uncompared(ProveCreditStep):
    """A TSM that does not compare the promise with what it asked."""

    def check_promise(self, promise: Promise, info: TsmInfo) -> None:
        pass


# --- by the owner --------------------------------------------------------------------------------------------------
@tampering
def test_the_wallet_has_no_words_for_it(world: World, changes: dict[str, int]) -> None:
    """Attack: the wallet tells its SE another limit or expiry. Powers: the wallet key. Formal: se (typed statements),
    core_reg. Closed by: the SE's commands have no such field; it says what CERT_AID says."""
    phone = world.ready()
    aid = world.account(phone)
    made = command(world, phone, "GenerateServiceKeys", SeGenerateServiceKeys(tsm="tsm-1"), SealedRequest)
    reply = world.deliver("tsm-1", "Tsm.OpenAccount", Wire(cose=made.cose), None)
    message = SeMakeBankInfo(tid=made.handle, aid=aid, reply=reply.cose, nonce1=nonce(world))
    with refused(world, Malformed, "MALFORMED"):
        raw_command(world, phone, "MakeBankInfo", message, SeBankInfo, **changes)
    command(world, phone, "MakeBankInfo", message, SeBankInfo)
    proof = SeSignService(tid=made.handle, statement=Statement.CREDIT_PROOF, maximum_minor=0, aid="")
    with refused(world, Malformed, "MALFORMED"):
        raw_command(world, phone, "SignService", proof, SealedRequest, **changes)


def raised(world: World, changes: dict[str, int]) -> tuple[ForeignTid, CreditProof, str]:
    """An owner with the AID's keys says more than was certified, in BINFO and TSMINFO alike."""
    phone = world.ready()
    aid = world.account(phone)
    owner = replace(Owner.of(world, phone, aid), **changes)
    session = ForeignTid.make(world).open()
    return session, session.proof(owner), aid


@tampering
def test_the_owner_cannot_raise_it(world: World, changes: dict[str, int]) -> None:
    """Attack: BINFO and TSMINFO name more than the bank certified. Powers: a customer with the AID's keys. Formal:
    core_reg (values), paper.pv A4 (limit). Closed twice: the bank compares with what it certified, and its promise
    states its own values, which the TSM compares with what it was told."""
    session, proof, _ = raised(world, changes)
    with refused(world, CreditMismatch, "CREDIT_MISMATCH", unchanged=("bank-a",)):
        session.prove(proof)
    assert world.parties["tsm-1"].store.scan(SERVICES) == ()


@tampering
def test_the_banks_promise_alone_stops_it(world: World, changes: dict[str, int]) -> None:
    """Variant of the above with a bank that does not compare: the TSM sees another value in the promise."""
    session, proof, _ = raised(world, changes)
    swap(world, "bank-a", AnyCredit)
    with unusable(world, FieldMismatch, unchanged=("bank-b",)):
        session.prove(proof)
    assert world.parties["tsm-1"].store.scan(SERVICES) == ()


@tampering
def test_without_both_the_owner_has_what_they_said(world: World, changes: dict[str, int]) -> None:
    """Variant: neither bank nor TSM compares. The TSM serves a hundredfold credit, or one that outlives the account."""
    session, proof, aid = raised(world, changes)
    swap(world, "bank-a", AnyCredit)
    swap(world, "tsm-1", Uncompared)
    session.prove(proof)
    (entry,) = world.parties["tsm-1"].store.scan(TID_LIST)
    (account,) = world.parties["bank-a"].store.scan(ANONYMOUS_ACCOUNTS)
    assert (entry.aid, entry.state) == (aid, "ACTIVE")
    more = (entry.aid_limit_minor - account.limit_minor, entry.aid_exp_time_s - account.expires_at_s)
    assert max(more) > 0


# --- by the TSM ----------------------------------------------------------------------------------------------------
class Credulous(ApproveGrantStep):
    """A bank that promises what the TSM says, as the paper's comparison leaves open."""

    def compare(self, message: GrantRequest, owner: BankInfo, tsm: str) -> None:
        said = {name: getattr(owner, name) for name in ("expires_at_s", "limit_minor")}
        super().compare(replace(message, **said), owner, tsm)

    def check_credit(self, message: GrantRequest, account: AnonymousAccount) -> None:
        pass

    def decide(self, rows: Rows, facts: Granting, now_s: int, entropy: Entropy) -> Decision:
        decision = super().decide(rows, facts, now_s, entropy)
        said = {name: getattr(facts.message, name) for name in ("expires_at_s", "limit_minor")}
        return replace(decision, reply=replace(decision.reply, **said))


def unasked(world: World) -> tuple[str, TsmInfo, bytes]:
    """An AID whose owner's proof is at a corrupt tsm-1, which has not asked the bank yet."""
    phone = world.ready()
    aid = world.account(phone)
    made = command(world, phone, "GenerateServiceKeys", SeGenerateServiceKeys(tsm="tsm-1"), SealedRequest)
    key = nonce(world)
    offer = CorruptTsm(world, "tsm-1").offer(Wire(cose=made.cose), sid=nonce(world), key=key)
    command(
        world, phone, "MakeBankInfo", SeMakeBankInfo(tid=made.handle, aid=aid, reply=offer, nonce1=nonce(world)),
        SeBankInfo,
    )  # fmt: skip
    shown = decrypt(CreditProof, key, request_of(world, phone, made.handle, Statement.CREDIT_PROOF).cose)
    proof = read(CreditProof, shown)
    return aid, read(TsmInfo, proof.tsminfo), proof.binfo


@tampering
def test_the_tsm_cannot_raise_it(world: World, changes: dict[str, int]) -> None:
    """Attack: TSMBINFO names more than the owner signed. Powers: tsm-1 with its keys. Formal: paper.pv A5 (corrupt
    TSM), core_reg. Closed by: TID-3c compares BINFO with TSMBINFO field by field, and both with what was certified
    (ADR-0009). Variant, a bank that believes the TSM: the bank's own signature promises it."""
    aid, info, binfo = unasked(world)
    thief = CorruptTsm(world, "tsm-1")
    question = thief.question(replace(info, **changes), binfo)
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        thief.ask("bank-a", question)

    swap(world, "bank-a", Credulous)
    promise = thief.ask("bank-a", question)
    assert {name: getattr(promise, name) for name in changes} == changes
    assert [grant.aid for grant in world.parties["bank-a"].store.scan(LIVE_GRANTS)] == [aid]


@tampering
def test_the_certified_values_alone_stop_the_tsm(world: World, changes: dict[str, int]) -> None:
    """Attack: as above, with an owner who plays along. Powers: tsm-1 and the AID, with their keys. Formal: core_reg.
    Closed by: the bank compares with what it certified."""
    phone = world.ready()
    owner = replace(Owner.of(world, phone, world.account(phone)), **changes)
    thief, session = CorruptTsm(world, "tsm-1"), ForeignTid.make(world).open()
    proof = session.proof(owner)
    with refused(world, CreditMismatch, "CREDIT_MISMATCH"):
        thief.ask("bank-a", thief.question(read(TsmInfo, proof.tsminfo), proof.binfo))


# --- on the network, in AID-4 --------------------------------------------------------------------------------------
class Forger:
    """The network between bank and phone in AID-4, with kx and EK_AID of this run (`formal/se WKX` shows why)."""

    def __init__(self, world: World, phone: Phone, changes: dict[str, Any], signer: PrivateKey) -> None:
        self.world = world
        self.phone = phone
        self.changes = changes
        self.signer = signer

    def forge(self, request: Wire, k: bytes) -> bytes:
        """AID-4 with another expiry or limit, under K of the attacker's."""
        (row,) = self.world.parties[self.phone.name].store.scan(ACCOUNTS)
        key = PrivateKey.from_bytes(row.dk_aid).public
        certificate = AidCertificate(
            **{
                "n_u": row.n_u, "n_b": row.n_b, "aid": "a-00", "ek_aid": key.encoded, "currency": "TWD",
                "pk_aid": PrivateKey.from_bytes(row.sk_aid).public.encoded, "expires_at_s": 1_810_000_000,
                "limit_minor": 500_000, "key_digest": sha256(k), **self.changes,
            }
        )  # fmt: skip
        signed = envelope.sign(
            Signer(name="bank-a", key=self.signer), certificate, audience=self.phone.user, stamp=stamp(self.world)
        )
        digest = request.digest
        inner = cose.seal(
            key, name=AccountCertificate.NAME, plaintext=envelope.pack([signed, k]), request_digest=digest
        )
        return cose.encrypt(
            row.kx, self.world.entropy, name=AccountCertificate.NAME, plaintext=inner, request_digest=digest
        )


def until_certificate(world: World, phone: Phone) -> tuple[str, Wire, Wire]:
    """AID-1 … AID-4, up to the bank's reply: the account's handle, the request and its true reply."""
    made = command(world, phone, "BeginAccount", SeBeginAccount(bank="bank-a"), SealedRequest)
    reply = world.deliver("bank-a", "Bank.RequestAccount", Wire(cose=made.cose), None)
    keys = SeGenerateAccountKeys(
        account=made.handle, reply=reply.cose, software=SOFTWARE, passcode=PASSCODE, n_am=nonce(world)
    )
    asked = command(world, phone, "GenerateAccountKeys", keys, SealedRequest)
    request = Wire(cose=asked.cose, session=asked.session)
    return made.handle, request, world.deliver("bank-a", "Bank.CertifyAccount", request, None)


def test_the_certificate_is_sealed(world: World) -> None:
    """Attack: the limit is altered on its way to the phone, as the paper's AID-6 allows. Powers: network. Formal:
    paper.pv A2 (limit forgeable), core_aid. Closed by: CERT_AID with its limit travels under kx and to the SE."""
    phone = world.ready()
    account, _, reply = until_certificate(world, phone)
    altered = reply.cose[:-1] + bytes([reply.cose[-1] ^ 1])
    with refused(world, DecryptionFailed, "DECRYPTION_FAILED"):
        command(
            world, phone, "InstallAccount", SeInstallAccount(account=account, reply=altered, tsm="tsm-1"),
            SealedRequest,
        )  # fmt: skip


@tampering
def test_the_certificate_is_signed(world: World, changes: dict[str, int]) -> None:
    """Attack: a certificate made up, with a limit and a K of the attacker's choice. Powers: network, and kx and EK_AID
    of this run. Formal: paper.pv A2, core_aid (user got ⇒ bank bound), se_WKX. Closed by: S_B over CERT_AID.
    Variant, an SE that believes any signer: the phone holds an account that the bank never opened, with K known to
    the attacker."""
    phone = world.ready()
    account, request, _ = until_certificate(world, phone)
    forger, k = Forger(world, phone, changes, world.key()), nonce(world)
    message = SeInstallAccount(account=account, reply=forger.forge(request, k), tsm="tsm-1")
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        command(world, phone, "InstallAccount", message, SealedRequest)

    class Gullible(SecureElement):
        def bank(self, name: str) -> Identity:
            return replace(super().bank(name), key=forger.signer.public)

    swap(world, phone.name, InstallAccountStep, recast(world.parties[phone.name].value, Gullible))
    command(world, phone, "InstallAccount", message, SealedRequest)
    (row,) = world.parties[phone.name].store.scan(ACCOUNTS)
    assert {name: getattr(row, name) for name in changes} == changes
    assert row.k_aid == k
