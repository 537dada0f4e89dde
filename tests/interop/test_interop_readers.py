"""Readers that nobody here wrote read our card through pcscd and vpcd. README.md says what each of them proves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from interop import cards, programs
from interop.daemon import READER, Pcscd, wait_until
from interop.programs import PcscPipe
from interop.reading import (
    Reading,
    parse_trace,
    purchase_commands,
    recompute,
    select,
    verify,
    verify_cryptogram,
    verify_records,
)
from pyemv import ac, kd

from parties.links.vpcd import VpcdLink
from protocol.card import profile
from protocol.card.apdu import Command, Ins
from protocol.card.applet import Applet
from protocol.card.combined import CryptogramType
from protocol.card.cvr import Cvr, IssuerData
from protocol.card.directory import PPSE
from protocol.card.profile import Channel
from protocol.errors import CardDataInvalid

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore:.*TripleDES.*")]

Read = Callable[[Pcscd], Reading]
READERS: dict[str, Read] = {
    "opensc-tool": programs.read_with_opensc,
    "python-emv": programs.read_with_emv,
    "nfcpy": programs.read_with_nfcpy,
    "merchant's link": programs.read_with_link,
}
WALKERS: dict[str, Read] = READERS | {"cardpeek": programs.read_with_cardpeek}
FIRST_AC = bytes((0x80, Ins.GENERATE_AC))
SIGNATURE = b"\x9f\x4b\x81\xb0"
CERTIFICATE = b"\x9f\x46\x81"
ACTION_DENIAL = b"\x9f\x0e\x05"
NOTICED = "signed data was altered|not a signature by this key|signature does not have the key's size"
"""The last is also said of a signature that, as a number, is not below the (wrong) key's modulus."""


def flip_after(mark: bytes) -> cards.Alter:
    """One bit, three bytes behind `mark`, wherever an answer has it."""

    def alter(command: bytes, answer: bytes) -> bytes:
        at = answer.find(mark)
        if at < 0:
            return answer
        at += len(mark) + 2
        return answer[:at] + bytes([answer[at] ^ 0x40]) + answer[at + 1 :]

    return alter


@pytest.fixture(scope="module")
def pcscd() -> Iterator[Pcscd]:
    programs.need_programs()
    service = Pcscd()
    yield service
    service.close()


@pytest.fixture(scope="module")
def inserted(pcscd: Pcscd) -> Iterator[cards.Slot]:
    slot = cards.Slot(applet())
    link = VpcdLink("127.0.0.1", lambda: slot)
    pcscd.inside(link.start)
    wait_until(lambda: slot.resets)
    yield slot
    link.close()


@pytest.fixture
def slot(inserted: cards.Slot) -> cards.Slot:
    inserted.card, inserted.alter, inserted.trace = applet(), cards.unaltered, []
    return inserted


def applet(holder: cards.Holder | None = None) -> Applet:
    return Applet(holder or cards.Holder(), cards.SeededEntropy(), channel=Channel.CONTACTLESS)


@pytest.mark.parametrize("name", READERS)
def test_reader_gets_a_purchase_that_verifies(pcscd: Pcscd, slot: cards.Slot, name: str) -> None:
    reading = READERS[name](pcscd)
    assert verify(reading) == IssuerData(cvr=Cvr.ARQC, opening=cards.OPENING)
    assert reading.records == cards.card_data().record_map()
    with pytest.raises(CardDataInvalid, match=NOTICED):
        verify(reading, ca=cards.ca_key("other_ca"))


@pytest.mark.parametrize("name", WALKERS)
def test_altered_record_is_noticed(pcscd: Pcscd, slot: cards.Slot, name: str) -> None:
    slot.alter = flip_after(ACTION_DENIAL)
    reading = WALKERS[name](pcscd)
    assert reading.records != cards.card_data().record_map()
    with pytest.raises(CardDataInvalid, match=NOTICED):
        verify_records(reading, ca=cards.ca_key())


@pytest.mark.parametrize("name", WALKERS)
def test_altered_certificate_is_noticed(pcscd: Pcscd, slot: cards.Slot, name: str) -> None:
    slot.alter = flip_after(CERTIFICATE)
    reading = WALKERS[name](pcscd)
    with pytest.raises(CardDataInvalid, match=NOTICED):
        verify_records(reading, ca=cards.ca_key())


@pytest.mark.parametrize("name", READERS)
def test_altered_signature_is_noticed(pcscd: Pcscd, slot: cards.Slot, name: str) -> None:
    alter = flip_after(SIGNATURE)
    slot.alter = lambda command, answer: alter(command, answer) if command[:2] == FIRST_AC else answer
    reading = READERS[name](pcscd)
    verified = verify_records(reading, ca=cards.ca_key())
    with pytest.raises(CardDataInvalid, match=NOTICED):
        verify_cryptogram(reading, verified)


@pytest.mark.parametrize("name", READERS)
def test_pyemv_recomputes_only_what_passed(pcscd: Pcscd, slot: cards.Slot, name: str) -> None:
    """The trace is the card's side of the wire here, and the reader's in the other tests."""
    READERS[name](pcscd)
    reading = parse_trace(slot.trace)
    signed = verify_cryptogram(reading, verify_records(reading, ca=cards.ca_key()))
    assert recompute(reading) == signed
    reading.cdol_data = reading.cdol_data[:5] + bytes([reading.cdol_data[5] ^ 1]) + reading.cdol_data[6:]
    assert recompute(reading) != signed


def test_cardpeek_walks_directory_application_and_records(pcscd: Pcscd, slot: cards.Slot) -> None:
    reading = programs.read_with_cardpeek(pcscd)
    assert reading.records == cards.card_data().record_map()
    assert verify_records(reading, ca=cards.ca_key()).icc.pan == cards.card_data().pan
    with pytest.raises(CardDataInvalid, match=NOTICED):
        verify_records(reading, ca=cards.ca_key("other_ca"))
    view = (pcscd.folder / "view.xml").read_text()
    for shown in ("1PAY.SYS.DDF01", "TAPVEIL", "ISO 14443 Type B without historical bytes", "CDA supported"):
        assert shown in view


def test_python_emv_reads_what_was_personalized(pcscd: Pcscd, slot: cards.Slot) -> None:
    result = programs.run_emv(pcscd)
    found = result["found"]
    assert bytes.fromhex(found["50"]) == profile.LABEL
    assert found["5A"].rstrip("f") == cards.card_data().pan
    assert bytes.fromhex(found["5F24"]) == cards.card_data().expiry.to_yymmdd()
    assert result["metadata"] == {"pin_retries": 0, "atc": 7}


def test_emvtool_lists_the_application(pcscd: Pcscd, slot: cards.Slot) -> None:
    programs.power_off(pcscd)
    listed = programs.run(pcscd, programs.EMVTOOL, "listapps")
    assert "TAPVEIL" in listed
    assert profile.AID.hex(" ").upper() in listed


def test_options_without_the_data_asked_for_are_refused(pcscd: Pcscd, slot: cards.Slot) -> None:
    """What python-emv's own command sends: no PDOL data. The reader is told, and no card is taken for it."""
    programs.power_off(pcscd)
    programs.run(pcscd, programs.EMVTOOL, "appdata", "0", ok=False)
    command, answer = slot.trace[-1]
    assert command == bytes.fromhex("80A8000002830000")
    assert answer == bytes.fromhex("6700")


def test_opensc_tool_reads_the_answer_to_reset(pcscd: Pcscd, slot: cards.Slot) -> None:
    assert programs.run(pcscd, "opensc-tool", "--reader", READER, "--atr").strip() == "3b:80:80:01:01"


def test_a_reader_that_tries_every_card_it_knows_leaves_the_next_tap_alone(pcscd: Pcscd, slot: cards.Slot) -> None:
    programs.run(pcscd, "opensc-tool", "--reader", READER, "--name", ok=False)
    tried = slot.trace
    assert len(tried) > 20
    assert all(answer[:-2] == b"" and len(answer) == 2 for _, answer in tried)
    verify(programs.read_with_opensc(pcscd))


def test_a_closed_card_shows_no_reader_anything(pcscd: Pcscd, slot: cards.Slot) -> None:
    slot.card = applet(cards.Holder(open=False))
    names = [select(PPSE), select(b"1PAY.SYS.DDF01"), select(profile.AID), select(b"no such application")]
    assert {answer for _, answer in programs.send_with_opensc(pcscd, names)} == {bytes.fromhex("6A82")}
    refused = programs.send_with_opensc(pcscd, purchase_commands(cards.card_data().afl)[2:])
    assert {answer for _, answer in refused} == {bytes.fromhex("6985")}


def test_nfcpy_carries_chained_blocks_and_lost_frames_once(pcscd: Pcscd, slot: cards.Slot) -> None:
    commands = purchase_commands(cards.card_data().afl)
    result = programs.run_nfcpy(pcscd, commands)
    assert (result["kind"], result["ndef"]) == ("Type4ATag", False)
    # What each frame carries besides its frame: 61 bytes to the card, 125 to the reader.
    assert result["chained in"] == sum((len(command) - 1) // 61 for command, _ in slot.trace) == 2
    assert result["chained out"] == sum((len(answer) - 1) // 125 for _, answer in slot.trace) > 3
    assert result["lost"] == result["again for NAK"] + result["again for ACK"]
    assert result["again for NAK"] > 0
    assert result["again for ACK"] > 0
    # What nfcpy sends for itself afterwards asks for an NDEF application.
    assert [command for command, _ in slot.trace[: len(commands)]] == commands
    assert {answer for _, answer in slot.trace[len(commands) :]} == {bytes.fromhex("6A82")}


@pytest.mark.parametrize(
    ("flip", "kind", "authentic"),
    [(0, CryptogramType.TC, Cvr.ISSUER_AUTHENTICATED), (1, CryptogramType.AAC, Cvr(0))],
    ids=["right", "altered"],
)
def test_card_takes_the_answer_that_pyemv_makes(
    pcscd: Pcscd, slot: cards.Slot, flip: int, kind: CryptogramType, authentic: Cvr
) -> None:
    with PcscPipe(pcscd) as pipe:
        trace = [(command, pipe.transmit(command)) for command in purchase_commands(cards.card_data().afl)]
        reading = parse_trace(trace)
        key = kd.derive_common_sk(cards.K_AC, reading.answer[0x9F36] + bytes(6))
        arpc = ac.generate_arpc_1(key, recompute(reading), b"00")
        values = cards.TERMINAL | {0x8A: b"00", 0x91: bytes([arpc[0] ^ flip]) + arpc[1:] + b"00"}
        second = Command(
            cla=0x80, ins=Ins.GENERATE_AC, p1=CryptogramType.TC, p2=0, data=profile.CDOL2.build(values), le=256
        ).to_bytes()
        answer = parse_trace([(second, pipe.transmit(second))]).answer
    assert answer[0x9F27] == bytes([kind])
    assert IssuerData.from_bytes(answer[0x9F10]).cvr == Cvr.ARQC | Cvr.COMPLETED | authentic


def test_link_says_what_is_missing(pcscd: Pcscd, slot: cards.Slot) -> None:
    with PcscPipe(pcscd, "Some Reader") as pipe:
        assert pipe.first.startswith("refused SETTINGS_INVALID no PC/SC reader 'Some Reader'")
        assert READER in pipe.first
    with PcscPipe(pcscd, environment={"PCSCLITE_CSOCK_NAME": str(pcscd.folder / "none")}) as pipe:
        assert pipe.first == "refused UNAVAILABLE no PC/SC service: install and start pcscd"
    with PcscPipe(pcscd, READER.replace("00 00", "00 01")) as pipe:
        assert pipe.first == "lost no card in the reader"
    with PcscPipe(pcscd) as first, PcscPipe(pcscd) as second:
        assert first.first == "ready"
        assert second.first == "refused UNAVAILABLE another program holds the card: close it"


class ByteCard:
    """A card of protocol T=0: it takes no Le beside data, and hands answers out when asked for them."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def process(self, command: bytes) -> bytes:
        self.commands.append(command)
        if command[1] == Ins.SELECT:
            return b"\x61\x03"
        if command[1] == 0xC0:  # GET RESPONSE
            return b"one\x90\x00" if command[4] == 3 else b"\x6f\x00"
        return b"four\x90\x00" if command[4] == 4 else b"\x6c\x04"

    def reset(self) -> None:
        """Keeps nothing."""


def test_link_does_for_a_t0_card_what_that_protocol_leaves_to_terminals(pcscd: Pcscd, slot: cards.Slot) -> None:
    """In the driver's second slot, with an answer to reset that offers T=0 only."""
    card = ByteCard()
    second = READER.replace("00 00", "00 01")
    with contextlib.ExitStack() as stack:
        link = VpcdLink("127.0.0.1:35964", lambda: card, atr=b"\x3b\x00")
        stack.callback(link.close)
        pcscd.inside(link.start)
        wait_until(lambda: programs.is_present(pcscd, second))
        pipe = stack.enter_context(PcscPipe(pcscd, second))
        assert pipe.first == "ready"
        assert pipe.transmit(select(b"a name")) == b"one\x90\x00"
        assert pipe.transmit(bytes.fromhex("00B2010C00")) == b"four\x90\x00"
    assert card.commands == [
        select(b"a name")[:-1], bytes.fromhex("00C0000003"), bytes.fromhex("00B2010C00"), bytes.fromhex("00B2010C04"),
    ]  # fmt: skip
    wait_until(lambda: not programs.is_present(pcscd, second))


def test_a_card_of_another_process_needs_only_an_address(pcscd: Pcscd) -> None:
    """As `tapveil serve se --vpcd` has it: the link itself is outside of the service's network here."""
    service = Pcscd()
    slot = cards.Slot(applet())
    try:
        with VpcdLink(service.expose(), lambda: slot):
            wait_until(lambda: slot.resets)
            verify(programs.read_with_opensc(service))
    finally:
        service.close()


def test_a_card_that_leaves_and_a_service_that_crashes_are_lost_cards(pcscd: Pcscd) -> None:
    """With a service and a card of its own. Afterwards the card is found again without anybody's help."""
    service = Pcscd()
    slot = cards.Slot(applet())
    link = VpcdLink("127.0.0.1", lambda: slot)
    try:
        service.inside(link.start)
        wait_until(lambda: slot.resets)
        with PcscPipe(service) as pipe:
            assert pipe.send(select(PPSE)).startswith("answer 6f")
            service.kill()
            assert pipe.send(select(PPSE)) == "lost"
        slot.resets = 0
        service.start()
        wait_until(lambda: slot.resets > 1)
        verify(programs.read_with_link(service))
        with PcscPipe(service) as pipe:
            assert pipe.send(select(PPSE)).startswith("answer 6f")
            link.close()
            assert pipe.send(select(PPSE)) == "lost"
    finally:
        link.close()
        service.close()
