"""The bank that the suite plays toward the TSM under test (TID-3c, TID-3d): a gRPC server whose answers a test sets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from conformance.bundle import Bundle, Played
from conformance.calls import CODE_KEY, Refusal
from conformance.drafts import checked
from conformance.phone import Account
from conformance.wire import (
    DAY_S,
    Key,
    Signed,
    encrypt,
    envelope_digest,
    seal,
    sign,
    unseal,
    verify,
)

from parties.rpc import bank_pb2_grpc
from parties.rpc.common_pb2 import Envelope

NAMES = {"ApproveGrant": "grant-request", "ReleaseGrant": "grant-release", "ListStops": "list-stops"}
MINUTE_S = 60
LIFE_S = 90 * DAY_S
ASKED_S = 90
HEARD_S = 2
PROMISED = ("sid", "aid", "com", "binfo_digest", "n2", "expires_at_s", "limit_minor", "currency")


@dataclass(frozen=True)
class Question:
    """What the TSM asked: the RPC, the bytes, and the verified message."""

    rpc: str
    cose: bytes
    message: Signed

    @property
    def digest(self) -> bytes:
        return envelope_digest(self.cose)


Answer = Callable[[Question], bytes]


class PlayedBank(bank_pb2_grpc.BankServicer):
    """Serves ApproveGrant, ReleaseGrant, ListStops. A TSM that asks wrongly is told so, and `faults` keeps why.

    `stops` are the AIDs on its list, by kind; `listed` counts how often it was asked for it.
    """

    def __init__(self, bundle: Bundle, party: Played) -> None:
        self.party = party
        self.tsm = bundle.tsm
        self.asked: list[Question] = []
        self.faults: list[str] = []
        self.stops: dict[str, str] = {}
        self.listed = 0
        self._answer: Answer = self.agree
        self._server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
        bank_pb2_grpc.add_BankServicer_to_server(self, self._server)
        tls = party.tls
        assert tls.key is not None
        assert tls.certificate is not None
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)], root_certificates=tls.root, require_client_auth=True
        )
        self._server.add_secure_port(party.listen, credentials)
        self._server.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.stop(0).wait()

    # --- serving -----------------------------------------------------------------------------------------------------
    def ApproveGrant(self, request: Envelope, context: grpc.ServicerContext) -> Envelope:
        return self._serve("ApproveGrant", request, context)

    def ReleaseGrant(self, request: Envelope, context: grpc.ServicerContext) -> Envelope:
        return self._serve("ReleaseGrant", request, context)

    def ListStops(self, request: Envelope, context: grpc.ServicerContext) -> Envelope:
        return self._serve("ListStops", request, context)

    def _serve(self, rpc: str, request: Envelope, context: grpc.ServicerContext) -> Envelope:
        try:
            question = self._open(rpc, request)
        except Exception as fault:
            self.faults.append(f"{rpc}: {fault!r}")
            raise
        if rpc == "ListStops":  # asked all the time, whatever a test is about
            answer = Envelope(cose=self.stop_list(question))
            self.listed += 1
            return answer
        self.asked.append(question)
        try:
            return Envelope(cose=self._answer(question))
        except Refusal as refusal:
            context.set_trailing_metadata(((CODE_KEY, refusal.code),) if refusal.code else ())
            context.set_code(grpc.StatusCode[refusal.status])
            return Envelope()

    def _open(self, rpc: str, request: Envelope) -> Question:
        """What the TSM asks must be right in every respect. Raises: BadWire."""
        assert request.session == b"", "this call takes no session"
        name = NAMES[rpc]
        signed = request.cose if rpc == "ListStops" else unseal(self.party.seal, request.cose, name)
        message = verify(signed, self.tsm.sign, name, issuer=self.tsm.name, audience=self.party.name)
        return Question(rpc, request.cose, checked(message, name))

    # --- answers -----------------------------------------------------------------------------------------------------
    @contextmanager
    def answering(self, answer: Answer) -> Iterator[None]:
        """For a while, answer so."""
        self._answer = answer
        try:
            yield
        finally:
            self._answer = self.agree

    def agree(self, question: Question) -> bytes:
        """The right answer."""
        if question.rpc == "ReleaseGrant":
            released = {name: question.message[name] for name in ("aid", "sid")}
            signed = self.sign("grant-released", released, question)
            return seal(self.tsm.seal, "grant-released", signed, question.digest)
        return self.approve(question, self.promise(question))

    def stop_list(self, question: Question) -> bytes:
        """E_T(S_B(minute, [AID, kind]…))."""
        now_s = int(time.time())
        stops = [{"aid": aid, "kind": kind} for aid, kind in sorted(self.stops.items())]
        signed = self.sign("stop-list", {"minute_s": now_s - now_s % MINUTE_S, "stops": stops}, question)
        return seal(self.tsm.seal, "stop-list", signed, question.digest)

    def await_listed(self) -> None:
        """Until the TSM has asked once more, as it does every minute, and has heard. Raises: TimeoutError."""
        before, until_s = self.listed, time.monotonic() + ASKED_S
        while self.listed == before:
            if time.monotonic() > until_s:
                raise TimeoutError(f"the TSM did not ask for the list within {ASKED_S} s")
            time.sleep(0.05)
        time.sleep(HEARD_S)

    def promise(self, question: Question, *, signer: Any = None, fields: dict[str, Any] | None = None,
                **changes: Any) -> bytes:  # fmt: skip
        """S_B(SID, AID, com, H(BINFO), N2, expiry, limit)."""
        payload = {**{name: question.message[name] for name in PROMISED}, **(fields or {})}
        arguments = {"audience": self.tsm.name, "exp": int(time.time()) + LIFE_S, **changes}
        return sign(signer or self.party.signer, "promise", payload, **arguments)

    def approve(self, question: Question, promise: bytes, *, key: bytes | None = None, **changes: Any) -> bytes:
        """{S_B(promise)}K_TSM,B."""
        signed = self.sign("grant-approval", {"promise": promise}, question, **changes)
        return encrypt(key or question.message["key"], "grant-approval", signed, question.digest)

    def sign(self, name: str, payload: dict[str, Any], question: Question, **changes: Any) -> bytes:
        """A reply to `question`."""
        arguments = {"audience": self.tsm.name, "digest": question.digest, **changes}
        return sign(arguments.pop("signer", self.party.signer), name, payload, **arguments)

    # --- accounts ----------------------------------------------------------------------------------------------------
    def account(self, **changes: Any) -> Account:
        """An anonymous account of nobody, with its launch pass; `changes` are those of the pass."""
        bare = Account(
            bank=self.party.name, aid=f"a-{os.urandom(16).hex()}", sk_aid=Key.new(), key=os.urandom(32),
            expires_at_s=int(time.time()) + LIFE_S, limit_minor=500_000, currency="TWD",
        )  # fmt: skip
        return self.with_pass(bare, **changes)

    def with_pass(self, account: Account, **changes: Any) -> Account:
        """The account with another launch pass."""
        fields = {
            "aid": account.aid, "pk_aid": account.sk_aid.point, "trust_class": "software",
            **changes.pop("fields", {}),
        }  # fmt: skip
        now_s = int(time.time())
        issued_s = now_s - now_s % (DAY_S // 2)
        arguments = {"audience": self.tsm.name, "iat": issued_s, "exp": issued_s + DAY_S, **changes}
        signer = arguments.pop("signer", self.party.signer)
        shown = sign(signer, arguments.pop("name", "launch-pass"), fields, **arguments)
        return Account(**{**vars(account), "launch_pass": shown})
