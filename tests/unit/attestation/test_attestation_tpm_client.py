"""The TPM client against a TPM in memory: commands byte by byte, and every way an answer can be wrong."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.certificate import AttestationKey
from attestation.marshal import Reader, sized
from attestation.measurement import MeasurementList
from attestation.tpm import (
    KEY_TEMPLATE,
    POLICY_SELECTION,
    Attest,
    ClockInfo,
    encode_selection,
    name,
    public_area,
    qualified_name,
    read_selection,
    sign_attest,
    verify_attest,
)
from attestation.tpm_client import MAX_RESPONSE_BYTES, LoadedKey, TpmClient
from attestation.tpm_mtm import TpmMtm, reset_swtpm
from protocol.crypto import PrivateKey, sha256
from protocol.errors import EvidenceMalformed, Internal, MeasurementListMismatch, ProtocolError, Unavailable
from protocol.types import Purpose, TrustClass

COMPONENTS = (("boot/mrtm", b"root of trust"), ("boot/agent", b"measurement agent"), ("lib/runtime", b"interpreter"))
PACKAGE = b"PK\x03\x04 the wallet, version 1"
KEY = PrivateKey.from_bytes(bytes(31) + b"\x07")
HANDLE = 0x80000000
PASSWORD = bytes.fromhex("00000009 40000009 0000 00 0000")
CODES = {"startup": 0x144, "create": 0x131, "read": 0x17E, "extend": 0x182, "quote": 0x158, "flush": 0x165}


def answer(body=b"", *, sessions=False, rc=0):
    """A response of Part 1 §18: with sessions, the parameters are counted and an authorization follows."""
    if sessions:
        handle, parameters = body
        body = handle + len(parameters).to_bytes(4) + parameters + bytes.fromhex("0000 01 0000")
    tag = 0x8002 if sessions else 0x8001
    return tag.to_bytes(2) + (10 + len(body)).to_bytes(4) + rc.to_bytes(4) + body


@dataclass
class MemoryTpm:
    """The six commands, over the transport's two methods. `chunk` bytes are handed out at a time."""

    chunk: int = MAX_RESPONSE_BYTES
    pcr10: bytes = bytes(32)
    resets: int = 0
    started: bool = False
    loaded: bool = False
    log: list[bytes] = field(default_factory=list)
    pending: bytes = b""

    def power_cycle(self):
        self.started, self.loaded = False, False

    def sendall(self, data, /):
        self.log.append(data)
        self.pending += self.execute(data)

    def recv(self, size, /):
        part, self.pending = self.pending[: min(size, self.chunk)], self.pending[min(size, self.chunk) :]
        return part

    def execute(self, data):
        reader = Reader(data)
        tag, size, code = reader.uint(2), reader.uint(4), reader.uint(4)
        assert size == len(data)
        handle = None
        if tag == 0x8002:
            handle = reader.uint(4)
            assert reader.take(len(PASSWORD)) == PASSWORD
        commands = {value: name for name, value in CODES.items()}
        response = getattr(self, commands[code])(reader, handle)
        reader.end()
        return response

    def startup(self, reader, handle):
        assert (reader.uint(2), handle) == (0, None)
        if self.started:
            return answer(rc=0x100)
        self.started, self.pcr10, self.resets = True, bytes(32), self.resets + 1
        return answer()

    def create(self, reader, handle):
        assert handle == 0x4000000B
        assert reader.take(6) == bytes.fromhex("0004 0000 0000")
        assert reader.sized(low=0, high=100) == KEY_TEMPLATE
        assert reader.take(6) == bytes.fromhex("0000 00000000")
        if self.loaded:
            return answer(rc=0x902)  # TPM_RC_OBJECT_MEMORY: the slot was not flushed
        self.loaded = True
        return answer((HANDLE.to_bytes(4), self.created()), sessions=True)

    def created(self):
        ticket = bytes.fromhex("8021 4000000b") + sized(bytes(32))
        return sized(public_area(KEY.public)) + sized(b"data") + sized(bytes(32)) + ticket + sized(name(KEY.public))

    def read(self, reader, handle):
        selection = read_selection(reader)
        return answer((7).to_bytes(4) + encode_selection(selection) + (1).to_bytes(4) + sized(self.pcr10))

    def extend(self, reader, handle):
        assert handle == 10
        assert reader.take(6) == bytes.fromhex("00000001 000b")
        self.pcr10 = hashlib.sha256(self.pcr10 + reader.take(32)).digest()
        return answer((b"", b""), sessions=True)

    def quote(self, reader, handle):
        assert handle == HANDLE
        extra_data = reader.sized(low=0, high=64)
        assert reader.uint(2) == 0x10
        attest = Attest(
            qualified_signer=qualified_name(KEY.public),
            extra_data=extra_data,
            clock_info=ClockInfo(clock_ms=1, reset_count=self.resets, restart_count=0, safe=False),
            firmware_version=1,
            selection=read_selection(reader),
            pcr_digest=sha256(self.pcr10),
        )
        signed = sign_attest(attest, KEY)
        return answer((b"", sized(signed.attest) + signed.signature), sessions=True)

    def flush(self, reader, handle):
        assert reader.uint(4) == HANDLE
        self.loaded = False
        return answer()


class Says:
    """A transport that answers the same bytes whatever is asked."""

    def __init__(self, response):
        self.response = response
        self.pending = b""

    def sendall(self, data, /):
        self.pending = self.response

    def recv(self, size, /):
        part, self.pending = self.pending[:size], self.pending[size:]
        return part


class Broken:
    """A transport whose socket fails."""

    def sendall(self, data, /):
        raise TimeoutError

    def recv(self, size, /):
        raise AssertionError


LOADED = LoadedKey(handle=HANDLE, public=KEY.public)
COMMANDS = {
    "startup": lambda client: client.startup(),
    "create": lambda client: client.create_attestation_key(),
    "read": lambda client: client.read_pcr10(),
    "extend": lambda client: client.extend_pcr10(bytes(32)),
    "quote": lambda client: client.quote(LOADED, bytes(32)),
    "flush": lambda client: client.flush(LOADED),
}


def good_answer(command):
    """The answer the TPM in memory gives to `command`."""
    tpm = MemoryTpm()
    COMMANDS[command](TpmClient(tpm))
    return tpm.execute(tpm.log[0]) if command != "create" else MemoryTpm().execute(tpm.log[0])


@pytest.fixture
def tpm():
    return MemoryTpm()


@pytest.fixture
def mtm(tpm):
    return TpmMtm(TpmClient(tpm), tpm.power_cycle)


@pytest.mark.parametrize("chunk", [1, 3, 11, MAX_RESPONSE_BYTES])
def test_one_verifier_serves_both(world, chunk):
    tpm = MemoryTpm(chunk=chunk)
    mtm = TpmMtm(TpmClient(tpm), tpm.power_cycle)
    mtm.start_engine(COMPONENTS)
    mtm.measure_checked(PACKAGE, world.reference())
    assert mtm.pcr10() == tpm.pcr10 == world.reference().pcr10
    phone = world.phone()
    phone.mtm, phone.installed_pcr10 = mtm, mtm.pcr10()
    phone.enrolled = AttestationKey(public=mtm.attestation_key, trust_class=TrustClass.EMULATED)
    appraisal = world.appraise(phone, world.expect(phone, Purpose.LAUNCH))
    assert (appraisal.trust_class, appraisal.clock_info.reset_count) == (TrustClass.EMULATED, 2)
    phone.mtm.start_engine(COMPONENTS)
    phone.mtm.measure_checked(PACKAGE, world.reference())
    assert world.appraise(phone, world.expect(phone, Purpose.LAUNCH)).clock_info.reset_count == 3


def test_what_cannot_be_named_spoils_the_boot(world, mtm, refuses):
    mtm.start_engine(COMPONENTS)
    refuses(EvidenceMalformed, lambda: mtm.measure("", b""))
    phone = world.phone()
    phone.mtm, phone.enrolled = mtm, replace(phone.enrolled, public=mtm.attestation_key)
    refuses(MeasurementListMismatch, lambda: world.appraise(phone, world.expect(phone, Purpose.ENROLL)))


def test_slot_is_freed(tpm, mtm):
    assert tpm.loaded
    mtm.close()
    assert not tpm.loaded


def test_full_slots_are_told(tpm, mtm, refuses):
    refused = refuses(Internal, lambda: TpmMtm(TpmClient(tpm), tpm.power_cycle))
    assert "0x00000902" in str(refused)


def test_restarted_process_takes_up_the_list(tpm, mtm):
    mtm.start_engine(COMPONENTS)
    mtm.close()
    again = TpmMtm(TpmClient(tpm), tpm.power_cycle, MeasurementList.from_bytes(mtm.measurements.to_bytes()))
    attest = verify_attest(again.quote(bytes(32)), again.attestation_key)
    assert attest.pcr_digest == sha256(again.measurements.replay())


def test_commands_byte_by_byte(tpm, mtm):
    mtm.start_engine(())
    mtm.measure("a", b"")
    mtm.quote(b"\x11" * 32)
    mtm.pcr10()
    mtm.close()
    template = mtm.measurements.entries[0].template_digest.hex()
    selection = "00000001 000b 03 000400"
    assert tpm.log[-4:] == [
        bytes.fromhex(f"8002 00000041 00000182 0000000a {PASSWORD.hex()} 00000001 000b {template}"),
        bytes.fromhex(f"8002 00000049 00000158 80000000 {PASSWORD.hex()} 0020 {'11' * 32} 0010 {selection}"),
        bytes.fromhex(f"8001 00000014 0000017e {selection}"),
        bytes.fromhex("8001 0000000e 00000165 80000000"),
    ]
    assert tpm.log[0] == bytes.fromhex("8001 0000000c 00000144 0000")


@pytest.mark.parametrize("command", COMMANDS)
def test_refusal_by_the_tpm_is_told(refuses, command):
    refused = refuses(Internal, lambda: COMMANDS[command](TpmClient(Says(answer(rc=0x101)))))
    assert "0x00000101" in str(refused)


@pytest.mark.parametrize("command", COMMANDS)
def test_unreachable_is_not_untrusted(refuses, command):
    refuses(Unavailable, lambda: COMMANDS[command](TpmClient(Broken())))
    refuses(Unavailable, lambda: COMMANDS[command](TpmClient(Says(b""))))
    refuses(Unavailable, lambda: COMMANDS[command](TpmClient(Says(good_answer(command)[:-1]))))


@pytest.mark.parametrize("command", COMMANDS)
def test_answer_of_another_form_is_refused(refuses, command):
    good = good_answer(command)
    COMMANDS[command](TpmClient(Says(good)))

    def counted(body):
        return good[:2] + (10 + len(body)).to_bytes(4) + good[6:10] + body

    other_tag = bytes([good[0], 3 - good[1]])
    for bad in (
        other_tag + good[2:],
        counted(good[10:] + b"\0"),
        good + b"\0",  # longer than it says
        good[:2] + (9).to_bytes(4) + good[6:],
        good[:2] + (MAX_RESPONSE_BYTES + 1).to_bytes(4) + good[6:],
    ):
        refuses(EvidenceMalformed, lambda: COMMANDS[command](TpmClient(Says(bad))))  # noqa: B023
    for size in range(len(good) - 10):
        refuses(EvidenceMalformed, lambda: COMMANDS[command](TpmClient(Says(counted(good[10 : 10 + size])))))  # noqa: B023


def with_parameters(change, handle=b""):
    return Says(answer((handle, change), sessions=True))


def test_session_of_another_form_is_refused(refuses):
    good = good_answer("extend")
    for tail in ("0001 01 0000", "0000 01 0001"):
        bad = good[:-5] + bytes.fromhex(tail)
        refuses(EvidenceMalformed, lambda: TpmClient(Says(bad)).extend_pcr10(bytes(32)))  # noqa: B023


def test_key_of_another_kind_or_name_is_refused(refuses):
    created = MemoryTpm().created()
    other = public_area(PrivateKey.from_bytes(bytes(31) + b"\x08").public)
    handle = HANDLE.to_bytes(4)
    assert TpmClient(with_parameters(created, handle)).create_attestation_key() == LOADED
    for bad in (
        created.replace(public_area(KEY.public), other),  # its Name is another's
        created.replace(bytes.fromhex("00050472"), bytes.fromhex("00040472")),  # not restricted
        created + b"\0",
    ):
        assert bad != created
        refuses(EvidenceMalformed, lambda: TpmClient(with_parameters(bad, handle)).create_attestation_key())  # noqa: B023


def test_bank_the_tpm_does_not_have_is_refused(refuses):
    counter, none = (7).to_bytes(4), (0).to_bytes(4)
    empty = bytes.fromhex("00000001 000b 03 000000")
    policy = encode_selection(POLICY_SELECTION)
    value = (1).to_bytes(4) + sized(bytes(32))
    assert TpmClient(Says(answer(counter + policy + value))).read_pcr10() == bytes(32)
    for bad in (
        counter + empty + none,
        counter + policy + none,
        counter + empty + value,
        counter + policy + (1).to_bytes(4) + sized(bytes(20)),
        counter + policy + value + b"\0",
    ):
        refuses(EvidenceMalformed, lambda: TpmClient(Says(answer(bad))).read_pcr10())  # noqa: B023


def test_quote_with_short_signature_parts_is_padded(refuses):
    attest = b"attested"
    parameters = sized(attest) + bytes.fromhex("0018 000b 0001 05 0001 06")
    quote = TpmClient(with_parameters(parameters)).quote(LOADED, bytes(32))
    assert quote.signature == bytes.fromhex("0018 000b 0020") + bytes(31) + b"\x05\0\x20" + bytes(31) + b"\x06"
    refuses(EvidenceMalformed, lambda: TpmClient(with_parameters(parameters + b"\0")).quote(LOADED, bytes(32)))


@given(st.sampled_from(sorted(COMMANDS)), st.binary(max_size=120), st.booleans())
def test_client_raises_only_refusals(command, body, sessions):
    response = answer((b"", body), sessions=True) if sessions else answer(body)
    try:
        COMMANDS[command](TpmClient(Says(response)))
    except ProtocolError:
        return


def test_reset_of_swtpm(refuses):
    class OneByteAtATime(Says):
        def recv(self, size, /):
            return super().recv(1)

    reset_swtpm(OneByteAtATime(bytes(4)))
    refuses(Internal, lambda: reset_swtpm(Says(b"\0\0\0\x0a")))
    refuses(Unavailable, lambda: reset_swtpm(Says(b"\0\0")))
    refuses(Unavailable, lambda: reset_swtpm(Broken()))
