"""The terminal's side of a tap: a generator that yields commands and is sent the card's answers.

Where the card is (in process, behind gRPC, on a reader) is the driver's affair: see `run_exchange`. The order is that
of EMV Book 3 §10 with what EMV Contactless Books A and B put around it:

    (1) PPSE, candidates         (4) records                     (7) terminal action analysis
    (2) SELECT of the best       (5) data authentication         (8) GENERATE AC with CDA
    (3) GET PROCESSING OPTIONS   (6) restrictions, verification  (9) card action analysis

Online only. No way through here approves a sale: ONLINE_REQUEST comes out when the card asked to go online and all it
said is under signatures that chain to a CA key of its own provider; a card that offers to approve offline is declined.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeAlias, TypeVar

from protocol.card import outcome, tlv
from protocol.card.afl import MAX_RECORDS, Afl, Record, by_place
from protocol.card.answers import Cryptogram, collect, parse_cryptogram, parse_options
from protocol.card.apdu import Command, Ins, Response, Sw
from protocol.card.chain import VerifiedCard, verify_card
from protocol.card.combined import CryptogramType, transaction_hash, verify_combined
from protocol.card.directory import PPSE
from protocol.card.dol import Dol
from protocol.card.outcome import CardLost, Kind, OnlineRequest, Outcome
from protocol.card.risk import NOTHING, Tvr, analyze, encode_tvr, manage_risk, restrict
from protocol.card.selection import MAX_CANDIDATES, Candidate, parse_application, parse_directory, select
from protocol.card.terminal import Sale, Terminal, terminal_data
from protocol.card.verification import verify_holder
from protocol.errors import CardDataInvalid, Expired, Oversize, ProtocolError

T = TypeVar("T")
Exchange: TypeAlias = Generator[bytes, bytes, T]
"""Yields command APDUs, is sent response APDUs, returns T."""

MAX_COMMANDS: Final = 1 + 2 * MAX_CANDIDATES + MAX_RECORDS + 1
"""Of one tap, whatever the card answers: PPSE, two per application tried, the records, one GENERATE AC."""
_COMMAND_TEMPLATE: Final = 0x83
_BY_NUMBER: Final = 0x04
_CDA: Final = 0x10
_AIP_CDA: Final = 0x01
_AIP_VERIFICATION: Final = 0x10
_AUTHENTICATION_DATA: Final = frozenset({0x8F, 0x90, 0x9F32, 0x9F46, 0x9F47})
"""Without these there is nothing to authenticate (Book 2 Table 4 and 8; the remainders 92 and 9F48 may be absent)."""
_REFUSED_OPTIONS: Final[dict[int, Outcome]] = {
    Sw.CONDITIONS_NOT_SATISFIED: outcome.SELECT_NEXT,  # Book 3 §10.1: on to the next application
    Sw.SEE_PHONE: outcome.SEE_PHONE,  # Book C-3 §5.2.2.2
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Application:
    """A card's application as it was read, before anything of it is believed."""

    aid: bytes
    aip: bytes
    afl: bytes
    records: tuple[Record, ...] = field(repr=False)
    data: dict[int, bytes] = field(repr=False)
    pdol_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judgment:
    """What steps 5 and 6 found: the TVR, the holder verification's results 9F34, and the card if it is genuine."""

    tvr: Tvr
    results: bytes
    verified: VerifiedCard | None


def perform_tap(terminal: Terminal, sale: Sale) -> Exchange[Outcome]:
    """One tap, from the card's arrival to an outcome. Whatever the card answers, no exception comes out of it.

    The driver throws `CardLost` in when the card is gone: nothing has been charged, and the same card may come again.
    """
    try:
        return (yield from _select_and_run(terminal, sale))
    except CardLost:
        return outcome.PRESENT_AGAIN
    except ProtocolError:
        return outcome.END_APPLICATION


def run_exchange(exchange: Exchange[T], transmit: Callable[[bytes], bytes]) -> T:
    """Drive an exchange over `transmit`, which takes a command and returns the answer, or raises CardLost.

    Any other exception of `transmit` is a fault of the link's code and goes to the caller.
    """
    command = next(exchange)
    while True:
        try:
            step = partial(exchange.send, transmit(command))
        except CardLost as lost:
            step = partial(exchange.throw, lost)
        try:
            command = step()
        except StopIteration as end:
            result: T = end.value
            return result


def _send(command: Command) -> Exchange[Response]:
    return Response.from_bytes((yield command.to_bytes()))


def _select_and_run(terminal: Terminal, sale: Sale) -> Exchange[Outcome]:
    # (1) Book B §3.3.2. A phone that was not opened shows no directory.
    directory = yield from _send(select(PPSE))
    if not directory.ok:
        return outcome.END_APPLICATION
    candidates = parse_directory(directory.data, applications=terminal.applications)
    if not candidates:
        return outcome.TRY_ANOTHER_INTERFACE if terminal.other_interface else outcome.END_APPLICATION
    for candidate in candidates:
        ended = yield from _run_application(terminal, sale, candidate)
        if ended.kind is not Kind.SELECT_NEXT:
            return ended
    return outcome.END_APPLICATION


def _run_application(terminal: Terminal, sale: Sale, candidate: Candidate) -> Exchange[Outcome]:
    # (2) Book B §3.3.2: an application that does not let itself be selected leaves the list.
    selected = yield from _send(select(candidate.aid))
    if not selected.ok:
        return outcome.SELECT_NEXT
    pdol_data = parse_application(selected.data, aid=candidate.aid).build(terminal_data(terminal, sale))
    # (3) Book 3 §6.5.8
    options = yield from _send(
        Command(
            cla=0x80, ins=Ins.GET_PROCESSING_OPTIONS, p1=0, p2=0, data=tlv.encode(_COMMAND_TEMPLATE, pdol_data), le=256
        )
    )
    if not options.ok:
        return _REFUSED_OPTIONS.get(options.sw, outcome.END_APPLICATION)
    aip, afl = parse_options(options.data)
    # (4)
    records = yield from _read_records(Afl.from_bytes(afl))
    application = _Application(
        aid=candidate.aid, aip=aip, afl=afl, records=records, data=collect(records), pdol_data=pdol_data
    )
    # (5) and (6)
    judgment = _judge(terminal, sale, application)
    return (yield from _ask_cryptogram(terminal, sale, application, judgment))


def _read_records(afl: Afl) -> Exchange[tuple[Record, ...]]:
    # Book 3 §10.2: any other answer than 9000 ends the transaction.
    records: list[Record] = []
    for (sfi, number), _ in afl.walk():
        answer = yield from _send(Command(cla=0x00, ins=Ins.READ_RECORD, p1=number, p2=sfi << 3 | _BY_NUMBER, le=256))
        if not answer.ok:
            raise CardDataInvalid("card does not give a record that its file locator names")
        records.append(Record(sfi=sfi, number=number, data=answer.data))
    return tuple(records)


def _judge(terminal: Terminal, sale: Sale, application: _Application) -> _Judgment:
    verified, found = _authenticate(terminal, sale, application)
    data = application.data
    holder = verify_holder(
        sale,
        supported=bool(application.aip[0] & _AIP_VERIFICATION),
        methods=data.get(0x8E),
        currency=data.get(0x9F42),
    )
    found |= restrict(terminal, sale.date, data) | holder.tvr | manage_risk()
    return _Judgment(tvr=found, results=holder.results, verified=verified)


def _authenticate(terminal: Terminal, sale: Sale, application: _Application) -> tuple[VerifiedCard | None, Tvr]:
    """Step 5 as far as it goes without the card: certificates and static data (Book 2 §6.6 by §6.2 to §6.4).

    CA keys are looked up under the provider of the name that was selected, so no brand's key vouches for another's
    card.
    """
    if not application.aip[0] & _AIP_CDA:
        return None, Tvr.AUTHENTICATION_NOT_PERFORMED
    if not application.data.keys() >= _AUTHENTICATION_DATA:
        return None, Tvr.CARD_DATA_MISSING | Tvr.CDA_FAILED
    try:
        verified = verify_card(
            aid=application.aid,
            aip=application.aip,
            afl=application.afl,
            records=by_place(application.records),
            ca_keys=terminal.ca_keys,
            today=sale.date,
        )
    except (CardDataInvalid, Expired, Oversize):
        return None, Tvr.CDA_FAILED
    return verified, NOTHING


def _ask_cryptogram(
    terminal: Terminal, sale: Sale, application: _Application, judgment: _Judgment
) -> Exchange[Outcome]:
    # (7) Whatever the action codes say, a card that is not shown to be genuine has nothing to go online with.
    verified, tvr = judgment.verified, judgment.tvr
    wanted = analyze(terminal, tvr, application.data) if verified is not None else CryptogramType.AAC
    said = terminal_data(terminal, sale) | {0x95: encode_tvr(tvr), 0x9F34: judgment.results}
    cdol_data = Dol.from_bytes(application.data[0x8C]).build(said)
    # (8) Book 3 §6.5.5; Book 2 §6.6.1: the signature is asked for with the cryptogram.
    reference = wanted if wanted is CryptogramType.AAC else wanted | _CDA
    answer = yield from _send(Command(cla=0x80, ins=Ins.GENERATE_AC, p1=reference, p2=0, data=cdol_data, le=256))
    if verified is None or wanted is CryptogramType.AAC:
        # The decision is made; the AAC only tells the card.
        return _decline(tvr)
    if not answer.ok:
        return replace(outcome.END_APPLICATION, tvr=encode_tvr(tvr))
    # (9) Book 3 §10.8: AAC is the card's no. A TC is none of the terminal's wishes, and nothing is taken offline.
    given = parse_cryptogram(answer.data)
    if given.kind is not CryptogramType.ARQC:
        return _decline(tvr)
    request = _verify_request(application, verified, given, cdol_data=cdol_data, sale=sale, tvr=tvr)
    if request is None:
        return _decline(tvr | Tvr.CDA_FAILED)
    return replace(outcome.AUTHORIZING, tvr=request.tvr, online=request)


def _verify_request(
    application: _Application, verified: VerifiedCard, given: Cryptogram, *, cdol_data: bytes, sale: Sale, tvr: Tvr
) -> OnlineRequest | None:
    """The rest of step 5 (Book 2 §6.6.2): None when the card's signature is not over this very transaction."""
    if given.signature is None:
        return None
    digest = transaction_hash(
        application.pdol_data,
        (cdol_data,),
        information=given.information,
        atc=given.atc,
        issuer_data=given.issuer_data,
    )
    try:
        combined = verify_combined(
            verified.icc.key,
            given.signature,
            unpredictable=sale.unpredictable,
            transaction_hash=digest,
            information=given.information,
        )
    except CardDataInvalid:
        return None
    return OnlineRequest(
        aid=application.aid,
        aip=application.aip,
        afl=application.afl,
        records=application.records,
        pdol_data=application.pdol_data,
        cdol_data=cdol_data,
        information=given.information,
        atc=given.atc,
        issuer_data=given.issuer_data,
        signature=given.signature,
        pan=verified.icc.pan,
        cryptogram=combined.cryptogram,
        tvr=encode_tvr(tvr),
    )


def _decline(tvr: Tvr) -> Outcome:
    return replace(outcome.DECLINED, tvr=encode_tvr(tvr))
