"""A person with accounts at two banks, and a TSM that asks for further credit (design §3 RECREDIT)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from support.counter import Counter
from support.customer import Customer
from support.skimmer import shopper
from support.world import PASSCODE, SOFTWARE, World

from protocol.messages.se import SeService
from protocol.messages.se_state import SeState
from protocol.roles.se.tables import RECREDITS, Recredit
from protocol.roles.tsm.tables import TID_LIST, TidEntry
from protocol.roles.wallet import recredit, status
from protocol.rows import Decision, Unit, Update

TSM, BANK, OTHER = "tsm-1", "bank-a", "bank-b"


@dataclass
class Person(Customer):
    """A customer whose phone is registered at both banks, with a service account on credit of the first."""

    @classmethod
    def come(cls, world: World, number: int = 2) -> Person:
        customer = Customer.come(world, number=number)
        return cls._of(world, customer)

    @classmethod
    def come_as(cls, world: World, name: str) -> Person:
        """Another one, who stands at no counter of their own."""
        phone, tid = shopper(world, name)
        return cls(world=world, counter=Counter.open(world, number=2), phone=phone, tid=tid)

    @classmethod
    def _of(cls, world: World, customer: Customer) -> Person:
        world.init(customer.phone, OTHER)
        world.install(customer.phone, OTHER)
        assert world.launch(customer.phone, OTHER) == ""
        return cls(world=world, counter=customer.counter, phone=customer.phone, tid=customer.tid)

    @classmethod
    def asked(cls, world: World, left_minor: int = 5_000) -> Person:
        """With so much left at the first bank that the TSM asks."""
        person = cls.come(world)
        person.leave(BANK, left_minor)
        person.world.cards(person.phone, person.tid, number=1)
        assert person.offer().state == "OFFERED"
        return person

    @classmethod
    def with_two(cls, world: World, left_minor: int = 5_000) -> Person:
        """Who took credit of the second bank."""
        person = cls.asked(world, left_minor)
        assert person.recredit().state == "ACTIVE"
        return person

    # --- what happens ----------------------------------------------------------------------------------------------
    def leave(self, bank: str, left_minor: int) -> None:
        """As if all but so much of the bank's credit had been spent."""
        grant = self.grants()[bank]
        spent = replace(grant, spent_minor=grant.aid_limit_minor - left_minor)
        store = self.world.parties[TSM].store
        store.apply(Unit((), lambda rows: Decision(writes=(Update(TID_LIST, spent),))))

    def recredit(self, bank: str = OTHER) -> SeService:
        flow = recredit(
            self.phone.wallet, tsm=TSM, tid=self.tid, bank=bank, software=SOFTWARE, passcode=PASSCODE
        )  # fmt: skip
        return self.world.run(self.phone, flow)

    # --- rows ------------------------------------------------------------------------------------------------------
    def grants(self) -> dict[str, TidEntry]:
        """The TSM's grants of this person, by bank."""
        return {row.bank: row for row in self.world.parties[TSM].store.scan(TID_LIST) if row.tid == self.tid}

    def left(self) -> dict[str, int]:
        return {bank: row.aid_limit_minor - row.spent_minor for bank, row in self.grants().items()}

    def offer(self) -> Recredit:
        (row,) = self.phone.party.store.scan(RECREDITS)
        return row

    def shown(self) -> SeState:
        return self.world.run(self.phone, status(self.phone.wallet))
