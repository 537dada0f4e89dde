"""The payloads of what bank, TSM and SE sign (proto/payloads.cddl, sections 5 and 6), to check replies by field."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from conformance.wire import BadWire, need

Check = Callable[[Any], None]


def octets(low: int, high: int | None = None) -> Check:
    """A byte string of `low` to `high` bytes."""
    top = low if high is None else high

    def check(value: Any) -> None:
        need(type(value) is bytes and low <= len(value) <= top, f"not {low} to {top} bytes")

    return check


def text(pattern: str, longest: int = 64) -> Check:
    """A text that matches as a whole."""

    def check(value: Any) -> None:
        need(type(value) is str and len(value) <= longest and re.fullmatch(pattern, value), f"text is not {pattern}")

    return check


def number(high: int) -> Check:
    """0 to `high`."""

    def check(value: Any) -> None:
        need(type(value) is int and 0 <= value <= high, f"not a number up to {high}")

    return check


def flag(value: Any) -> None:
    """True or false."""
    need(type(value) is bool, "not a boolean")


def record(**fields: Check) -> Check:
    """A map of exactly these fields."""

    def check(value: Any) -> None:
        need(type(value) is dict and set(value) == set(fields), f"fields are not exactly {sorted(fields)}")
        for name, inner in fields.items():
            try:
                inner(value[name])
            except BadWire as exc:
                raise BadWire(f"{name}: {exc}") from exc

    return check


def many(item: Check, low: int, high: int) -> Check:
    """`low` to `high` items."""

    def check(value: Any) -> None:
        need(type(value) is list and low <= len(value) <= high, f"not {low} to {high} items")
        for one in value:
            item(one)

    return check


IDENTIFIER = text("[a-z0-9][a-z0-9.-]{0,63}")
NONCE = DIGEST = KEY = octets(32)
POINT = octets(65)
OBJECT = octets(1, 4096)
SID = octets(1, 1024)
TIME = number(1 << 40)
MINOR = number(10**12)
CURRENCY = text("[A-Z]{3}")
PURPOSE = text("enroll|install|report|launch|account")

CARD = record(
    pan=text("[0-9]{19}"), expires_at_s=TIME, limit_minor=MINOR, currency=CURRENCY,
    controls=record(
        uses=number(1_000_000), per_use_minor=MINOR, total_minor=MINOR, verify_above_minor=MINOR,
        channel=text("[a-z-]+", 16),
    ),
    icc_certificate=octets(1, 512),
    emv=record(
        application=octets(5, 16), fci=octets(1, 254), aip=octets(2), afl=octets(4, 252),
        records=many(record(sfi=number(30), number=number(16), data=octets(1, 254)), 1, 32),
    ),
    k_ac=octets(16),
)  # fmt: skip

SALE = octets(16)
TERMINAL = text("[A-Z0-9]{8}")
DECIDED = record(
    sale=SALE, verdict=text("approved|declined|verify"), merchant=IDENTIFIER, terminal=TERMINAL,
    pan=text("([0-9]{19})?"), atc=number(0xFFFF), unpredictable=octets(0, 4), amount_minor=MINOR,
    currency=text("([A-Z]{3})?"), issuer_data=octets(0, 32), cryptogram=octets(0, 8), response_code=text("[0-9]{2}"),
    arpc=octets(0, 8),
)  # fmt: skip
OPENING = record(
    state=text("CLOSED|OPEN|EXPECT_PIN|VERIFIED|TAPPED"), ceiling_minor=MINOR, expires_at_s=TIME, amount_minor=MINOR,
    currency=text("([A-Z]{3})?"), merchant=text("[ -~]*", 15), terminal=text("[ -~]*", 8),
    merchant_name=text("[ -~]*", 40),
)  # fmt: skip
NAME = text("[a-z0-9.-]+")
CREDIT = record(
    aid=IDENTIFIER, bank=IDENTIFIER, tsm=IDENTIFIER, tid=text("[a-z0-9.-]*"), expires_at_s=TIME, limit_minor=MINOR,
    currency=CURRENCY,
)  # fmt: skip

PAYLOADS: dict[str, Check] = {
    "challenge": record(n_b=NONCE),
    "enrolled": record(certificate=OBJECT, issuer=OBJECT),
    "attestation-decision": record(
        purpose=PURPOSE, allowed=flag, reason=text("[A-Z_]*", 40),
        passes=many(record(aid=IDENTIFIER, launch_pass=octets(1, 2048)), 0, 64),
    ),
    "launch-pass": record(aid=IDENTIFIER, pk_aid=POINT, trust_class=text("software|emulated|hardware")),
    "account-challenge": record(n_u=NONCE, n_b=NONCE, session=octets(16)),
    "aid-certificate": record(
        n_u=NONCE, n_b=NONCE, aid=IDENTIFIER, pk_aid=POINT, ek_aid=POINT, expires_at_s=TIME, limit_minor=MINOR,
        currency=CURRENCY, key_digest=DIGEST,
    ),
    "account-active": record(aid=IDENTIFIER, launch_pass=octets(1, 2048)),
    "grant-approval": record(promise=OBJECT),
    "promise": record(
        sid=SID, aid=IDENTIFIER, com=DIGEST, binfo_digest=DIGEST, n2=NONCE, expires_at_s=TIME, limit_minor=MINOR,
        currency=CURRENCY,
    ),
    "grant-released": record(aid=IDENTIFIER, sid=SID),
    "grant-request": record(
        binfo=OBJECT, sid=SID, aid=IDENTIFIER, com=DIGEST, binfo_digest=DIGEST, n2=NONCE, expires_at_s=TIME,
        limit_minor=MINOR, currency=CURRENCY, key=KEY,
    ),
    "grant-release": record(aid=IDENTIFIER, sid=SID),
    **dict.fromkeys(
        ("claim", "claim-accepted"),
        record(
            aid=IDENTIFIER, sid_digest=DIGEST, sequence=number(1_000_000), claimed_minor=MINOR, credited_minor=MINOR,
            currency=CURRENCY, root=DIGEST, closing=flag,
        ),
    ),
    "list-stops": record(),
    "trace-state": record(case=SALE, progress=text("EXPECT_OFFICERS|ANSWERED|REFUSED"), answer=octets(0, 4096)),
    "stop-list": record(minute_s=TIME, stops=many(record(aid=IDENTIFIER, kind=text("FROZEN|DELETED")), 0, 4096)),
    "service-offer": record(tid=IDENTIFIER, pk_tid=POINT, n_u=NONCE, sid=SID, n_t=NONCE, key=KEY),
    "service-account": record(
        tid=IDENTIFIER, sid=SID, n_u=NONCE, com=DIGEST, expires_at_s=TIME, limit_minor=MINOR, currency=CURRENCY,
        certificate=OBJECT,
    ),
    "tid-certificate": record(tid=IDENTIFIER, pk_tid=POINT, expires_at_s=TIME),
    "account-closed": record(tid=IDENTIFIER, sid=SID),
    "card-challenge": record(tid=IDENTIFIER, n_u=NONCE, n_t=NONCE),
    "cards-issued": record(tid=IDENTIFIER, n_u=NONCE, n_t=NONCE, cards=many(CARD, 1, 32)),
    "cards-active": record(tid=IDENTIFIER, n_t=NONCE, number=number(32), recredit=octets(0, 4096)),
    "recredit-offer": record(
        tid=IDENTIFIER, pk_tid=POINT, n_u=NONCE, sid=SID, n_t=NONCE, reason=text("balance-low"),
    ),
    "signed-on": record(terminal=TERMINAL, terminal_key=POINT, expires_at_s=TIME),
    "authorization-decision": record(decided=DECIDED),
    "authorization-decisions": record(decided=many(DECIDED, 1, 32)),
    "reversed": record(sale=SALE, amount_minor=MINOR, currency=text("([A-Z]{3})?")),
    "refunded": record(sale=SALE, refund=SALE, amount_minor=MINOR, refunded_minor=MINOR, currency=CURRENCY),
    "payout": record(batch=SALE, currency=CURRENCY, total_minor=MINOR),
    "se-opening": record(opening=OPENING),
    "se-pin": record(state=text("[A-Z_]+", 32), entries_left=number(16)),
    "se-state": record(
        open=flag, banks=many(NAME, 0, 16), aids=many(NAME, 0, 64), tids=many(NAME, 0, 64),
        cards=many(text("[0-9*]{19}"), 0, 1024),
        pools=many(record(tid=IDENTIFIER, ready=number(1024), expires_at_s=many(TIME, 0, 1024)), 0, 64),
        credits=many(CREDIT, 0, 64), recredits=many(NAME, 0, 64), pin=text("[A-Z_]+", 32), opening=OPENING,
    ),
}  # fmt: skip
