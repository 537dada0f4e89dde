"""What the values themselves give away: expiry, limit, pass, time stamps, certificates (paper claims 2 and 3).

Messages hide names; these tests ask whether what is left tells users apart. The attacker is a corrupt TSM, which sees
every registration under another AID, or a merchant, which sees cards. Where an equivalence of the models fails without
a defence, they name the difference; here it is measured.
"""

from __future__ import annotations

import datetime
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from support.attacker import command, swap, unseal
from support.world import FixedClock, Phone, World, emv_keys

from protocol import cose
from protocol.card import afl, tlv
from protocol.card.afl import Afl
from protocol.card.oda import CaKey, Certificate, IccKey, verify_icc_certificate, verify_issuer_certificate
from protocol.card.profile import RID
from protocol.crypto import PrivateKey, sha256
from protocol.engine import Context, Incoming
from protocol.envelope import WALLET_TIME_GRID_S, Stamp
from protocol.messages.attest import LaunchPass, PassGrant
from protocol.messages.card import Card, EmvData
from protocol.messages.se import SealedRequest, SeGenerateServiceKeys
from protocol.messages.service import ServiceRequest
from protocol.ports import Entropy
from protocol.roles.bank.account import CertifyAccountStep
from protocol.roles.bank.attest import VerifyLaunchStep
from protocol.roles.bank.party import BankPolicy
from protocol.roles.bank.tables import Phone as PhoneRow
from protocol.roles.se.service import GenerateServiceKeysStep
from protocol.roles.se.service import Generating as GeneratingService
from protocol.roles.se.tables import ACCOUNTS, OWNERS, SERVICE_KEYS, VIRTUAL_CARDS
from protocol.roles.tsm.cards import IssueCardsStep, Issuing
from protocol.roles.tsm.tables import TID_LIST
from protocol.roles.wallet import enroll
from protocol.rows import Rows

DAY_S = 24 * 3600


class Sighting(NamedTuple):
    """What the attacker sees, and whose it really was."""

    user: int
    seen: Hashable


def linked(first: Iterable[Sighting], second: Iterable[Sighting]) -> float:
    """How often an attacker who sees each user once, and once again, finds the second sighting to a first one.

    They choose among the second sightings that look the same. Nothing to go by gives 1 / users.
    """
    later = list(second)
    alike = Counter(sighting.seen for sighting in later)
    truth = {sighting.user: sighting.seen for sighting in later}
    hits = [1 / alike[one.seen] if truth[one.user] == one.seen else 0.0 for one in first]
    return sum(hits) / len(hits)


def halves(sightings: list[Sighting]) -> tuple[list[Sighting], list[Sighting]]:
    """Each user's first sighting, and each user's second."""
    return sightings[::2], sightings[1::2]


# --- expiry and limit ----------------------------------------------------------------------------------------------
class PerCustomer(BankPolicy):
    """A bank that sets the limit by the credit line, and the expiry by the moment of opening."""

    def limit_minor(self, room_minor: int) -> int:
        return room_minor // 100

    def expiry_s(self, now_s: int) -> int:
        return now_s + 90 * DAY_S


def test_expiry_and_limit_of_many_customers() -> None:
    """Attack: a TSM links two AIDs of one user by limit and expiry. Powers: tsm-1 with its keys. Formal:
    anon_UNIQ_LINK. Closed by: both take few common values (ADR-0017). Measured over 2,000 customers of
    one bucket and month. Variant, values by the customer: nearly every user is found."""
    dice = random.Random(2013)
    month_s = BankPolicy().expiry_grid_s
    start_s = 1_800_000_000 // month_s * month_s
    customers = [(dice.randrange(600_000, 5_000_000), start_s + dice.randrange(month_s)) for _ in range(2_000)]

    def seen(policy: BankPolicy) -> list[Sighting]:
        values = ((policy.limit_minor(line), policy.expiry_s(opened_s)) for line, opened_s in customers)
        return [Sighting(user, value) for user, value in enumerate(values)]

    common, own = seen(BankPolicy()), seen(PerCustomer())
    assert linked(common, common) == pytest.approx(1 / len(customers))
    assert linked(own, own) > 0.99


def test_expiry_and_limit_tell_bucket_and_month_only() -> None:
    """The residue: whoever sees both learns the customer's bucket and the month of opening, and nothing else. Formal:
    anon_UNIQ_LINK."""
    dice, policy = random.Random(2014), BankPolicy()
    lines = [dice.choice((30_000, 150_000, 900_000)) + dice.randrange(10_000) for _ in range(3_000)]
    told: dict[Hashable, set[Hashable]] = defaultdict(set)
    for line in lines:
        opened_s = 1_800_000_000 + dice.randrange(365 * DAY_S)
        bucket = max(b for b in policy.limit_buckets_minor if b <= line)
        told[policy.limit_minor(line), policy.expiry_s(opened_s)].add((bucket, opened_s // policy.expiry_grid_s))
    assert {len(facts) for facts in told.values()} == {1}
    assert len(told) <= len(policy.limit_buckets_minor) * (365 // 30 + 2)


def registrations(world: World, policy: BankPolicy) -> list[Sighting]:
    """Five users with lines of their own, on days of their own, register two AIDs each: expiry and limit at tsm-1."""
    swap(world, "bank-a", CertifyAccountStep, replace(world.parties["bank-a"].value, policy=policy))
    origin_s = (world.clock.now_s() // (30 * DAY_S) + 1) * 30 * DAY_S
    owners: dict[str, int] = {}
    for user in range(5):
        world.clock.time_s = origin_s + user * (DAY_S + 1_234)
        phone = world.add_phone(f"phone-{user}")
        code = world.branch_code("bank-a", limit_minor=1_200_000 + 77_777 * user)
        phone.user = world.run(phone, enroll(phone.wallet, bank="bank-a", branch_code=code))
        world.install(phone)
        assert world.launch(phone) == ""
        for _ in range(2):
            aid = world.account(phone)
            owners[aid] = user
            world.service(phone, aid)
    entries = {entry.aid: entry for entry in world.parties["tsm-1"].store.scan(TID_LIST)}
    return [
        Sighting(user, (entries[aid].aid_exp_time_s, entries[aid].aid_limit_minor // 10_000 * 10_000))
        for aid, user in owners.items()
    ]


def test_expiry_and_limit_at_the_tsm(world: World) -> None:
    """Attack: as above, through the running steps. Powers: tsm-1 with its keys. Formal: anon_UNIQ_LINK."""
    first, second = halves(registrations(world, BankPolicy()))
    assert linked(first, second) == pytest.approx(1 / 5)


def test_expiry_and_limit_at_the_tsm_by_customer(world: World) -> None:
    """Variant: a bank whose values follow the customer. Every pair of AIDs is linked."""
    first, second = halves(registrations(world, PerCustomer()))
    assert linked(first, second) == 1


# --- launch passes -------------------------------------------------------------------------------------------------
class ToTheSecond(BankPolicy):
    """A bank whose passes begin when they are given."""

    def pass_issued_s(self, now_s: int) -> int:
        return now_s


def launched(world: World) -> list[Phone]:
    """Four phones with two AIDs each, all launched anew at times of their own within the same half day."""
    phones = [world.ready(f"phone-{number}") for number in range(4)]
    for phone in phones:
        for _ in range(2):
            world.account(phone)
    world.clock.time_s += 600
    return phones


def passes(world: World, phones: list[Phone]) -> list[tuple[int, bytes]]:
    """The passes of each phone's two AIDs, after a launch at a second of its own."""
    found = []
    for number, phone in enumerate(phones):
        world.clock.time_s += 97
        assert world.launch(phone) == ""
        found += [(number, row.launch_pass) for row in world.parties[phone.name].store.scan(ACCOUNTS)]
    return found


def test_when_a_pass_was_given(world: World) -> None:
    """Attack: a TSM links the AIDs of one user by when their passes begin and end, since one launch gives them all.
    Powers: tsm-1 with its keys. Formal: anon_UNIQPASS_LINK. Closed by: iat and exp on a common grid (ADR-0017).
    Variant, times to the second: all of a user's AIDs are linked."""
    phones = launched(world)

    def sightings() -> list[Sighting]:
        claims = ((user, cose.parse_sign1(data, max_bytes=4096).claims) for user, data in passes(world, phones))
        return [Sighting(user, (claim.issued_at_s, claim.expires_at_s)) for user, claim in claims]

    assert linked(*halves(sightings())) == pytest.approx(1 / len(phones))

    swap(world, "bank-a", VerifyLaunchStep, replace(world.parties["bank-a"].value, policy=ToTheSecond()))
    assert linked(*halves(sightings())) == 1


class NamesTheDevice(VerifyLaunchStep):
    """A bank that numbers passes by the phone."""

    def passes(self, rows: Rows, phone: PhoneRow, entropy: Entropy) -> tuple[PassGrant, ...]:
        jti = sha256(phone.attestation_key)[:16]
        return tuple(replace(granted, jti=jti) for granted in super().passes(rows, phone, entropy))


def test_a_pass_names_no_device(world: World) -> None:
    """Attack: a TSM links the AIDs of one phone by what their passes say of it. Powers: tsm-1 with its keys. Formal:
    anon_PASSDEV, anon_UNIQCLS_LINK. Closed by: a pass holds AID, PK_AID, one of three trust classes, a random jti and
    common times, no more. Variant, a jti by the phone: linked."""
    phones = launched(world)
    shown = passes(world, phones)
    assert set(LaunchPass.specs()) == {"aid", "pk_aid", "trust_class"}
    for phone in phones:
        (owner,) = world.parties[phone.name].store.scan(OWNERS)
        device = [
            phone.name.encode(), phone.user.encode(), phone.platform.attestation_key.encoded,
            phone.platform.attestation_key.thumbprint, phone.wallet_key.public.encoded,
            PrivateKey.from_bytes(owner.sk_u).public.encoded, world.parties[phone.name].value.key.public.encoded,
        ]  # fmt: skip
        assert not any(name in data or name[1:33] in data for name in device for _, data in shown)

    def sightings() -> list[Sighting]:
        parsed = ((user, cose.parse_sign1(data, max_bytes=4096)) for user, data in passes(world, phones))
        return [Sighting(u, (s.claims.nonce, LaunchPass.from_bytes(s.payload).trust_class)) for u, s in parsed]

    assert linked(*halves(sightings())) == 0
    swap(world, "bank-a", NamesTheDevice)
    assert linked(*halves(sightings())) == 1


# --- the wallet's clock --------------------------------------------------------------------------------------------
class Exact(int):
    """A second that lies on every grid: rounding it leaves it as it is."""

    def __mod__(self, other: int) -> int:
        return 0


class ExactTime(GenerateServiceKeysStep):
    """An SE that stamps messages to the second."""

    def prepare(self, incoming: Incoming[GeneratingService], ctx: Context) -> Incoming[GeneratingService]:
        return super().prepare(incoming, replace(ctx, now_s=Exact(ctx.now_s)))


def phones_by_clock(world: World, offsets_s: Iterable[int]) -> list[tuple[Phone, FixedClock, int]]:
    """Phones whose clocks are wrong by some seconds each."""
    true = world.clock
    made = []
    for offset_s in offsets_s:
        world.clock = FixedClock(true.now_s() + offset_s)
        phone = world.add_phone(f"phone-{len(made)}")
        made.append((phone, world.clock, offset_s))
        world.clock = true
        world.init(phone)
        world.install(phone)
        assert world.launch(phone) == ""
    return made


def stamps(world: World, phones: list[tuple[Phone, FixedClock, int]], at_s: int) -> list[Sighting]:
    """`iat` of TID-1, less the TSM's own time, for two registrations of each phone, a day apart."""
    seal = world.parties["tsm-1"].value.keys.seal
    seen = []
    for number, (phone, clock, offset_s) in enumerate(phones):
        for day in (1, 2):
            world.clock.time_s = at_s + day * DAY_S
            clock.time_s = world.clock.time_s + offset_s
            request = command(world, phone, "GenerateServiceKeys", SeGenerateServiceKeys(tsm="tsm-1"), SealedRequest)
            signed = unseal(ServiceRequest, seal, request.cose)
            iat_s = cose.parse_sign1(signed, max_bytes=4096).claims.issued_at_s
            seen.append(Sighting(number, iat_s - world.clock.now_s()))
    return seen


def test_how_wrong_a_phones_clock_is(world: World) -> None:
    """Attack: a TSM tells phones apart by how wrong their clocks are. Powers: tsm-1 with its keys. Formal: time is
    outside the models. Closed by: a wallet's iat on a grid of 60 s (ADR-0017). Variant, times to the second: every
    phone is known again by its clock."""
    phones = phones_by_clock(world, (-9, -4, 0, 3, 8))
    at_s = world.clock.now_s() // WALLET_TIME_GRID_S * WALLET_TIME_GRID_S + 30
    assert linked(*halves(stamps(world, phones, at_s))) == pytest.approx(1 / len(phones))
    for phone, _, _ in phones:
        swap(world, phone.name, ExactTime)
    assert linked(*halves(stamps(world, phones, at_s))) == 1


def test_what_the_grid_of_the_clock_leaves() -> None:
    """The residue: near a minute's edge the grid tells fast clocks from slow ones. Over all seconds of a minute, clocks
    up to 9 s wrong are told apart by less than a third of what the second tells."""

    class Nothing:
        def bytes(self, n: int, /) -> bytes:
            return bytes(n)

    def sighting(user: int, offset_s: int, now_s: int, *, exact: bool) -> Sighting:
        stamp = Stamp.fresh if exact else Stamp.wallet
        return Sighting(user, stamp(now_s + offset_s, Nothing()).issued_at_s - now_s)

    offsets = (-9, -4, 0, 3, 8)
    scores: dict[bool, list[float]] = {True: [], False: []}
    for exact, found in scores.items():
        for second in range(60):
            seen = [sighting(u, o, 1_800_000_000 + second, exact=exact) for u, o in enumerate(offsets)]
            found.append(linked(seen, seen))
    chance = 1 / len(offsets)
    gain = {exact: sum(found) / 60 - chance for exact, found in scores.items()}
    assert gain[True] == pytest.approx(1 - chance)
    assert gain[False] < gain[True] / 3


# --- what a terminal reads -----------------------------------------------------------------------------------------
def terminal_view(world: World, data: EmvData) -> tuple[IccKey, dict[int, bytes]]:
    """All that a terminal reads and recovers of a card: its certified key and every data object by tag."""
    ca, _ = emv_keys()
    objects: dict[int, bytes] = {}
    for record in data.records:
        inner = tlv.decode_one(record.data, afl.RECORD_TEMPLATE).value
        objects.update({each.tag: each.value for each in tlv.decode(inner)})
    today = datetime.datetime.fromtimestamp(world.clock.now_s(), tz=datetime.UTC).date()
    issuer = verify_issuer_certificate(
        CaKey(rid=RID, index=1, key=ca.public),
        Certificate(signature=objects[0x90], remainder=objects.get(0x92, b""), exponent=objects[0x9F32]), today=today,
    )  # fmt: skip
    icc = Certificate(signature=objects[0x9F46], remainder=objects.get(0x9F48, b""), exponent=objects[0x9F47])
    static = next(
        tlv.decode_one(record.data, afl.RECORD_TEMPLATE).value for record in data.records if record.sfi == 2
    )  # fmt: skip
    assert Afl.from_bytes(data.afl)
    pan = objects[0x5A].hex().rstrip("f")
    return verify_icc_certificate(issuer, icc, pan=pan, static_data=static + data.aip, today=today), objects


def cards(world: World, phones: list[Phone]) -> list[tuple[int, EmvData]]:
    """What the applets of each phone's newest two cards answer with."""
    found = []
    for number, phone in enumerate(phones):
        store = world.parties[phone.name].store
        (tid,) = (row.tid for row in store.scan(SERVICE_KEYS))
        known = {row.pan for row in store.scan(VIRTUAL_CARDS)}
        world.cards(phone, tid, number=2)
        new = (row for row in store.scan(VIRTUAL_CARDS) if row.pan not in known)
        found += [(number, EmvData.from_bytes(row.records)) for row in new]
    return found


class SerialOfTid(IssueCardsStep):
    """A TSM whose card certificates carry the TID, shortened to their serial number."""

    def prepare(self, incoming: Incoming[Issuing], ctx: Context) -> Incoming[Issuing]:
        issuer = self._tsm.issuer
        tid = incoming.facts.service.tid

        class Numbering:
            def issue(self, moduli: Sequence[bytes], *, entropy: Entropy, **named: Any) -> tuple[Card, ...]:
                class Serial:
                    def bytes(self, n: int, /) -> bytes:
                        return sha256(tid.encode())[:3] if n == 3 else entropy.bytes(n)

                return issuer.issue(moduli, entropy=Serial(), **named)

        step = IssueCardsStep(replace(self._tsm, issuer=Numbering()))
        return step.prepare(incoming, ctx)


def test_a_card_names_no_account(world: World) -> None:
    """Attack: a merchant, or several, links cards of one user by what their certificates and records say. Powers: all
    that terminals read and recover. Formal: merch_TIDCERT_TWO, merch_TWO. Closed by: a certificate binds PAN and PK_C,
    no TID; serials and numbers are random, all else is common (ADR-0013). Variant, a serial by the TID: two
    cards of one user are known to be so."""
    phones = []
    for number in range(2):
        phone = world.ready(f"phone-{number}")
        world.service(phone, world.account(phone))
        phones.append(phone)
    issued = cards(world, phones)
    for number, data in issued:
        store = world.parties[phones[number].name].store
        (service,), (account,) = store.scan(SERVICE_KEYS), store.scan(ACCOUNTS)
        keys = [PrivateKey.from_bytes(key).public for key in (service.sk_tid, service.dk_tid, account.sk_aid)]
        secret = [
            *(name.encode() for name in (service.tid, account.aid, phones[number].user, phones[number].name)),
            *(bytes.fromhex(name[2:]) for name in (service.tid, account.aid, phones[number].user)),
            *(key.encoded[1:33] for key in keys), *(key.thumbprint for key in keys), service.sid,
            sha256(service.sid), service.com, service.certificate,
        ]  # fmt: skip
        key, _ = terminal_view(world, data)
        readable = data.to_bytes() + key.serial + key.key.to_bytes() + key.pan.encode()
        assert not any(each in readable or each.hex().encode() in readable for each in secret)
    # Beside number, key and certificate, every data object is the same on every card.
    own = (0x5A, 0x9F46, 0x9F48)
    common = [
        {tag: value for tag, value in terminal_view(world, data)[1].items() if tag not in own} for _, data in issued
    ]
    assert all(each == common[0] for each in common)
    assert len({(data.fci, data.aip, data.afl, data.application) for _, data in issued}) == 1

    def sightings(shown: list[tuple[int, EmvData]]) -> list[Sighting]:
        return [Sighting(user, terminal_view(world, data)[0].serial) for user, data in shown]

    assert linked(*halves(sightings(issued))) == 0
    swap(world, "tsm-1", SerialOfTid)
    assert linked(*halves(sightings(cards(world, phones)))) == 1
