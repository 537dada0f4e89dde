"""One credit lent twice: an AID granted to two sessions or to two TSMs, AIDs beyond the credit line (paper §2.5)."""

from __future__ import annotations

from dataclasses import replace

from support.attacker import CorruptTsm, ForeignTid, Hiding, Owner, overwriting, read, refused, swap
from support.world import World

from protocol.errors import AccountLimitReached, AidAlreadyGranted, FieldMismatch
from protocol.messages.service import TsmInfo
from protocol.ports import Entropy
from protocol.roles.bank.account import CertifyAccountStep
from protocol.roles.bank.grant import ApproveGrantStep, Granting
from protocol.roles.bank.party import BankPolicy
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CUSTOMERS, GRANTS, LIVE_GRANTS
from protocol.roles.tsm.tables import TID_LIST
from protocol.rows import Decision, Rows


class NoUniqueAid(ApproveGrantStep):
    """A bank without UNIQUE(AID) over live grants, and that does not ask for an earlier grant's closing claim."""

    def decide(self, rows: Rows, facts: Granting, now_s: int, entropy: Entropy) -> Decision:
        return overwriting(super().decide(Hiding(rows, LIVE_GRANTS, GRANTS), facts, now_s, entropy), rows)


def lent(world: World, aid: str) -> int:
    """What all TSMs together believe they may take on credit of `aid`, in minor units."""
    rows = (row for tsm in ("tsm-1", "tsm-2") for row in world.parties[tsm].store.scan(TID_LIST))
    return sum(row.aid_limit_minor for row in rows if row.aid == aid and row.state == "ACTIVE")


def test_one_aid_in_two_sessions(world: World) -> None:
    """Attack: the wallet has its SE register one AID under two TIDs. Powers: the wallet key. Formal: core_nouniq.
    Closed by: UNIQUE(AID) over live grants (ADR-0012). Variant: the credit is there twice."""
    phone = world.ready()
    aid = world.account(phone)
    world.service(phone, aid)
    once = lent(world, aid)
    with refused(world, AidAlreadyGranted, "AID_ALREADY_GRANTED", unchanged=("bank-a",)):
        world.service(phone, aid)
    assert lent(world, aid) == once

    swap(world, "bank-a", NoUniqueAid)
    world.service(phone, aid)
    assert lent(world, aid) == 2 * once


def test_one_aid_at_two_tsms(world: World) -> None:
    """Attack: a customer with a pass for the honest tsm-2 first lets the corrupt tsm-1 take the grant. Powers: tsm-1
    with its keys, the AID's keys. Formal: core_nouniq, grant. Closed by: UNIQUE(AID) over live grants.
    Variant: both TSMs hold the bank's promise."""
    phone = world.ready()
    aid = world.account(phone, tsm="tsm-2")
    owner = Owner.of(world, phone, aid)
    accomplice, session = CorruptTsm(world, "tsm-1"), ForeignTid.make(world, tsm="tsm-1").open()
    proof = session.proof(owner)
    first = accomplice.ask("bank-a", accomplice.question(read(TsmInfo, proof.tsminfo), proof.binfo))
    with refused(world, AidAlreadyGranted, "AID_ALREADY_GRANTED", unchanged=("bank-a", "tsm-1")):
        world.service(phone, aid, tsm="tsm-2")
    assert lent(world, aid) == 0

    swap(world, "bank-a", NoUniqueAid)
    world.service(phone, aid, tsm="tsm-2")
    assert (first.aid, first.limit_minor) == (aid, lent(world, aid))


def test_the_secure_element_keeps_an_aid_to_its_tsm(world: World) -> None:
    """Attack: the wallet has its SE make BINFO for another TSM than the one named in AID-5. Powers: the wallet key.
    Formal: core_nouniq. Closed by: the SE too, before the bank is asked."""
    phone = world.ready()
    aid = world.account(phone, tsm="tsm-1")
    with refused(world, FieldMismatch, "FIELD_MISMATCH", unchanged=("bank-a", "tsm-2")):
        world.service(phone, aid, tsm="tsm-2")


class Generous(BankPolicy):
    """A bank that does not count what it has granted."""

    def limit_minor(self, room_minor: int) -> int:
        return max(self.limit_buckets_minor)


def test_accounts_together_stay_within_the_credit_line(world: World) -> None:
    """Attack: a customer opens anonymous accounts beyond the credit line. Powers: the wallet key. Formal: amounts are
    outside the models. Closed by: Σ grants ≤ limit under the account's lock (TID-5). Variant: the accounts
    outgrow the line."""
    phone = world.ready()
    (customer,) = world.parties["bank-a"].store.scan(CUSTOMERS)
    for _ in range(customer.limit_minor // 500_000):
        world.account(phone)
    bank = world.parties["bank-a"]
    before = bank.store.scan(ANONYMOUS_ACCOUNTS), bank.store.scan(CUSTOMERS)
    with refused(world, AccountLimitReached, "ACCOUNT_LIMIT_REACHED", unchanged=("tsm-1",)):
        world.account(phone)
    assert (bank.store.scan(ANONYMOUS_ACCOUNTS), bank.store.scan(CUSTOMERS)) == before

    swap(world, "bank-a", CertifyAccountStep, replace(bank.value, policy=Generous()))
    world.account(phone)
    assert sum(account.limit_minor for account in bank.store.scan(ANONYMOUS_ACCOUNTS)) > customer.limit_minor
