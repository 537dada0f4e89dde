"""INIT-2: a person opens a credit account at a branch and gets a one-time branch code."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.ports import Entropy
from protocol.roles.bank.party import Bank
from protocol.roles.bank.tables import CUSTOMERS, Customer
from protocol.roles.party import expect_state
from protocol.rows import Decision, Insert, Key, Rows, Unit, Update

_ALPHABET: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""32 characters that are not mistaken for one another on paper."""
_CODE_CHARACTERS: Final = 26


def new_branch_code(entropy: Entropy) -> str:
    """A one-time code of 130 random bits, in groups of thirteen."""
    code = "".join(_ALPHABET[byte % 32] for byte in entropy.bytes(_CODE_CHARACTERS))
    return f"{code[:13]}-{code[13:]}"


def open_customer(
    bank: Bank, *, name: str, passcode_hash: bytes, limit_minor: int, currency: str, branch_code: str,
    now_s: int, entropy: Entropy,
) -> Unit:  # fmt: skip
    """The unit that opens a credit account; `limit_minor` is in minor units of `currency`."""
    customer = Customer(
        customer=f"u-{entropy.bytes(16).hex()}",
        name=name,
        branch_ref=bank.secrets.blind("branch-code", branch_code.encode()),
        branch_expires_at_s=now_s + bank.policy.branch_code_life_s,
        passcode_hash=passcode_hash,
        wrong_entries=0,
        state="EXPECT_PHONE",
        currency=currency,
        limit_minor=limit_minor,
        granted_minor=0,
        stop="",
    )

    def decide(rows: Rows) -> Decision:
        return Decision(writes=(Insert(CUSTOMERS, customer),), reply=customer)

    return Unit((), decide)


def reopen_customer(customer: str) -> Unit:
    """TW-G3b: after five wrong entries the bank confirms the person and reopens. Raises: WrongState."""

    def decide(rows: Rows) -> Decision:
        row = rows.get(CUSTOMERS, customer)
        expect_state("UNKNOWN" if row is None else row.state, "LOCKED")
        assert row is not None
        reopened = replace(row, state="ENROLLED", wrong_entries=0)
        return Decision(writes=(Update(CUSTOMERS, reopened),), reply=reopened)

    return Unit((Key(CUSTOMERS, (customer,)),), decide)
