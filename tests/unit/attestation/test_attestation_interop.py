"""Outside programs: swtpm makes quotes our verifier takes, tpm2_checkquote takes the quotes we make."""

from __future__ import annotations

import shutil
import socket
import subprocess
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.certificate import AttestationKey
from attestation.quote_files import quote_files
from attestation.tpm_client import TpmClient
from attestation.tpm_mtm import TpmMtm, reset_swtpm
from protocol.crypto import PrivateKey
from protocol.errors import QuoteSignatureInvalid, SoftwareChanged
from protocol.types import Purpose, TrustClass

COMPONENTS = (("boot/mrtm", b"root of trust"), ("boot/agent", b"measurement agent"), ("lib/runtime", b"interpreter"))
PACKAGE = b"PK\x03\x04 the wallet, version 1"
KEY = PrivateKey.from_bytes(bytes(31) + b"\x07")
DATA = b"\x11" * 32


@pytest.fixture
def swtpm_mtm(tmp_path):
    """A TPM in a process of its own, over inherited sockets: it opens no port."""
    program = shutil.which("swtpm")
    if program is None:
        pytest.skip("swtpm is not installed")
    data, its_data = socket.socketpair()
    control, its_control = socket.socketpair()
    with data, control:
        with its_data, its_control:
            process = subprocess.Popen(
                [
                    program,
                    "socket",
                    "--tpm2",
                    *("--tpmstate", f"dir={tmp_path}"),
                    *("--fd", str(its_data.fileno())),
                    *("--ctrl", f"type=unixio,clientfd={its_control.fileno()}"),
                    *("--flags", "not-need-init"),
                ],
                pass_fds=(its_data.fileno(), its_control.fileno()),
                stderr=subprocess.DEVNULL,
            )
        try:
            for end in (data, control):
                end.settimeout(20)
            yield TpmMtm(TpmClient(data), lambda: reset_swtpm(control))
        finally:
            process.terminate()
            process.wait(20)


def check(tmp_path, key, quote, pcr10, *, data=DATA):
    """The exit status of tpm2_checkquote."""
    program = shutil.which("tpm2_checkquote")
    if program is None:
        pytest.skip("tpm2_checkquote (tpm2-tools) is not installed")
    files = quote_files(quote, pcr10=pcr10)
    contents = {"message": files.message, "signature": files.signature, "pcr": files.pcr}
    contents["public"] = key
    for file_name, content in contents.items():
        (tmp_path / file_name).write_bytes(content)
    command = [program, "--hash-algorithm", "sha256", "--qualification", data.hex()]
    command += [option for file_name in contents for option in (f"--{file_name}", str(tmp_path / file_name))]
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode


def pem(public):
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public.encoded)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_tpm2_checkquote_reads_software_quotes(world, tmp_path):
    mtm = world.launched().mtm
    quote, key = mtm.quote(DATA), pem(mtm.attestation_key)
    assert check(tmp_path, key, quote, mtm.pcr10()) == 0
    assert check(tmp_path, key, quote, mtm.pcr10(), data=b"\x12" * 32) != 0
    assert check(tmp_path, key, quote, bytes(32)) != 0
    assert check(tmp_path, pem(KEY.public), quote, mtm.pcr10()) != 0
    altered = replace(quote, attest=quote.attest[:-1] + bytes([quote.attest[-1] ^ 1]))
    assert check(tmp_path, key, altered, mtm.pcr10()) != 0


def test_quote_files_have_the_tools_sizes(world):
    # TPML_PCR_SELECTION is 132 bytes as a C structure, TPML_DIGEST 532, with a count before it.
    mtm = world.launched().mtm
    quote = mtm.quote(DATA)
    files = quote_files(quote, pcr10=mtm.pcr10())
    assert (files.message, files.signature) == (quote.attest, quote.signature)
    assert len(files.pcr) == 132 + 4 + 532
    assert files.pcr[:12].hex() == "010000000b00030004000000"
    assert files.pcr[132:142].hex() == "01000000010000002000"
    assert files.pcr[142:174] == mtm.pcr10()
    assert not any(files.pcr[12:132] + files.pcr[174:])


def test_swtpm_is_appraised_by_the_same_verifier(world, swtpm_mtm, refuses):
    mtm = swtpm_mtm
    key = mtm.attestation_key
    phone = world.phone()
    phone.mtm, phone.enrolled = mtm, AttestationKey(public=key, trust_class=TrustClass.EMULATED)
    mtm.start_engine(COMPONENTS)
    assert mtm.attestation_key == key  # the same seed gives the same key after each boot
    assert world.appraise(phone, world.expect(phone, Purpose.ENROLL)).trust_class is TrustClass.EMULATED
    mtm.measure_checked(PACKAGE, world.reference())
    phone.installed_pcr10 = world.appraise(phone, world.expect(phone, Purpose.REPORT)).pcr10
    assert phone.installed_pcr10 == mtm.pcr10() == world.reference().pcr10
    for _ in range(3):
        mtm.start_engine(COMPONENTS)
        mtm.measure_checked(PACKAGE, world.reference())
        assert world.appraise(phone, world.expect(phone, Purpose.LAUNCH))
    refuses(SoftwareChanged, lambda: mtm.measure_checked(PACKAGE + b"!", world.reference()))
    refuses(SoftwareChanged, lambda: world.appraise(phone, world.expect(phone, Purpose.LAUNCH)))
    phone.enrolled = AttestationKey(public=KEY.public, trust_class=TrustClass.EMULATED)
    refuses(QuoteSignatureInvalid, lambda: world.appraise(phone, world.expect(phone, Purpose.LAUNCH)))
    mtm.close()


def test_swtpm_quotes_are_read_by_tpm2_checkquote(swtpm_mtm, tmp_path):
    swtpm_mtm.start_engine(COMPONENTS)
    quote, key = swtpm_mtm.quote(DATA), pem(swtpm_mtm.attestation_key)
    assert check(tmp_path, key, quote, swtpm_mtm.pcr10()) == 0
    assert check(tmp_path, key, quote, bytes(32)) != 0
