"""A corrupt wallet against its own SE: what it would have signed, certified or opened (formal/se).

Every wallet and every user is the attacker there, and K_TID,TSM seals and opens for them. What is left is the SE, which
signs typed statements only. Each test shows that the command has no field for the value, and what a wallet wins from an
SE that takes it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.attacker import (
    ForeignTid,
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
    taking,
    unseal,
)
from support.world import PASSCODE, SOFTWARE, Phone, World, card_key

from protocol import cose, envelope
from protocol.card.keys import derive_card_key
from protocol.commitments import card_leaf, merkle_root
from protocol.crypto import PrivateKey, PublicKey
from protocol.engine import Context, Incoming
from protocol.envelope import Opened, Signer, Wire
from protocol.errors import DecryptionFailed, Malformed, SignatureInvalid
from protocol.messages.account import AccountCertificate
from protocol.messages.card import CardKey, CardKeys, CardsIssued
from protocol.messages.se import (
    SealedRequest,
    SeBankInfo,
    SeBeginAccount,
    SeGenerateAccountKeys,
    SeGenerateCardKeys,
    SeGenerateServiceKeys,
    SeMakeBankInfo,
    SeOpenService,
    SeService,
    SeSignService,
    Statement,
)
from protocol.messages.service import CreditProof, ServiceOffer, TsmInfo
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS
from protocol.roles.se.account import BeginAccountStep, GenerateAccountKeysStep, Generating
from protocol.roles.se.card import GenerateCardKeysStep
from protocol.roles.se.card import Generating as GeneratingCards
from protocol.roles.se.party import M, SecureElement
from protocol.roles.se.service import Committing, GenerateServiceKeysStep, MakeBankInfoStep, SignServiceStep
from protocol.roles.se.tables import SERVICE_KEYS, ServiceKeys
from protocol.roles.tsm.cards import IssueCardsStep, Issuing
from protocol.roles.tsm.tables import CARDS, SERVICES


def variant(world: World, phone: Phone, kind: type[Any]) -> None:
    """Install `kind`, a step of an SE whose commands have room for more, which it finds in `given`."""
    given: dict[str, Any] = {}
    step = swap(world, phone.name, kind, taking(world.parties[phone.name].value, given))
    step.given = given


# --- RAWCOM --------------------------------------------------------------------------------------------------------
class RawCommitment(MakeBankInfoStep):
    """BINFO over a commitment and a SID that the wallet names."""

    given: dict[str, bytes]

    def prepare(self, incoming: Incoming[Committing], ctx: Context) -> Incoming[Committing]:
        facts = incoming.facts
        offer = replace(facts.offer, sid=self.given["sid"])
        return super().prepare(replace(incoming, facts=replace(facts, offer=offer)), ctx)

    def commit(self, service: ServiceKeys, offer: ServiceOffer, r: bytes) -> bytes:
        return self.given["com"]


def test_the_se_commits_to_its_own_tid_key_only(world: World) -> None:
    """Attack: the wallet has BINFO made over a TID key that is in no SE. Powers: the wallet key; K_TID,TSM seals and
    opens for the wallet, as in the model. Formal: se_RAWCOM (K_TID,TSM, kAC, residence of PK_TID lost). Closed by: the
    SE computes com over its own TID key (ADR-0005). Variant: the TSM serves a key outside any SE on this AID, and the
    wallet holds its K_TID,TSM."""
    phone = world.ready()
    aid = world.account(phone)
    outside = ForeignTid.make(world).open()
    r = nonce(world)
    made = command(world, phone, "GenerateServiceKeys", SeGenerateServiceKeys(tsm="tsm-1"), SealedRequest)
    reply = world.deliver("tsm-1", "Tsm.OpenAccount", Wire(cose=made.cose), None).cose
    message = SeMakeBankInfo(tid=made.handle, aid=aid, reply=reply, nonce1=nonce(world))
    for more in ({"com": outside.commit(r)}, {"sid": outside.sid}, {"pk_tid": outside.sk.public.encoded}):
        with refused(world, Malformed, "MALFORMED"):
            raw_command(world, phone, "MakeBankInfo", message, SeBankInfo, **more)

    variant(world, phone, RawCommitment)
    raw_command(world, phone, "MakeBankInfo", message, SeBankInfo, com=outside.commit(r), sid=outside.sid)
    k = ForeignTid.stolen(world, phone, made.handle).key
    request = request_of(world, phone, made.handle, Statement.CREDIT_PROOF)
    shown = read(CreditProof, decrypt(CreditProof, k, request.cose))
    info = replace(read(TsmInfo, shown.tsminfo), tid=outside.tid, r=r, n_t=outside.n_t)
    outside.prove(replace(shown, tsminfo=outside.sign(info)))
    (service,) = world.parties["tsm-1"].store.scan(SERVICES)
    assert (service.pk_tid, service.k_tid) == (outside.sk.public.encoded, outside.key)
    for row in world.parties[phone.name].store.scan(SERVICE_KEYS):
        assert PrivateKey.from_bytes(row.sk_tid).public.encoded != service.pk_tid


# --- RAWLEAF -------------------------------------------------------------------------------------------------------
class RawRoot(GenerateCardKeysStep):
    """CARD-3 over a root that the wallet names."""

    given: dict[str, bytes]

    def _message(self, facts: GeneratingCards, shown: list[CardKey], ctx: Context) -> CardKeys:
        return replace(super()._message(facts, shown, ctx), root=self.given["root"])


def test_the_se_endorses_its_own_card_keys_only(world: World) -> None:
    """Attack: the wallet has a card key endorsed that is in no SE. Powers: the wallet key; K_TID,TSM seals and opens
    for the wallet. Formal: se_RAWLEAF, trace_RAWLEAF. Closed by: the SE computes the root over its own card keys
    (ADR-0005). Variant: the TSM certifies a key that a program can copy."""
    phone = world.ready()
    tid = world.service(phone, world.account(phone))
    thief = ForeignTid.stolen(world, phone, tid)
    request = request_of(world, phone, tid, Statement.CARD_REQUEST)
    challenge = world.deliver("tsm-1", "Tsm.RequestCards", request, None)
    message = SeGenerateCardKeys(tid=tid, reply=challenge.cose, number=1)
    copied = CardKey(modulus=card_key(91).public.to_bytes(), salt=nonce(world), possession=bytes(176))
    root = merkle_root([card_leaf(salt=copied.salt, modulus=copied.modulus)])
    for more in ({"root": root}, {"modulus": copied.modulus}):
        with refused(world, Malformed, "MALFORMED"):
            raw_command(world, phone, "GenerateCardKeys", message, SealedRequest, **more)

    variant(world, phone, RawRoot)
    made = raw_command(world, phone, "GenerateCardKeys", message, SealedRequest, root=root)
    signed, _ = envelope.unpack(decrypt(CardKeys, thief.key, made.cose), low=2, high=2, max_bytes=1 << 20)
    endorsed = read(CardKeys, signed)
    thief.card_n_t = endorsed.n_t
    held = replace(copied, possession=thief.card_key(91).possession)
    thief.send_cards(envelope.pack([signed, held.to_bytes()]))
    assert [card.modulus for card in world.parties["tsm-1"].store.scan(CARDS)] == [copied.modulus]


# --- RAWEK ---------------------------------------------------------------------------------------------------------
class RawServiceKey(GenerateServiceKeysStep):
    """TID-1 with an EK_TID that the wallet names."""

    given: dict[str, bytes]

    def encryption_key(self, dk_tid: PrivateKey) -> bytes:
        return self.given["ek_tid"]


def test_the_se_names_its_own_key_in_tid_1(world: World) -> None:
    """Attack: the wallet has its own EK_TID put into TID-1. Powers: the wallet key. Formal: se_RAWEK (K_TID,TSM and kAC
    not secret; found by hand). Closed by: EK_TID is the SE's own (ADR-0005). Variant: the wallet opens TID-2, seals it
    again for the SE, which notices nothing, and has K_TID,TSM; later it opens CARD-4 and has number and kAC."""
    phone = world.ready()
    aid = world.account(phone)
    mine = world.key()
    message = SeGenerateServiceKeys(tsm="tsm-1")
    with refused(world, Malformed, "MALFORMED"):
        raw_command(world, phone, "GenerateServiceKeys", message, SealedRequest, ek_tid=mine.public.encoded)

    variant(world, phone, RawServiceKey)
    made = raw_command(world, phone, "GenerateServiceKeys", message, SealedRequest, ek_tid=mine.public.encoded)
    request = Wire(cose=made.cose)
    reply = world.deliver("tsm-1", "Tsm.OpenAccount", request, None)
    signed = unseal(ServiceOffer, mine, reply.cose, request.digest)
    (row,) = world.parties[phone.name].store.scan(SERVICE_KEYS)
    again = cose.seal(
        PrivateKey.from_bytes(row.dk_tid).public, name=ServiceOffer.NAME, plaintext=signed,
        request_digest=request.digest,
    )  # fmt: skip
    bank_info = SeMakeBankInfo(tid=made.handle, aid=aid, reply=again, nonce1=nonce(world))
    command(world, phone, "MakeBankInfo", bank_info, SeBankInfo)
    k = read(ServiceOffer, signed).key
    proof = request_of(world, phone, made.handle, Statement.CREDIT_PROOF)
    assert read(TsmInfo, read(CreditProof, decrypt(CreditProof, k, proof.cose)).tsminfo).aid == aid
    answer = world.deliver("tsm-1", "Tsm.ProveCredit", proof, None)
    (service,) = world.parties["tsm-1"].store.scan(SERVICES)
    assert (service.k_tid, service.ek_tid) == (k, mine.public.encoded)
    _open(world, phone, made.handle, answer.cose)
    digest, issued = issue(world, phone, made.handle)
    card = read(CardsIssued, unseal(CardsIssued, mine, decrypt(CardsIssued, k, issued.cose, digest), digest)).cards[0]
    assert [(row.pan, row.k_ac) for row in world.parties["tsm-1"].store.scan(CARDS)] == [(card.pan, card.k_ac)]


def _open(world: World, phone: Phone, tid: str, reply: bytes) -> None:
    command(world, phone, "OpenService", SeOpenService(tid=tid, reply=reply), SeService)


def issue(world: World, phone: Phone, tid: str) -> tuple[bytes, Wire]:
    """CARD-1 … CARD-4: the digest of CARD-3, and CARD-4."""
    request = request_of(world, phone, tid, Statement.CARD_REQUEST)
    challenge = world.deliver("tsm-1", "Tsm.RequestCards", request, None)
    message = SeGenerateCardKeys(tid=tid, reply=challenge.cose, number=1)
    made = command(world, phone, "GenerateCardKeys", message, SealedRequest)
    wire = Wire(cose=made.cose, session=made.session)
    return wire.digest, world.deliver("tsm-1", "Tsm.IssueCards", wire, None)


# --- RAWEKA and WKX ------------------------------------------------------------------------------------------------
class RawAccountKey(GenerateAccountKeysStep):
    """AID-3 with an EK_AID that the wallet names."""

    given: dict[str, bytes]

    def _parts(self, facts: Generating, sk_aid: PrivateKey, dk_aid: PrivateKey, ctx: Context) -> list[bytes]:
        return super()._parts(facts, sk_aid, replace(dk_aid, public=PublicKey.from_bytes(self.given["ek_aid"])), ctx)


class RawSessionKey(BeginAccountStep):
    """AID-1 with a kx that the wallet names."""

    given: dict[str, bytes]

    def session_key(self, ctx: Context) -> bytes:
        return self.given["kx"]


class Account:
    """AID-1 … AID-4 by a wallet that names EK_AID, kx, both or neither, where its SE lets it."""

    def __init__(self, world: World, phone: Phone, *, raweka: bool, wkx: bool) -> None:
        self.mine = world.key()
        self.kx = nonce(world)
        begin = SeBeginAccount(bank="bank-a")
        if wkx:
            variant(world, phone, RawSessionKey)
            made = raw_command(world, phone, "BeginAccount", begin, SealedRequest, kx=self.kx)
        else:
            made = command(world, phone, "BeginAccount", begin, SealedRequest)
        reply = world.deliver("bank-a", "Bank.RequestAccount", Wire(cose=made.cose), None)
        keys = SeGenerateAccountKeys(
            account=made.handle, reply=reply.cose, software=SOFTWARE, passcode=PASSCODE, n_am=nonce(world)
        )
        if raweka:
            variant(world, phone, RawAccountKey)
            more = {"ek_aid": self.mine.public.encoded}
            asked = raw_command(world, phone, "GenerateAccountKeys", keys, SealedRequest, **more)
        else:
            asked = command(world, phone, "GenerateAccountKeys", keys, SealedRequest)
        self.handle = made.handle
        self.request = Wire(cose=asked.cose, session=asked.session)
        self.reply = world.deliver("bank-a", "Bank.CertifyAccount", self.request, None).cose

    def learn(self) -> bytes:
        """K_AID,B by who may hold kx and the key to EK_AID. Raises: DecryptionFailed."""
        inner = decrypt(AccountCertificate, self.kx, self.reply, self.request.digest)
        plaintext = unseal(AccountCertificate, self.mine, inner, self.request.digest)
        return envelope.unpack(plaintext, low=2, high=2, max_bytes=1 << 20)[1]


def test_the_se_names_its_own_keys_in_aid_1_and_aid_3(world: World) -> None:
    """Attack: the wallet has its own kx put into AID-1, and its own EK_AID into AID-3. Powers: the wallet key. Formal:
    se_RAWEKA_WKX. Closed by: both are the SE's own (ADR-0005)."""
    phone = world.ready()
    with refused(world, Malformed, "MALFORMED"):
        raw_command(world, phone, "BeginAccount", SeBeginAccount(bank="bank-a"), SealedRequest, kx=nonce(world))
    made = command(world, phone, "BeginAccount", SeBeginAccount(bank="bank-a"), SealedRequest)
    reply = world.deliver("bank-a", "Bank.RequestAccount", Wire(cose=made.cose), None)
    keys = SeGenerateAccountKeys(
        account=made.handle, reply=reply.cose, software=SOFTWARE, passcode=PASSCODE, n_am=nonce(world)
    )
    with refused(world, Malformed, "MALFORMED"):
        raw_command(world, phone, "GenerateAccountKeys", keys, SealedRequest, ek_aid=world.key().public.encoded)


@pytest.mark.parametrize("taken", ["neither", "EK_AID", "kx"])
def test_each_of_both_keys_alone_keeps_the_accounts_key(world: World, taken: str) -> None:
    """Variant: the SE takes kx or EK_AID, not both. K_AID,B stays closed. Formal: se_WKX, se_RAWEKA (both hold)."""
    account = Account(world, world.ready(), raweka=taken == "EK_AID", wkx=taken == "kx")
    with pytest.raises(DecryptionFailed) as caught:
        account.learn()
    assert caught.value.code == "DECRYPTION_FAILED"


def test_without_both_the_accounts_key_is_the_wallets(world: World) -> None:
    """Variant: the SE takes both. The wallet has the K that the bank set for this AID, with its credit set aside.
    Formal: se_RAWEKA_WKX (K_AID,B lost)."""
    phone = world.ready()
    k = Account(world, phone, raweka=True, wkx=True).learn()
    (account,) = world.parties["bank-a"].store.scan(ANONYMOUS_ACCOUNTS)
    assert account.k_aid == k
    assert account.customer == phone.user


# --- OUTERK --------------------------------------------------------------------------------------------------------
class OuterKeyOnly(IssueCardsStep):
    """CARD-4 as `{S_T(…)}K`, without E_EKTID."""

    def seal(self, facts: Issuing, reply: CardsIssued, stamp: envelope.Stamp, ctx: Context) -> Wire:
        tsm = self._tsm.keys.signer
        signed = envelope.sign(tsm, reply, audience=reply.tid, stamp=stamp, request_digest=ctx.digest)
        return Wire(
            cose=cose.encrypt(
                facts.service.k_tid, ctx.entropy, name=CardsIssued.NAME, plaintext=signed, request_digest=ctx.digest
            )
        )


def test_card_data_is_sealed_to_the_se(world: World) -> None:
    """Attack: the wallet opens CARD-4 under K and reads number and kAC. Powers: the wallet key; K_TID,TSM opens for the
    wallet. Formal: se_OUTERK (kAC lost). Closed by: E_EKTID inside (ADR-0013). Variant: with kAC the
    wallet makes cryptograms without card, opening or verification."""
    phone = world.ready()
    tid = world.service(phone, world.account(phone))
    k = ForeignTid.stolen(world, phone, tid).key
    digest, reply = issue(world, phone, tid)
    inner = decrypt(CardsIssued, k, reply.cose, digest)
    for key in (world.key(), phone.wallet_key):
        with pytest.raises(DecryptionFailed) as caught:
            unseal(CardsIssued, key, inner, digest)
        assert caught.value.code == "DECRYPTION_FAILED"
    (card,) = world.parties["tsm-1"].store.scan(CARDS)
    assert card.k_ac not in inner
    assert card.pan.encode() not in inner

    swap(world, "tsm-1", OuterKeyOnly)
    digest, reply = issue(world, phone, tid)
    (stolen,) = read(CardsIssued, decrypt(CardsIssued, k, reply.cose, digest)).cards
    issuer = world.parties["tsm-1"].value.issuer
    assert stolen.k_ac == derive_card_key(issuer.master_key, stolen.pan)


# --- the wallet key ------------------------------------------------------------------------------------------------
class AnyCommander(SecureElement):
    """An SE that obeys whoever signs."""

    def command(self, kind: type[M], wire: Wire, ctx: Context) -> Opened[M]:
        sign1 = envelope.peek(kind, wire.cose)
        return Opened(message=kind.from_bytes(sign1.payload), claims=sign1.claims, key=self.wallet_key, wire=wire.cose)


def test_the_se_obeys_the_enrolled_wallet_only(world: World) -> None:
    """Attack: another program in the phone commands the SE under a key of its own. Powers: a program in the phone,
    without the wallet key. Formal: se gives the wallet to the attacker, so this is the line before it. Closed by: the
    SE obeys the wallet key enrolled from the TEE (ADR-0005). Variant: the program asks for cards on the owner's
    credit."""
    phone = world.ready()
    tid = world.service(phone, world.account(phone))
    message = SeSignService(tid=tid, statement=Statement.CARD_REQUEST, maximum_minor=0, aid="")
    program = Signer(name=phone.name, key=world.key())
    wire = Wire(cose=envelope.sign(program, message, audience=phone.name, stamp=stamp(world)))
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        world.deliver(phone.name, "SecureElement.SignService", wire, None)

    swap(world, phone.name, SignServiceStep, recast(world.parties[phone.name].value, AnyCommander))
    made = read(SealedRequest, world.deliver(phone.name, "SecureElement.SignService", wire, None).cose)
    world.deliver("tsm-1", "Tsm.RequestCards", Wire(cose=made.cose), None)
