"""Evidence that is wrong in one respect, and the code that says so (paper §2.3; INIT-3, ATT-D7, ATT-L6, AID-5)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conformance.bundle import Measured
from conformance.phone import Phone
from conformance.tpm import BANK_10, SHA1, SHA256, ST_CERTIFY, Forgery, listing

Arguments = dict[str, Any]


@dataclass(frozen=True)
class EvidenceForgery:
    """`how` gives the arguments of `Phone.evidence` that make it wrong."""

    code: str
    how: Callable[[Phone, str, Phone], Arguments]

    def make(self, phone: Phone, purpose: str, n_b: bytes, *, other: Phone, requested_key: bytes = b"") -> Arguments:
        """The evidence."""
        return phone.evidence(purpose, n_b, **{"requested_key": requested_key, **self.how(phone, purpose, other)})


def _quoted(code: str = "QUOTE_NOT_FRESH", **fields: Any) -> EvidenceForgery:
    return EvidenceForgery(code, lambda _phone, _purpose, _other: {"quoted": fields})


def _forged(code: str, **how: Any) -> EvidenceForgery:
    return EvidenceForgery(code, lambda _phone, _purpose, _other: {"forged": Forgery(**how)})


def _shown(code: str, change: Callable[[list[Measured]], bytes]) -> EvidenceForgery:
    """Another list than the one that was measured."""
    return EvidenceForgery(code, lambda phone, purpose, _other: {"shown": change(phone.measured(purpose))})


def _entries(code: str, change: Callable[[list[Measured], list[Measured]], list[Measured]]) -> EvidenceForgery:
    """Another list, truthfully measured and quoted: `change` gets platform and what follows it."""

    def how(phone: Phone, purpose: str, _other: Phone) -> Arguments:
        count = len(phone.platform)
        events = phone.measured(purpose)
        return {"entries": change(events[:count], events[count:])}

    return EvidenceForgery(code, how)


def _changed(entries: list[Measured], place: int) -> list[Measured]:
    after = list(entries)
    after[place] = Measured(entries[place].path, os.urandom(32))
    return after


def _bit(data: bytes) -> bytes:
    """One bit of a digest in the list: a hexadecimal digit becomes another."""
    at = data.index(b"sha256:") + 10
    return data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :]


EXTRA = Measured("app/extra", bytes(32))

PLATFORM_FORGERIES: dict[str, EvidenceForgery] = {
    "quote_over_another_nonce_of_the_bank": _quoted(n_b=bytes(32)),
    "quote_over_another_nonce_of_the_phone": _quoted(n_am=bytes(32)),
    "quote_for_another_purpose": _quoted(purpose="pay"),
    "quote_for_another_bank": _quoted(bank="bank-x"),
    "quote_for_another_user": _quoted(user="u-x"),
    "quote_for_other_software": _quoted(software="other-wallet"),
    "quote_for_another_key": _quoted(requested_key=b"\4" + bytes(64)),
    "quote_relayed_from_another_phone": EvidenceForgery(
        "QUOTE_SIGNATURE_INVALID", lambda _phone, _purpose, other: {"attestation": other.keys.attestation}
    ),
    "quote_that_names_another_signer": EvidenceForgery(
        "QUOTE_SIGNATURE_INVALID",
        lambda _phone, _purpose, other: {"forged": Forgery(signer_named=other.keys.attestation.point)},
    ),
    "quote_with_an_altered_signature": _forged("QUOTE_SIGNATURE_INVALID", flip_signature=True),
    "quote_of_another_magic": _forged("EVIDENCE_MALFORMED", magic=0xFF544348),
    "quote_that_is_another_structure": _forged("EVIDENCE_MALFORMED", kind=ST_CERTIFY),
    "quote_with_trailing_bytes": _forged("EVIDENCE_MALFORMED", trailing=b"\0"),
    "quote_of_another_pcr": _forged("PCR_SELECTION_INVALID", selection=((SHA256, bytes.fromhex("000001")),)),
    "quote_of_one_pcr_more": _forged("PCR_SELECTION_INVALID", selection=((SHA256, bytes.fromhex("000401")),)),
    "quote_of_no_pcr": _forged("PCR_SELECTION_INVALID", selection=()),
    "quote_of_another_bank": _forged("PCR_SELECTION_INVALID", selection=((SHA1, BANK_10[1]),)),
    "quote_of_two_banks": _forged("PCR_SELECTION_INVALID", selection=(BANK_10, (SHA1, BANK_10[1]))),
    "quote_with_a_digest_of_another_algorithm": _forged("PCR_SELECTION_INVALID", digest=bytes(20)),
    "list_that_was_not_measured": _shown("MEASUREMENT_LIST_MISMATCH", lambda events: listing(_changed(events, -1))),
    "list_cut_short": _shown("MEASUREMENT_LIST_MISMATCH", lambda events: listing(events[:-1])),
    "list_out_of_order": _shown("MEASUREMENT_LIST_MISMATCH", lambda events: listing(events[::-1])),
    "list_with_an_altered_digit": _shown("EVIDENCE_MALFORMED", lambda events: _bit(listing(events))),
    "list_without_its_last_newline": _shown("EVIDENCE_MALFORMED", lambda events: listing(events)[:-1]),
    "list_that_is_none": _shown("EVIDENCE_MALFORMED", lambda _events: b"\xff\n"),
    "list_with_a_line_twice": _shown("EVIDENCE_MALFORMED", lambda events: listing([*events, events[-1]])),
    "changed_platform": _entries("PLATFORM_CHANGED", lambda platform, rest: _changed(platform, 0) + rest),
    "platform_cut_short": _entries("PLATFORM_CHANGED", lambda platform, rest: platform[:-1] + rest),
    "platform_out_of_order": _entries("PLATFORM_CHANGED", lambda platform, rest: platform[::-1] + rest),
    "nothing_measured": _entries("PLATFORM_CHANGED", lambda _platform, _rest: []),
}
"""Wrong for every purpose."""

BEFORE_INSTALLATION: dict[str, EvidenceForgery] = {
    "more_than_the_platform": _entries("PLATFORM_CHANGED", lambda platform, _rest: [*platform, EXTRA]),
}
"""Wrong where no software runs yet: INIT-3, ATT-D6."""

SOFTWARE_FORGERIES: dict[str, EvidenceForgery] = {
    "changed_software": _entries("SOFTWARE_CHANGED", lambda platform, rest: platform + _changed(rest, 0)),
    "software_measured_under_another_path": _entries(
        "SOFTWARE_UNKNOWN", lambda platform, rest: [*platform, Measured("app/other", rest[0].digest)]
    ),
    "no_software": _entries("SOFTWARE_UNKNOWN", lambda platform, _rest: platform),
    "more_than_the_software": _entries("SOFTWARE_UNKNOWN", lambda platform, rest: [*platform, *rest, EXTRA]),
    "something_before_the_software": _entries("SOFTWARE_UNKNOWN", lambda platform, rest: [*platform, EXTRA, *rest]),
    "software_after_a_changed_start": _entries(
        "SOFTWARE_CHANGED", lambda platform, rest: [*platform, *_changed(rest, 0), *rest]
    ),
}
"""Wrong where the software runs: ATT-D7, ATT-L6, AID-5."""
