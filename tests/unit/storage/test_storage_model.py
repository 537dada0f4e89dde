"""The store over a database does what the store in memory does, unit by unit, whatever shares a batch."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import LimitExceeded
from protocol.rows import Conflict, Decision, Delete, Insert, Key, MemoryStore, Unit, Update, Where

NUMBERS = st.integers(0, 4)
NAMES = st.sampled_from(["ann", "bob", "cy"])
BANKS = st.sampled_from([b"x", b"y"])
SMALL = st.integers(0, 3)


class Units:
    """One method for each kind of unit."""

    def __init__(self, sample):
        self.sample = sample
        self.accounts = sample.accounts

    def open(self, number, name, bank, slot, looks):
        row = self.sample.account(number, name=name, bank=bank, slot=slot, balance=2, until_s=slot)
        reads = (Key(self.accounts, (number,)), Where(self.accounts, "name", name)) if looks else ()

        def decide(rows):
            if looks and (rows.get(self.accounts, number) or rows.find(self.accounts, "name", name)):
                raise LimitExceeded
            return Decision(writes=(Insert(self.accounts, row),), reply="opened")

        return Unit(reads, decide)

    def pay(self, source, target, amount):
        def decide(rows):
            payer, payee = rows.get(self.accounts, source), rows.get(self.accounts, target)
            if payer is None or payee is None or payer is payee or payer.balance < amount:
                raise LimitExceeded
            entry = self.sample.Entry(owner=payer.bank, sequence=payer.balance, account=source, amount=amount)
            writes = (
                Update(self.accounts, replace(payer, balance=payer.balance - amount)),
                Update(self.accounts, replace(payee, balance=payee.balance + amount, secret=payer.secret)),
                Insert(self.sample.entries, entry),
            )
            return Decision(writes=writes, reply=(payer, payee))

        return Unit((Key(self.accounts, (source,)), Key(self.accounts, (target,))), decide)

    def rename(self, number, name):
        return self._change(number, lambda row: (Update(self.accounts, replace(row, name=name, vip=not row.vip)),))

    def close(self, number):
        return self._change(number, lambda row: (Delete(self.accounts, row),))

    def renumber(self, number, other):
        return self._change(
            number, lambda row: (Delete(self.accounts, row), Insert(self.accounts, replace(row, number=other)))
        )

    def exchange(self, number, other):
        def decide(rows):
            one, two = rows.get(self.accounts, number), rows.get(self.accounts, other)
            if one is None or two is None:
                return Decision(reply="absent")
            parked = replace(one, name="parked")
            last = replace(one, name=two.name)
            writes = (parked, replace(two, name=one.name), last)
            return Decision(writes=tuple(Update(self.accounts, row) for row in writes), reply="exchanged")

        return Unit((Key(self.accounts, (number,)), Key(self.accounts, (other,))), decide)

    def close_bank(self, bank):
        def decide(rows):
            found = rows.find(self.accounts, "bank", bank)
            return Decision(writes=tuple(Delete(self.accounts, row) for row in found), reply=found)

        return Unit((Where(self.accounts, "bank", bank),), decide)

    def forget(self, account):
        def decide(rows):
            found = rows.find(self.sample.entries, "account", account)
            return Decision(writes=tuple(Delete(self.sample.entries, row) for row in found[:1]), reply=found)

        return Unit((Where(self.sample.entries, "account", account),), decide)

    def _change(self, number, writes):
        def decide(rows):
            row = rows.get(self.accounts, number)
            return Decision(reply="absent") if row is None else Decision(writes=writes(row), reply=row)

        return Unit((Key(self.accounts, (number,)),), decide)


UNITS = st.one_of(
    st.tuples(st.just("open"), NUMBERS, NAMES, BANKS, SMALL, st.booleans()),
    st.tuples(st.just("open"), NUMBERS, NAMES, BANKS, SMALL, st.booleans()),
    st.tuples(st.just("pay"), NUMBERS, NUMBERS, SMALL),
    st.tuples(st.just("rename"), NUMBERS, NAMES),
    st.tuples(st.just("close"), NUMBERS),
    st.tuples(st.just("renumber"), NUMBERS, NUMBERS),
    st.tuples(st.just("exchange"), NUMBERS, NUMBERS),
    st.tuples(st.just("close_bank"), BANKS),
    st.tuples(st.just("forget"), NUMBERS),
)


def outcome(act):
    try:
        return act().reply
    except (LimitExceeded, Conflict) as exc:
        return type(exc)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batches=st.lists(st.lists(UNITS, min_size=1, max_size=8), min_size=1, max_size=5), now_s=SMALL)
def test_any_batches_give_what_the_units_give_one_after_the_other_in_memory(sample, batches, now_s):
    units, memory = Units(sample), MemoryStore()
    with tempfile.TemporaryDirectory() as folder, sample.opened(Path(folder) / "model.db") as store:
        for batch in batches:
            made = [getattr(units, name)(*arguments) for name, *arguments in batch]
            expected = [outcome(lambda unit=unit: memory.apply(unit)) for unit in made]
            futures = sample.together(store, made)
            assert [outcome(future.result) for future in futures] == expected
            for table in sample.tables:
                assert store.scan(table) == memory.scan(table)
        reads = (*(Key(sample.accounts, (n,)) for n in range(5)), Where(sample.accounts, "bank", b"x"))
        found, known = store.read(*reads), memory.read(*reads)
        assert found.find(sample.accounts, "bank", b"x") == known.find(sample.accounts, "bank", b"x")
        assert [found.get(sample.accounts, n) for n in range(5)] == [known.get(sample.accounts, n) for n in range(5)]
        assert store.sweep(now_s) == memory.sweep(now_s)
        assert store.scan(sample.accounts) == memory.scan(sample.accounts)
