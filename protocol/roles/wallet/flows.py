"""INIT, ATT, AID, TID and CARD as the phone runs them (paper §2.2 … §2.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol import envelope
from protocol.crypto import PrivateKey, same
from protocol.envelope import Wire
from protocol.errors import NonceMismatch
from protocol.messages.attest import ChallengeRequest
from protocol.messages.se import (
    SeAcceptDecision,
    SeAccount,
    SealedRequest,
    SeBankInfo,
    SeBeginAccount,
    SeDecision,
    SeEnroll,
    SeGenerateAccountKeys,
    SeGenerateCardKeys,
    SeGenerateServiceKeys,
    SeIdentity,
    SeInstallAccount,
    SeInstallCards,
    SeInstallIdentity,
    SeInstallPass,
    SeMakeBankInfo,
    SeOpenService,
    SeQuote,
    SeService,
    SeSignService,
    Statement,
)
from protocol.messages.se_state import SeState, SeStatus
from protocol.messages.software import ReferenceRequest, ReferenceValues, Release, ReleaseRequest
from protocol.pki import Use
from protocol.roles.wallet.session import Call, Exchanged, Flow, Wallet
from protocol.types import NONCE_BYTES, Purpose

_JUDGES: Final = {
    Purpose.INSTALL: "Bank.ApproveInstall",
    Purpose.REPORT: "Bank.ReportInstall",
    Purpose.LAUNCH: "Bank.VerifyLaunch",
}


def _challenge(wallet: Wallet, bank: str, purpose: Purpose) -> Flow[Exchanged]:
    """ATT-D1, ATT-L1: the bank's fresh nonce, asked for with the wallet key."""
    signed = envelope.sign(wallet.signer, ChallengeRequest(purpose=purpose), audience=bank, stamp=wallet.stamp())
    return (yield Call(peer=bank, rpc="Bank.Challenge", wire=Wire(cose=signed)))


def _carry(peer: str, rpc: str, request: SealedRequest) -> Flow[bytes]:
    """Take what the SE sealed to its receiver; bring the sealed answer back."""
    exchanged = yield Call(peer=peer, rpc=rpc, wire=Wire(cose=request.cose, session=request.session))
    return exchanged.reply.cose


def enroll(wallet: Wallet, *, bank: str, branch_code: str) -> Flow[str]:
    """INIT-2 … INIT-4: the phone is registered; the name the bank gave the user."""
    challenge = yield from _challenge(wallet, bank, Purpose.ENROLL)
    command = SeEnroll(
        bank=bank, branch_code=branch_code, challenge=challenge.reply.cose, asked=challenge.sent.digest,
        n_am=wallet.entropy.bytes(NONCE_BYTES),
    )  # fmt: skip
    request = yield from wallet.command("Enroll", command, SealedRequest)
    reply = yield from _carry(bank, "Bank.Enroll", request)
    identity = yield from wallet.command("InstallIdentity", SeInstallIdentity(bank=bank, reply=reply), SeIdentity)
    return identity.user


def attest(wallet: Wallet, *, bank: str, purpose: Purpose, software: str) -> Flow[SeDecision]:
    """ATT-D1 … D7 (INSTALL, REPORT) or ATT-L1 … L6 (LAUNCH): the bank's decision, as the SE accepted it."""
    challenge = yield from _challenge(wallet, bank, purpose)
    command = SeQuote(
        purpose=purpose, bank=bank, software=software, challenge=challenge.reply.cose, asked=challenge.sent.digest,
        n_am=wallet.entropy.bytes(NONCE_BYTES),
    )  # fmt: skip
    request = yield from wallet.command("Quote", command, SealedRequest)
    reply = yield from _carry(bank, _JUDGES[purpose], request)
    return (yield from wallet.command("AcceptDecision", SeAcceptDecision(bank=bank, reply=reply), SeDecision))


def open_account(wallet: Wallet, *, bank: str, tsm: str, software: str, passcode: str) -> Flow[SeAccount]:
    """AID-1 … AID-8: an anonymous account for use at `tsm`."""
    request = yield from wallet.command("BeginAccount", SeBeginAccount(bank=bank), SealedRequest)
    account = request.handle
    reply = yield from _carry(bank, "Bank.RequestAccount", request)
    keys = SeGenerateAccountKeys(
        account=account, reply=reply, software=software, passcode=passcode,
        n_am=wallet.entropy.bytes(NONCE_BYTES),
    )  # fmt: skip
    request = yield from wallet.command("GenerateAccountKeys", keys, SealedRequest)
    reply = yield from _carry(bank, "Bank.CertifyAccount", request)
    install = SeInstallAccount(account=account, reply=reply, tsm=tsm)
    request = yield from wallet.command("InstallAccount", install, SealedRequest)
    reply = yield from _carry(bank, "Bank.ActivateAccount", request)
    return (yield from wallet.command("InstallPass", SeInstallPass(account=account, reply=reply), SeAccount))


def register(wallet: Wallet, *, tsm: str, aid: str, maximum_minor: int) -> Flow[SeService]:
    """TID-1 … TID-4: a service account paid from `aid`; `maximum_minor` 0 sets no maximum of one's own."""
    request = yield from wallet.command("GenerateServiceKeys", SeGenerateServiceKeys(tsm=tsm), SealedRequest)
    tid = request.handle
    reply = yield from _carry(tsm, "Tsm.OpenAccount", request)
    return (yield from prove_credit(wallet, tsm=tsm, tid=tid, aid=aid, offer=reply, maximum_minor=maximum_minor))


def prove_credit(wallet: Wallet, *, tsm: str, tid: str, aid: str, offer: bytes, maximum_minor: int) -> Flow[SeService]:
    """TID-2 … TID-4 with the TSM's `offer`; an empty one is that of RECREDIT, which the SE keeps."""
    command = SeMakeBankInfo(tid=tid, aid=aid, reply=offer, nonce1=wallet.entropy.bytes(NONCE_BYTES))
    asked, made = yield from wallet.exchange("MakeBankInfo", command, SeBankInfo)
    if not same(made.nonce1, asked.nonce1):  # TID-2b returns Nonce1: the answer is to this very question
        raise NonceMismatch
    proof = SeSignService(tid=tid, statement=Statement.CREDIT_PROOF, maximum_minor=maximum_minor, aid="")
    request = yield from wallet.command("SignService", proof, SealedRequest)
    reply = yield from _carry(tsm, "Tsm.ProveCredit", request)
    return (yield from wallet.command("OpenService", SeOpenService(tid=tid, reply=reply), SeService))


def issue_cards(wallet: Wallet, *, tsm: str, tid: str, number: int) -> Flow[SeService]:
    """CARD-1 … CARD-5: `number` (1 … 32) virtual cards for `tid`."""
    wish = SeSignService(tid=tid, statement=Statement.CARD_REQUEST, maximum_minor=0, aid="")
    request = yield from wallet.command("SignService", wish, SealedRequest)
    reply = yield from _carry(tsm, "Tsm.RequestCards", request)
    keys = SeGenerateCardKeys(tid=tid, reply=reply, number=number)
    request = yield from wallet.command("GenerateCardKeys", keys, SealedRequest)
    reply = yield from _carry(tsm, "Tsm.IssueCards", request)
    request = yield from wallet.command("InstallCards", SeInstallCards(tid=tid, reply=reply), SealedRequest)
    reply = yield from _carry(tsm, "Tsm.ActivateCards", request)
    return (yield from wallet.command("OpenService", SeOpenService(tid=tid, reply=reply), SeService))


def close_service(wallet: Wallet, *, tsm: str, tid: str, aid: str = "") -> Flow[SeService]:
    """Give the grant of `aid` back, or all: its cards end at the TSM, its bank frees the AID.

    The account is CLOSED with the last one.
    """
    while True:
        wish = SeSignService(tid=tid, statement=Statement.CLOSE_ACCOUNT, maximum_minor=0, aid=aid)
        request = yield from wallet.command("SignService", wish, SealedRequest)
        reply = yield from _carry(tsm, "Tsm.CloseAccount", request)
        service = yield from wallet.command("OpenService", SeOpenService(tid=tid, reply=reply), SeService)
        if aid or service.state == "CLOSED":
            return service


def status(wallet: Wallet) -> Flow[SeState]:
    """What the SE holds."""
    return (yield from wallet.command("Status", SeStatus(), SeState))


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """ATT-D1: the package and the provider's signed release of it; not believed before ATT-D0's checks."""

    release: bytes
    package: bytes


def fetch_release(wallet: Wallet, *, provider: str, software: str) -> Flow[Download]:
    """The software, asked for with a one-time key."""
    key = PrivateKey.generate(wallet.entropy)
    message = ReleaseRequest(software=software, key=key.public.encoded)
    reply = yield from _once(wallet, provider, "SoftwareProvider.GetRelease", key, message, Release)
    return Download(release=reply.release, package=reply.package)


def fetch_reference_values(wallet: Wallet, *, provider: str, software: str, bank: str) -> Flow[bytes]:
    """The bank's signed reference values, asked for with a one-time key."""
    key = PrivateKey.generate(wallet.entropy)
    message = ReferenceRequest(software=software, bank=bank, key=key.public.encoded)
    reply = yield from _once(wallet, provider, "SoftwareProvider.GetReferenceValues", key, message, ReferenceValues)
    return reply.reference_values


def _once(
    wallet: Wallet, provider: str, rpc: str, key: PrivateKey, message: ReleaseRequest | ReferenceRequest,
    kind: type[envelope.M],
) -> Flow[envelope.M]:  # fmt: skip
    signer = envelope.Signer(name=key.public.thumbprint.hex(), key=key)
    signed = envelope.sign(signer, message, audience=provider, stamp=wallet.stamp())
    exchanged = yield Call(peer=provider, rpc=rpc, wire=Wire(cose=signed))
    identity = wallet.directory.named(provider, Use.SIGN)
    # The one-time key of the request that was really sent is its `kid`; the reply is for that key.
    kid = envelope.peek(type(message), exchanged.sent.cose).kid
    return envelope.open_signed(
        kind, exchanged.reply.cose, identity.key, issuer=identity.name, audience=kid.hex(),
        now_s=wallet.clock.now_s(), request_digest=exchanged.sent.digest,
    ).message  # fmt: skip
