"""What a merchant holds after ten purchases by one person, and after ten by ten persons: nothing tells the two apart.

Everything that its lane saw of a tap, everything that its database keeps of a sale, and the receipt inside, field by
field: which of the ten values are equal to which must be the same in both worlds (paper claim 2, unlinkability).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from support.counter import applet_of, open_card
from support.shop import FakeLink, FakeReader, Stall
from support.world import Phone, World

from protocol import codec, envelope
from protocol.card import profile, tlv
from protocol.card.recovery import recover
from protocol.card.rsa import PublicKey
from protocol.messages.pay import Authorization, AuthorizationDecision
from protocol.messages.till import SaleProgress
from protocol.roles.merchant import SALES
from protocol.roles.tsm import tsm_steps

TEN = 10
AMOUNTS = [1_000 * (n % 4 + 1) for n in range(TEN)]
Seen = dict[str, Any]


def flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every leaf of nested dicts and lists, with its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(f"{prefix}.{name}", inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from flat(f"{prefix}[{number}]", inner)
    else:
        yield prefix, value


def of_card(request: bytes) -> Seen:
    """What the terminal read of the card: data objects of the records, of both lists, and of the answer."""
    purchase = Authorization.from_bytes(envelope.peek(Authorization, request).payload).purchase
    seen: Seen = dict(flat("purchase", {**asdict(purchase), "sale": None, "records": None}))
    for record in purchase.records:
        for item in tlv.decode_one(record.data, 0x70).children:
            seen[f"record {record.sfi}.{record.number} {item.tag:X}"] = item.value
            seen[f"length of {item.tag:X}"] = len(item.value)
    for name, dol, data in (("PDOL", profile.PDOL, purchase.pdol_data), ("CDOL1", profile.CDOL1, purchase.cdol_data)):
        seen |= {f"{name} {tag:X}": value for tag, value in dol.split(data).items()}
    return seen


def certified(seen: Seen, issuer: PublicKey) -> Seen:
    """The fields inside the card's certificate."""
    rest = seen["record 1.2 9F47"] + seen["static data"]
    inside = recover(issuer, seen["record 1.3 9F46"], rest)
    return {"certificate expiry": inside[11:13], "certificate serial": inside[13:16], "certificate rest": inside[16:20]}


def of_sale(stall: Stall, sale: bytes) -> Seen:
    """What the merchant's database keeps, and what its receipt says inside."""
    row = stall.row(sale)
    seen: Seen = {f"row.{name}": value for name, value in asdict(row).items() if name != "receipt"}
    sign1 = envelope.peek(AuthorizationDecision, row.receipt)
    seen |= dict(flat("receipt", codec.decode(sign1.payload, max_bytes=1 << 16)))
    return seen | {"receipt length": len(row.receipt)}


def buy(stall: Stall, phone: Phone, tid: str, amount_minor: int) -> Seen:
    """One purchase through the merchant's own till and lane."""
    world, sale = stall.world, stall.start(amount_minor)
    open_card(world, phone, tid, amount_minor)
    lane = stall.lane(FakeReader([FakeLink(applet_of(world, phone))]))
    requests: list[bytes] = []
    while stall.row(sale).progress in (SaleProgress.EXPECT_TAP, SaleProgress.EXPECT_DECISION):
        if stall.row(sale).request:
            requests.append(stall.row(sale).request)
        assert lane.run_once()
    assert stall.row(sale).progress == SaleProgress.APPROVED
    card = of_card(requests[0] if requests else _sent(world))
    static = b"".join(r.data for r in _records(requests[0] if requests else _sent(world)) if r.sfi == 2)
    card["static data"] = tlv.decode_one(static, 0x70).value + profile.AIP
    issuer: PublicKey = world.parties["tsm-1"].value.issuer.issuer.private.public
    world.clock.time_s += 90
    return card | certified(card, issuer) | of_sale(stall, sale)


def _sent(world: World) -> bytes:
    return next(wire.cose for _, rpc, wire, _ in reversed(world.calls) if rpc == "Tsm.Authorize")


def _records(request: bytes) -> Any:
    return Authorization.from_bytes(envelope.peek(Authorization, request).payload).purchase.records


def pattern(values: list[Any]) -> tuple[int, ...]:
    """Which values are equal to which: each as the place where it first stood."""
    return tuple(values.index(value) for value in values)


def patterns(purchases: list[Seen]) -> dict[str, tuple[int, ...]]:
    """For every field of ten purchases."""
    assert all(seen.keys() == purchases[0].keys() for seen in purchases)
    return {name: pattern([seen[name] for seen in purchases]) for name in purchases[0]}


def with_uses(world: World, uses: int) -> None:
    """The TSM set to multi-use cards."""
    party = world.parties["tsm-1"]
    party.value = replace(party.value, issuer=replace(party.value.issuer, uses=uses))
    party.steps.update(tsm_steps(party.value))


def ten_by(folder: Path, persons: int, uses: int = 1) -> list[Seen]:
    folder.mkdir()
    world = World(folder, seed=f"unlinkability {persons}")
    with_uses(world, uses)
    stall = Stall.open(world)
    holders = []
    for number in range(1, persons + 1):
        phone = world.ready(f"phone-{number}", bank="bank-a" if number % 2 else "bank-b")
        tid = world.service(phone, world.account(phone, bank="bank-a" if number % 2 else "bank-b"))
        world.cards(phone, tid, TEN // persons if uses == 1 else 1)
        holders.append((phone, tid))
    world.clock.time_s += 3600
    bought = [buy(stall, *holders[n % persons], AMOUNTS[n]) for n in range(TEN)]
    assert len(stall.party.store.scan(SALES)) == TEN
    return bought


@pytest.fixture(scope="module")
def by_ten(tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    return ten_by(tmp_path_factory.mktemp("ten") / "world", TEN)


def test_ten_purchases_by_one_person_look_like_ten_by_ten(tmp_path: Path, by_ten: list[Seen]) -> None:
    one = ten_by(tmp_path / "one", 1)
    assert patterns(one) == patterns(by_ten)
    fresh = {name for name, equal in patterns(one).items() if len(set(equal)) == TEN}
    assert {"record 2.1 5A", "receipt.decided.pan", "purchase.issuer_data", "record 1.3 9F46"} <= fresh
    assert patterns(one)["purchase.atc"] == (0,) * TEN  # every card counts for itself


def test_multi_use_cards_are_told_apart(tmp_path: Path, by_ten: list[Seen]) -> None:
    """The comparison notices what links: with multi-use cards, the setting whose links are stated, it is the number."""
    assert patterns(ten_by(tmp_path / "one", 1, uses=TEN))["record 2.1 5A"] == (0,) * TEN
    assert patterns(by_ten)["record 2.1 5A"] == tuple(range(TEN))
