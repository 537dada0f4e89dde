"""What comes of a bundle of evidence: a finding for each statement, and what even a good bundle does not prove."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.errors import EvidenceIncomplete
from protocol.evidence.bundle import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Who signed what, and when by their own clock."""

    message: str
    signer: str
    role: str
    at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One statement: proved, and then what it says and by whose signatures; or not, and why not.

    `reason` is the first link that does not hold, with the code of what is wrong with it.
    """

    statement: Statement
    proved: bool
    reason: str = ""
    says: tuple[tuple[str, str | int], ...] = ()
    signatures: tuple[Signature, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A finding for each statement that is claimed, and all that the bundle does not prove."""

    findings: tuple[Finding, ...]
    not_proved: tuple[str, ...]

    def require(self) -> Verdict:
        """The same, if all that is claimed is proved. Raises: EvidenceIncomplete, naming the first link."""
        for finding in self.findings:
            if not finding.proved:
                raise EvidenceIncomplete(f"{finding.statement.value}: {finding.reason}")
        return self


CARDS: Final = frozenset({Statement.ISSUANCE, Statement.PURCHASE})
OWN_EMV_CA: Final = "that the card scheme's CA certified the card's issuer: the CA's key is the bundle's own (--emv-ca)"
LIMITS: Final[dict[Statement, tuple[str, ...]]] = {
    Statement.REGISTRATION: (
        "who the person behind the AID is: only the bank knows, and names them by a trace",
        "that the AID's own key signed for this account: that is the bank's word, in its promise",
        "that the grant is still open, and what is left of it",
    ),
    Statement.ISSUANCE: (
        "that the card was activated, or that the EMV issuer's key is the TSM's",
    ),
    Statement.PURCHASE: (
        "that goods were delivered, or that the merchant was paid",
        "that the phone's owner held it: a tap can be relayed",
        "that no reversal or refund came later",
    ),
    Statement.RECEIPT: (
        "that a card was there: a receipt is the TSM's word",
        "that goods were delivered",
        "that no reversal or refund came later",
    ),
    Statement.PAYOUT: ("that money has moved: a payout is the TSM's word",),
    Statement.CLAIM: (
        "that the bank has paid",
        "how much of the claimed totals this purchase is",
    ),
}  # fmt: skip
ALWAYS: Final = (
    "when it happened: times are the signers' own clocks",
    "that no key was stolen, or certificate withdrawn, by then or since",
    "that nothing else happened: who made the bundle chose what is in it",
)


def limits_of(statements: Iterable[Statement], *, own_emv_ca: bool) -> tuple[str, ...]:
    """All that a bundle with these statements does not prove; `own_emv_ca` if the EMV CA's keys are its own."""
    claimed = tuple(statements)
    own = (OWN_EMV_CA,) if own_emv_ca and CARDS & set(claimed) else ()
    limits = (limit for statement in claimed for limit in LIMITS[statement])
    return tuple(dict.fromkeys((*own, *limits, *ALWAYS)))
