"""The anonymous account: its key stays secret, and the bank activates only what the SE holds (paper §2.4)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.attacker import command, decrypt, nonce, read, refused, stamp, swap
from support.world import PASSCODE, SOFTWARE, Phone, World

from protocol import cose, envelope
from protocol.crypto import PrivateKey
from protocol.engine import Context
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import (
    DecryptionFailed,
    FieldMismatch,
    ProtocolError,
    SignatureInvalid,
    Unavailable,
    UnknownKey,
)
from protocol.messages.account import (
    AccountActivation,
    AccountActive,
    AccountCertificate,
    AccountKeys,
    AccountKeysByAid,
    AccountRequest,
)
from protocol.messages.se import SealedRequest, SeBeginAccount, SeGenerateAccountKeys
from protocol.ports import Entropy
from protocol.roles.bank.account import CertifyAccountStep, Certifying
from protocol.roles.bank.tables import ACCOUNT_SESSIONS, ANONYMOUS_ACCOUNTS, CUSTOMERS
from protocol.roles.se.tables import ACCOUNTS, OWNERS
from protocol.roles.tsm.passes import PassCheck
from protocol.rows import Decision, Insert, Rows


# --- AID-2 ---------------------------------------------------------------------------------------------------------
class KeyBeside(CertifyAccountStep):
    """A bank that establishes K_AID,B as the paper's AID-2 prints it: beside what is sealed, in clear."""

    def seal(self, facts: Certifying, reply: AccountCertificate, stamp: Stamp, ctx: Context) -> Wire:
        return replace(super().seal(facts, reply, stamp, ctx), session=reply.key)


def eavesdrop(world: World) -> bytes | None:
    """The network tries every 32 bytes that went between bank and phone as the K under AID-5's reply."""
    went = [(rpc, wire, reply) for peer, rpc, wire, reply in world.calls if peer == "bank-a"]
    ((request, answer),) = ((wire, reply) for rpc, wire, reply in went if rpc == "Bank.ActivateAccount")
    assert isinstance(answer, Wire)
    seen = [part for _, wire, reply in went for each in (wire, reply) if isinstance(each, Wire)
            for part in (each.cose, each.session)]  # fmt: skip
    for part in seen:
        for start in range(len(part) - 31):
            try:
                return decrypt(AccountActive, part[start : start + 32], answer.cose, request.digest)
            except ProtocolError:
                continue
    return None


def test_the_accounts_key_does_not_cross_in_clear(world: World) -> None:
    """Attack: the network reads K_AID,B, which the paper's AID-2 carries without protection stated. Powers: network.
    Formal: paper.pv S1 with LIT24, core_aid. Closed by: kx in AID-1, and K sealed to the SE's EK_AID (ADR-0008).
    Variant, a bank that shows K: the network reads AID and launch pass of the phone it watches, so that it knows whose
    AID it is when a TSM names it."""
    phone = world.ready()
    world.account(phone)
    assert eavesdrop(world) is None
    (account,) = world.parties["bank-a"].store.scan(ANONYMOUS_ACCOUNTS)
    assert not any(account.k_aid in reply.cose for *_, reply in world.calls if isinstance(reply, Wire))

    world.calls.clear()
    swap(world, "bank-a", KeyBeside)
    aid = world.account(phone)
    opened = eavesdrop(world)
    assert opened is not None
    active = read(AccountActive, opened)
    (account,) = (row for row in world.parties["bank-a"].store.scan(ANONYMOUS_ACCOUNTS) if row.aid == aid)
    assert (active.aid, account.customer) == (aid, phone.user)
    tsm, bank = world.parties["tsm-1"].value, world.directory.identities
    issuer = next(each for each in bank if each.name == "bank-a")
    assert PassCheck(tsm).open_pass(active.launch_pass, issuer, aid, world.clock.now_s()).message.aid == aid


# --- who asks ------------------------------------------------------------------------------------------------------
def test_an_account_is_asked_for_by_its_user(world: World) -> None:
    """Attack: somebody asks for an account in a customer's name. Powers: network, ID_U known. Formal: paper.pv A1b,
    core_aid. Closed by: S_U over AID-1, under the key that was enrolled."""
    phone = world.ready()
    thief = Signer(name=phone.user, key=world.key())
    message = AccountRequest(n_u=nonce(world), kx=nonce(world))
    signed = envelope.sign(thief, message, audience="bank-a", stamp=stamp(world))
    key = world.parties["bank-a"].value.keys.seal.public
    with refused(world, UnknownKey, "UNKNOWN_KEY"):
        sealed = cose.seal(key, name=AccountRequest.NAME, plaintext=signed)
        world.deliver("bank-a", "Bank.RequestAccount", Wire(cose=sealed), None)
    (row,) = world.parties[phone.name].store.scan(OWNERS)
    genuine = PrivateKey.from_bytes(row.sk_u).public.thumbprint
    posing = signed.replace(thief.key.public.thumbprint, genuine)
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        sealed = cose.seal(key, name=AccountRequest.NAME, plaintext=posing)
        world.deliver("bank-a", "Bank.RequestAccount", Wire(cose=sealed), None)


class NoSelfSignature(CertifyAccountStep):
    """A bank that does not ask for S_AID."""

    def check_self_signature(self, message: AccountKeys, by_aid: bytes, now_s: int) -> None:
        pass


def test_the_accounts_key_answers_for_itself(world: World) -> None:
    """Attack: AID-3 brings, for PK_AID, a self-signature of another session. Powers: kx and SK_U leaked. Formal:
    core_aid (A3p in the session). Closed by: S_AID(N_U, N_B, EK_AID); the paper's self-signature names no session.
    Variant: a key is certified whose holder was not there."""
    phone = world.ready()
    wires = []
    for _ in range(2):
        made = command(world, phone, "BeginAccount", SeBeginAccount(bank="bank-a"), SealedRequest)
        reply = world.deliver("bank-a", "Bank.RequestAccount", Wire(cose=made.cose), None)
        keys = SeGenerateAccountKeys(
            account=made.handle, reply=reply.cose, software=SOFTWARE, passcode=PASSCODE, n_am=nonce(world)
        )
        wires.append((made.handle, command(world, phone, "GenerateAccountKeys", keys, SealedRequest)))
    rows = {row.account: row for row in world.parties[phone.name].store.scan(ACCOUNTS)}
    opened = [
        envelope.unpack(decrypt(AccountKeys, rows[account].kx, made.cose), low=3, high=3, max_bytes=1 << 20)
        for account, made in wires
    ]
    account, made = wires[0]
    mixed = envelope.pack([opened[0][0], opened[0][1], opened[1][2]])
    wire = Wire(
        cose=cose.encrypt(rows[account].kx, world.entropy, name=AccountKeys.NAME, plaintext=mixed),
        session=made.session,
    )
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        world.deliver("bank-a", "Bank.CertifyAccount", wire, None)
    old = AccountKeysByAid(n_u=nonce(world), n_b=nonce(world), ek_aid=read(AccountKeysByAid, opened[0][2]).ek_aid)
    sk = PrivateKey.from_bytes(rows[account].sk_aid)
    earlier = envelope.sign(Signer(name=sk.public.thumbprint.hex(), key=sk), old, audience="bank-a", stamp=stamp(world))
    mixed = envelope.pack([opened[0][0], opened[0][1], earlier])
    wire = replace(wire, cose=cose.encrypt(rows[account].kx, world.entropy, name=AccountKeys.NAME, plaintext=mixed))
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        world.deliver("bank-a", "Bank.CertifyAccount", wire, None)

    swap(world, "bank-a", NoSelfSignature)
    world.deliver("bank-a", "Bank.CertifyAccount", wire, None)
    assert [row.pk_aid for row in world.parties["bank-a"].store.scan(ANONYMOUS_ACCOUNTS)] == [sk.public.encoded]


# --- AID-8 ---------------------------------------------------------------------------------------------------------
class AtOnce(CertifyAccountStep):
    """A bank that holds the account for active once it has certified it, as the paper's AID-6 has it."""

    def decide(self, rows: Rows, facts: Certifying, now_s: int, entropy: Entropy) -> Decision:
        decision = super().decide(rows, facts, now_s, entropy)
        writes = tuple(
            Insert(w.table, replace(w.row, state="ACTIVE")) if w.table is ANONYMOUS_ACCOUNTS else w
            for w in decision.writes
        )
        return replace(decision, writes=writes)


def losing_certificates(peer: str, rpc: str, reply: Wire) -> Wire:
    """The network keeps AID-4 from the phone."""
    if rpc == "Bank.CertifyAccount":
        raise Unavailable
    return reply


def lost(world: World, phone: Phone) -> str:
    """AID-1 … AID-4 with the certificate lost on its way: the state of the account at the bank."""
    world.tap_reply = losing_certificates
    with pytest.raises(Unavailable):
        world.account(phone)
    world.tap_reply = None
    return world.parties["bank-a"].store.scan(ANONYMOUS_ACCOUNTS)[-1].state


def test_an_account_is_active_when_the_se_holds_it(world: World) -> None:
    """Attack: the network keeps AID-4 from the phone and confirms in its place. Powers: network; then SK_AID too, but
    not K. Formal: core_aid (bank activates ⇒ user got it). Closed by: AID-5 under K and S_AID; credit of accounts never
    confirmed is given back. Variant, a bank that does not wait: it holds for active, and lends on, what nobody has."""
    phone = world.ready()
    bank = world.parties["bank-a"]
    assert lost(world, phone) == "EXPECT_ACTIVATION"
    (account,), (session,) = bank.store.scan(ANONYMOUS_ACCOUNTS), bank.store.scan(ACCOUNT_SESSIONS)
    (row,) = world.parties[phone.name].store.scan(ACCOUNTS)
    message = AccountActivation(aid=account.aid, n_b=row.n_b, tsm="tsm-1")
    signer = Signer(name=account.aid, key=PrivateKey.from_bytes(row.sk_aid))
    signed = envelope.sign(signer, message, audience="bank-a", stamp=stamp(world))
    for key in (nonce(world), row.kx):
        sealed = cose.encrypt(key, world.entropy, name=AccountActivation.NAME, plaintext=signed)
        with refused(world, DecryptionFailed, "DECRYPTION_FAILED"):
            world.deliver("bank-a", "Bank.ActivateAccount", Wire(cose=sealed, session=session.session), None)
    assert world.launch(phone) == ""  # and no pass is given for it
    world.clock.time_s += 3601
    world.account(phone)
    assert [a.state for a in bank.store.scan(ANONYMOUS_ACCOUNTS)] == ["ACTIVE"]
    assert bank.store.scan(CUSTOMERS)[0].granted_minor == account.limit_minor

    swap(world, "bank-a", AtOnce)
    lost(world, phone)
    states = {a.aid: a.state for a in bank.store.scan(ANONYMOUS_ACCOUNTS)}
    held = {a.aid for a in world.parties[phone.name].store.scan(ACCOUNTS) if a.state == "ACTIVE"}
    assert [state for aid, state in states.items() if aid not in held] == ["ACTIVE"]


def test_confirmation_is_by_the_accounts_own_key(world: World) -> None:
    """Attack: AID-5 is made by who has K but not SK_AID. Powers: network, K_AID,B leaked. Formal: core_aid. Closed by:
    S_AID inside."""
    phone = world.ready()
    lost(world, phone)
    bank = world.parties["bank-a"]
    (account,), (session,) = bank.store.scan(ANONYMOUS_ACCOUNTS), bank.store.scan(ACCOUNT_SESSIONS)
    message = AccountActivation(aid=account.aid, n_b=account.n_b, tsm="tsm-2")
    signed = envelope.sign(Signer(name=account.aid, key=world.key()), message, audience="bank-a", stamp=stamp(world))
    sealed = cose.encrypt(account.k_aid, world.entropy, name=AccountActivation.NAME, plaintext=signed)
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        world.deliver("bank-a", "Bank.ActivateAccount", Wire(cose=sealed, session=session.session), None)
