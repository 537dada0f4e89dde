"""A scenario as a value, parsed strictly from TOML.

    name = "five phases"
    [parties]
    phones = 1
    merchants = 2
    [[step]]
    phase = "INIT"
    do = "enroll"
    phone = "phone-1"
    bank = "bank-a"

A step may name its result (`as = "aid"`) and use earlier ones (`aid = "$aid"`). `expect = "CODE"` says that the step
must be refused with this code. A purchase (`do = "pay"`) that is carried out ends in a state of the sale, APPROVED if
`ends` says no other. `do = "declines"` makes a purchase for each reason to decline one, or those in `reasons`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from protocol.errors import REGISTRY, SettingsInvalid
from protocol.types import MAX_CARDS

PHASES: Final = ("INIT", "ATT", "AID", "TID", "CARD", "PAY", "SETTLE", "RENEW", "RECREDIT", "FREEZE", "TRACE")
MAX_STEPS: Final = 1000
BANKS: Final = ("bank-a", "bank-b", "bank-c", "bank-d")
ACTIONS: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    "add-customer": (frozenset({"bank", "phone"}), frozenset({"limit", "currency", "person"})),
    "enroll": (frozenset({"bank", "phone"}), frozenset()),
    "install": (frozenset({"bank", "phone"}), frozenset()),
    "launch": (frozenset({"bank", "phone"}), frozenset()),
    "open-account": (frozenset({"bank", "phone"}), frozenset({"launch", "passcode"})),
    "register": (frozenset({"bank", "phone", "aid"}), frozenset({"maximum", "launch"})),
    "issue": (frozenset({"bank", "phone", "tid"}), frozenset({"number", "launch"})),
    "close": (frozenset({"bank", "phone", "tid"}), frozenset({"launch"})),
    "status": (frozenset({"bank", "phone"}), frozenset({"launch"})),
    "set-pin": (frozenset({"phone", "pin"}), frozenset({"old"})),
    "pay": (
        frozenset({"merchant", "phone", "tid", "amount"}),
        frozenset({"ceiling", "pin", "currency", "ends", "grants"}),
    ),
    "start-sale": (frozenset({"merchant", "amount"}), frozenset({"currency"})),
    "cancel-sale": (frozenset({"merchant", "sale"}), frozenset()),
    "void": (frozenset({"merchant", "sale"}), frozenset()),
    "refund": (frozenset({"merchant", "sale", "amount"}), frozenset()),
    "declines": (frozenset({"merchant", "phone", "tid"}), frozenset({"reasons"})),
    "renew": (frozenset({"phone", "tid", "pool"}), frozenset({"number"})),
    "settle": (frozenset({"merchant"}), frozenset()),
    "claim": (frozenset(), frozenset()),
    "reconcile": (frozenset(), frozenset()),
    "recredit": (frozenset({"bank", "phone", "tid"}), frozenset({"launch", "passcode"})),
    "freeze": (frozenset({"bank", "phone"}), frozenset()),
    "unfreeze": (frozenset({"bank", "phone"}), frozenset()),
    "delete-customer": (frozenset({"bank", "phone"}), frozenset()),
    "freeze-account": (frozenset({"tid"}), frozenset()),
    "unfreeze-account": (frozenset({"tid"}), frozenset()),
    "add-officer": (frozenset({"bank", "officer"}), frozenset()),
    "trace": (frozenset({"merchant", "sale"}), frozenset({"reason", "requester", "ends"})),
    "judge-trace": (frozenset({"bank", "case", "officer"}), frozenset({"verdict"})),
    "verify-log": (frozenset({"bank"}), frozenset()),
    "change-books": (frozenset({"merchant"}), frozenset()),
    "forge-service-key": (frozenset({"phone", "tid"}), frozenset()),
    "swap-card": (frozenset({"merchant", "sale"}), frozenset()),
    "kill": (frozenset({"party"}), frozenset()),
    "start": (frozenset({"party"}), frozenset()),
    "restart": (frozenset({"party"}), frozenset()),
    "tamper-app": (frozenset({"phone"}), frozenset()),
    "restore-app": (frozenset({"phone"}), frozenset()),
    "tamper-platform": (frozenset({"phone"}), frozenset()),
    "wrong-attestation-key": (frozenset({"phone"}), frozenset()),
    "forge-bank-key": (frozenset({"phone", "aid"}), frozenset()),
    "foreign-pass": (frozenset({"phone", "aid"}), frozenset()),
    "forge-card-key": (frozenset({"phone", "tid"}), frozenset()),
}
"""What a step can do: the fields it must have, and those it may have."""
WHOLE: Final = {"amount": 10**12, "ceiling": 10**12, "pool": MAX_CARDS, "number": MAX_CARDS, "grants": 2}
"""Fields that are whole numbers, and the most that they can be."""
TEXTS: Final = (
    "phone",
    "merchant",
    "bank",
    "tid",
    "aid",
    "sale",
    "pin",
    "old",
    "currency",
    "party",
    "officer",
    "case",
    "reason",
    "requester",
    "verdict",
)
_COMMON: Final = frozenset({"phase", "do", "as", "expect", "about"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioStep:
    """One thing that happens. `fields` are the action's own; `expect` is the code of the refusal, or empty."""

    phase: str
    do: str
    fields: Mapping[str, Any]
    name: str = ""
    expect: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole run: what happens between phone-1 …, shop-1 …, bank-a …, one TSM and one software provider."""

    name: str
    phones: int
    merchants: int
    banks: int = 2
    steps: tuple[ScenarioStep, ...] = field(default=())


def load_scenario(path: Path) -> Scenario:
    """Raises: SettingsInvalid, naming file, step and field."""
    try:
        plain = tomllib.loads(path.read_text())
    except OSError as exc:
        raise SettingsInvalid(f"scenario {path} can't be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsInvalid(f"scenario {path} is not TOML: {exc}") from exc
    return parse_scenario(plain, str(path))


def parse_scenario(plain: Mapping[str, Any], where: str) -> Scenario:
    """Raises: SettingsInvalid."""
    unknown = plain.keys() - {"name", "parties", "step"}
    if unknown:
        raise SettingsInvalid(f"{where}: unknown entry {sorted(unknown)[0]!r}")
    parties, steps = plain.get("parties", {}), plain.get("step", [])
    if type(plain.get("name")) is not str or type(parties) is not dict or type(steps) is not list:
        raise SettingsInvalid(f"{where}: wants a text `name`, a table [parties] and [[step]] entries")
    if len(steps) > MAX_STEPS:
        raise SettingsInvalid(f"{where}: {len(steps)} steps, at most {MAX_STEPS}")
    counts = {}
    for name, default, most in (("phones", 1, 100), ("merchants", 2, 100), ("banks", 2, len(BANKS))):
        counts[name] = parties.get(name, default)
        if type(counts[name]) is not int or not 0 <= counts[name] <= most:
            raise SettingsInvalid(f"{where}: [parties] {name} must be 0 to {most}")
    if parties.keys() - counts.keys():
        raise SettingsInvalid(f"{where}: [parties] has only {', '.join(counts)}")
    parsed = tuple(_step(step, f"{where}: step {number}") for number, step in enumerate(steps, start=1))
    return Scenario(name=plain["name"], steps=parsed, **counts)


def _step(plain: Any, where: str) -> ScenarioStep:
    if type(plain) is not dict or plain.get("do") not in ACTIONS:
        raise SettingsInvalid(f"{where}: `do` must be one of {', '.join(sorted(ACTIONS))}")
    if plain.get("phase") not in PHASES:
        raise SettingsInvalid(f"{where}: `phase` must be one of {', '.join(PHASES)}")
    must, may = ACTIONS[plain["do"]]
    given = plain.keys() - _COMMON
    if must - given or given - must - may:
        raise SettingsInvalid(
            f"{where}: {plain['do']} wants {sorted(must)}, may have {sorted(may)}, has {sorted(given)}"
        )
    if plain.get("expect", "") and plain["expect"] not in REGISTRY:
        raise SettingsInvalid(f"{where}: {plain['expect']!r} is no error code")
    _check_values(plain, where)
    return ScenarioStep(
        phase=plain["phase"], do=plain["do"], fields={name: plain[name] for name in given},
        name=str(plain.get("as", "")), expect=str(plain.get("expect", "")), about=str(plain.get("about", "")),
    )  # fmt: skip


def _check_values(plain: Mapping[str, Any], where: str) -> None:
    # Here, since every start of `tapveil` needs this module for the names of the phases.
    from protocol.messages.till import SaleProgress
    from protocol.messages.trace import TraceProgress
    from protocol.roles.tsm.purchase import Reason

    for name in TEXTS:
        if name in plain and type(plain[name]) is not str:
            raise SettingsInvalid(f"{where}: {name} must be a text")
    for name, most in WHOLE.items():
        if name in plain and (type(plain[name]) is not int or not 0 <= plain[name] <= most):
            raise SettingsInvalid(f"{where}: {name} must be a whole number of at most {most}")
    ends = tuple(TraceProgress) if plain["do"] == "trace" else tuple(SaleProgress)
    if plain.get("ends", ends[0]) not in ends:
        raise SettingsInvalid(f"{where}: `ends` must be one of {', '.join(ends)}")
    reasons = plain.get("reasons", [])
    if type(reasons) is not list or any(reason not in tuple(Reason) for reason in reasons):
        raise SettingsInvalid(f"{where}: `reasons` must be a list of {', '.join(Reason)}")
