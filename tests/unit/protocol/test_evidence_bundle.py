"""What a bundle of evidence proves, and that nothing else does: every message dropped, altered, swapped, forged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.claims import Desk
from support.evidence import BANK, SHOP, TSM, Scene, flipped, get, put, resigned
from support.settling import pay, settle
from support.skimmer import shopper
from support.world import YEAR_S

from protocol import cose
from protocol.card import rsa
from protocol.card.oda import CaKey
from protocol.card.profile import RID
from protocol.codec import decode, encode
from protocol.commitments import commitment
from protocol.envelope import Wire
from protocol.errors import EvidenceIncomplete, Malformed, Oversize
from protocol.evidence.bundle import Bundle, EmvCaKey, Statement
from protocol.evidence.bundle_checks import Link, verify_bundle
from protocol.evidence.bundle_verdict import ALWAYS, LIMITS, OWN_EMV_CA, Verdict
from protocol.messages.card import CardKeys
from protocol.messages.claim import Claim
from protocol.messages.merchant import SignOn
from protocol.messages.pay import Authorization, AuthorizationDecision
from protocol.messages.pay import Verdict as Decision
from protocol.messages.service import TidCertificate, TsmInfo
from protocol.messages.settle import Payout, Settlement
from protocol.pki import Use
from protocol.roles.tsm.tables import CARDS
from protocol.types import MAX_SKEW_S, Role

ALL_OF_TSM = (Statement.REGISTRATION, Statement.ISSUANCE, Statement.PURCHASE, Statement.CLAIM)
ALL_OF_SHOP = (Statement.RECEIPT, Statement.PAYOUT)
# Part, field, the link that fails without it, and who signs it ("": a key without a certificate of its own).
SIGNED = (
    ("registration", "tid_certificate", Link.TID_CERTIFICATE, TSM),
    ("registration", "tsm_info", Link.TSM_INFO, ""),
    ("registration", "promise", Link.PROMISE, BANK),
    ("issuance", "card_keys", Link.CARD_KEYS, ""),
    ("purchase", "sign_on", Link.SIGN_ON, SHOP),
    ("purchase", "authorization", Link.AUTHORIZATION, ""),
    ("purchase", "receipt", Link.RECEIPT, TSM),
    ("claim", "claim", Link.CLAIM, TSM),
    ("claim", "accepted", Link.CLAIM_ACCEPTED, BANK),
    ("receipt", "receipt", Link.RECEIPT, TSM),
    ("payout", "settlement", Link.SETTLEMENT, SHOP),
    ("payout", "payout", Link.PAYOUT, TSM),
)
CERTIFIED = [row for row in SIGNED if row[3]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene.play(tmp_path_factory.mktemp("world"), "evidence")


@pytest.fixture(scope="module")
def bundles(scene: Scene) -> tuple[Bundle, Bundle]:
    """The TSM's and the merchant's, of the first sale."""
    return scene.of_tsm(), scene.of_shop()


def holding(bundles: tuple[Bundle, Bundle], part: str) -> Bundle:
    return next(bundle for bundle in bundles if getattr(bundle, part))


def failing(verdict: Verdict) -> dict[str, str]:
    """Statement → reason, of those that are not proved; whoever relies on the bundle is refused."""
    found = {finding.statement.value: finding.reason for finding in verdict.findings if not finding.proved}
    assert found
    for finding in verdict.findings:
        assert finding.proved or (finding.says, finding.signatures) == ((), ())
    first, reason = next(iter(found.items()))
    with pytest.raises(EvidenceIncomplete) as refusal:
        verdict.require()
    assert (refusal.value.code, str(refusal.value)) == ("EVIDENCE_INCOMPLETE", f"{first}: {reason}")
    return found


def broken(scene: Scene, bundle: Bundle, part: str, **changes: Any) -> str:
    """The link that fails for the statement of this part; all that rests on it fails, too."""
    found = failing(scene.verify(bundle, **changes))
    return found[part]


def rest(part: str) -> set[str]:
    """What fails with a statement."""
    order = [one.value for one in (ALL_OF_TSM if part not in ALL_OF_SHOP else ALL_OF_SHOP)]
    return set(order[order.index(part) :])


# --- what is proved --------------------------------------------------------------------------------------------------
def test_a_purchase_of_an_account(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    verdict = scene.verify(bundles[0]).require()
    assert tuple(finding.statement for finding in verdict.findings) == ALL_OF_TSM
    says = {finding.statement: dict(finding.says) for finding in verdict.findings}
    account = says[Statement.REGISTRATION]
    assert (account["bank"], account["tsm"], account["limit_minor"], account["currency"]) == (
        BANK, TSM, 500_000, "TWD"
    )  # fmt: skip
    purchase = says[Statement.PURCHASE]
    assert (purchase["merchant"], purchase["merchant_name"], purchase["amount_minor"], purchase["sale"]) == (
        SHOP, "Shop 1", 11_001, scene.sales[0].hex()
    )  # fmt: skip
    assert says[Statement.ISSUANCE] == {"tid": account["tid"], "card": purchase["card"]}
    assert "*********" in str(purchase["card"])
    assert (says[Statement.CLAIM]["bank"], says[Statement.CLAIM]["claimed_minor"]) == (BANK, 10_000)
    signed = [(one.message, one.signer, one.role) for finding in verdict.findings for one in finding.signatures]
    assert signed == [
        ("tid-certificate", TSM, "tsm"), ("tsm-info", account["tid"], "tid"), ("promise", BANK, "bank"),
        ("card-keys", account["tid"], "tid"), ("sign-on", SHOP, "merchant"), ("authorization", SHOP, "merchant"),
        ("authorization-decision", TSM, "tsm"), ("claim", TSM, "tsm"), ("claim-accepted", BANK, "bank"),
    ]  # fmt: skip
    assert {one.at_s for finding in verdict.findings for one in finding.signatures} == {scene.now_s}


def test_a_sale_and_its_payout(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    verdict = scene.verify(bundles[1]).require()
    receipt, payout = (dict(finding.says) for finding in verdict.findings)
    assert (receipt["sale"], receipt["amount_minor"], receipt["tsm"]) == (scene.sales[0].hex(), 11_001, TSM)
    assert (payout["total_minor"], payout["merchant"], payout["sales"]) == (11_001, SHOP, 1)
    assert OWN_EMV_CA not in verdict.not_proved
    assert set(LIMITS[Statement.RECEIPT] + LIMITS[Statement.PAYOUT] + ALWAYS) == set(verdict.not_proved)


def test_what_is_not_proved_is_named(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    """The list is there for good bundles and for bad ones."""
    bad = replace(bundles[0], certificates=())
    for bundle in (bundles[0], bad):
        named = scene.verify(bundle).not_proved
        assert named[0] == OWN_EMV_CA
        assert set(ALWAYS) < set(named)
        assert {limit for statement in ALL_OF_TSM for limit in LIMITS[statement]} < set(named)
        assert len(set(named)) == len(named)
    assert set(LIMITS) == set(Statement)


def test_the_schemes_own_key(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    keys = scene.tsm.value.emv_ca
    assert OWN_EMV_CA not in scene.verify(bundles[0], emv_ca=keys).require().not_proved
    stripped = replace(bundles[0], emv_ca=())
    scene.verify(stripped, emv_ca=keys).require()
    other = CaKey(rid=RID, index=1, key=rsa.generate_key(rsa.CA_BITS).public)
    for bundle, given_keys in ((stripped, None), (bundles[0], ()), (bundles[0], (other,))):
        assert broken(scene, bundle, "issuance", emv_ca=given_keys) == "card-certificate (CARD_DATA_INVALID)"
        alone = replace(bundle, statements=(Statement.PURCHASE,))
        assert broken(scene, alone, "purchase", emv_ca=given_keys) == "card-signature (FIELD_MISMATCH)"
    weak = replace(bundles[0], emv_ca=(EmvCaKey(rid=RID, index=1, modulus=bytes(176)),))
    assert broken(scene, weak, "issuance") == "card-certificate (CARD_KEY_INVALID)"


@pytest.mark.parametrize(
    ("claimed", "reasons"),
    [
        ((Statement.REGISTRATION,), {}), ((Statement.PURCHASE,), {}), ((Statement.PURCHASE, Statement.CLAIM), {}),
        ((Statement.REGISTRATION, Statement.ISSUANCE), {}), ((Statement.REGISTRATION, Statement.PURCHASE), {}),
        ((Statement.ISSUANCE,), {"issuance": "rests-on registration"}),
        ((Statement.CLAIM,), {"claim": "rests-on receipt"}),
        ((Statement.RECEIPT,), {"receipt": "part"}),
        ((Statement.PURCHASE, Statement.PAYOUT), {"payout": "part"}),
        (
            (Statement.ISSUANCE, Statement.PURCHASE),
            {"issuance": "rests-on registration", "purchase": "rests-on issuance"},
        ),
    ],
)  # fmt: skip
def test_fewer_and_more_statements_than_there_is_evidence_for(
    scene: Scene, bundles: tuple[Bundle, Bundle], claimed: tuple[Statement, ...], reasons: dict[str, str]
) -> None:
    verdict = scene.verify(replace(bundles[0], statements=claimed))
    assert {finding.statement for finding in verdict.findings} == set(claimed)
    assert (failing(verdict) if reasons else {}) == reasons
    if not reasons:
        verdict.require()


def test_a_receipt_beside_its_purchase(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    """Both sides' evidence in one bundle: of one purchase, or of none."""
    both = replace(
        bundles[0], statements=tuple(Statement), receipt=bundles[1].receipt, payout=bundles[1].payout
    )  # fmt: skip
    assert len(scene.verify(both).require().findings) == len(Statement)
    other = replace(both, receipt=scene.of_shop(1).receipt)
    assert failing(scene.verify(other)) == {"receipt": "rests-on (FIELD_MISMATCH)"}


# --- messages dropped, altered, swapped ------------------------------------------------------------------------------
@pytest.mark.parametrize("part", ["registration", "issuance", "purchase", "claim", "receipt", "payout"])
def test_a_part_that_was_left_out(scene: Scene, bundles: tuple[Bundle, Bundle], part: str) -> None:
    verdict = scene.verify(replace(holding(bundles, part), **{part: ()}))
    found = failing(verdict)
    assert found.pop(part) == "part"
    assert set(found) == rest(part) - {part}
    assert all(reason.startswith("rests-on ") for reason in found.values())


@pytest.mark.parametrize(("part", "name", "link", "signer"), SIGNED)
def test_a_signed_message_altered_in_any_place(
    scene: Scene, bundles: tuple[Bundle, Bundle], part: str, name: str, link: Link, signer: str
) -> None:
    bundle = holding(bundles, part)
    signed = get(bundle, part, name)
    for position in (*range(0, len(signed), 13), *range(-72, 0, 5)):
        altered = put(bundle, part, **{name: flipped(signed, position, 1 << position % 8)})
        assert broken(scene, altered, part).startswith(f"{link.value} ("), position
    for cut in (signed[:-1], signed + b"\0", signed[1:], b"\xd2"):
        assert broken(scene, put(bundle, part, **{name: cut}), part).startswith(f"{link.value} (")


@pytest.mark.parametrize(("part", "name", "link", "signer"), SIGNED)
def test_a_signed_message_of_the_other_user(
    scene: Scene, bundles: tuple[Bundle, Bundle], part: str, name: str, link: Link, signer: str
) -> None:
    """Genuine, and about somebody else: it does not fit to what is beside it."""
    other = holding((scene.of_tsm(1), scene.of_shop(1)), part)
    swapped = put(holding(bundles, part), part, **{name: get(other, part, name)})
    if name == "sign_on":  # one terminal serves both
        scene.verify(swapped).require()
        return
    after = {"tid_certificate": Link.TSM_INFO, "authorization": Link.RECEIPT, "claim": Link.CLAIM_ACCEPTED}
    expected = after.get(name, link)
    if part == "receipt":  # a receipt answers one request only
        assert broken(scene, swapped, part) == "receipt (SIGNATURE_INVALID)"
    else:
        assert broken(scene, swapped, part).startswith(f"{expected.value} (")


@pytest.mark.parametrize(
    ("part", "name", "reason"),
    [
        ("issuance", "modulus", "leaf (EVIDENCE_INCOMPLETE)"), ("issuance", "salt", "leaf (EVIDENCE_INCOMPLETE)"),
        ("issuance", "chip", "card-certificate (FIELD_MISMATCH)"),
        ("claim", "salt", "claim-leaf (EVIDENCE_INCOMPLETE)"), ("claim", "path", "claim-leaf (EVIDENCE_INCOMPLETE)"),
        ("claim", "asked", "claim-accepted (SIGNATURE_INVALID)"), ("receipt", "asked", "receipt (SIGNATURE_INVALID)"),
    ],
)  # fmt: skip
def test_what_opens_a_message_of_the_other_user(
    scene: Scene, bundles: tuple[Bundle, Bundle], part: str, name: str, reason: str
) -> None:
    other = holding((scene.of_tsm(1), scene.of_shop(1)), part)
    swapped = put(holding(bundles, part), part, **{name: get(other, part, name)})
    assert broken(scene, swapped, part) == reason


@pytest.mark.parametrize("part", ["registration", "issuance", "purchase", "claim", "receipt", "payout"])
def test_a_whole_part_of_the_other_user(scene: Scene, bundles: tuple[Bundle, Bundle], part: str) -> None:
    """Each part proves something by itself; the account, the card and the sale tie them together."""
    other = holding((scene.of_tsm(1), scene.of_shop(1)), part)
    found = failing(scene.verify(replace(holding(bundles, part), **{part: getattr(other, part)})))
    assert found == {
        "registration": {
            "issuance": "card-keys (SIGNATURE_INVALID)", "purchase": "rests-on issuance", "claim": "rests-on purchase"
        },
        "issuance": {
            "issuance": "card-keys (SIGNATURE_INVALID)", "purchase": "rests-on issuance", "claim": "rests-on purchase"
        },
        "purchase": {"purchase": "card (FIELD_MISMATCH)", "claim": "rests-on purchase"},
        "claim": {"claim": "claim-leaf (EVIDENCE_INCOMPLETE)"},
        "receipt": {"payout": "settlement (FIELD_MISMATCH)"},
        "payout": {"payout": "settlement (FIELD_MISMATCH)"},
    }[part]  # fmt: skip


def test_paths_that_lead_elsewhere(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    path, position = get(bundles[0], "issuance", "path"), get(bundles[0], "issuance", "position")
    for changes in (
        {"path": path[1:]}, {"path": (*path, bytes(32))}, {"position": position ^ 1}, {"position": 31}, {"leaves": 0},
        {"path": (bytes(32),) * len(path)},
    ):  # fmt: skip
        assert broken(scene, put(bundles[0], "issuance", **changes), "issuance") == "leaf (EVIDENCE_INCOMPLETE)"
    place = get(bundles[0], "claim", "position")
    for changes in ({"position": place ^ 1}, {"position": (place + 128) % 256}, {"path": ()}):
        assert broken(scene, put(bundles[0], "claim", **changes), "claim") == "claim-leaf (EVIDENCE_INCOMPLETE)"


# --- signed by others ------------------------------------------------------------------------------------------------
def digest_of(bundle: Bundle, part: str, name: str) -> bytes:
    """Of the request that a message answers."""
    if (part, name) == ("purchase", "receipt"):
        return Wire(cose=get(bundle, part, "authorization")).digest
    if name == "payout":
        return Wire(cose=get(bundle, part, "settlement")).digest
    if name in ("accepted", "receipt"):
        digest: bytes = get(bundle, part, "asked")
        return digest
    return b""


@pytest.mark.parametrize(("part", "name", "link", "signer"), CERTIFIED)
def test_signed_by_a_certified_party_of_another_role(
    scene: Scene, bundles: tuple[Bundle, Bundle], part: str, name: str, link: Link, signer: str
) -> None:
    """Under the signer's own name, too: a certificate says for what role."""
    bundle = holding(bundles, part)
    own = {TSM: Role.TSM, BANK: Role.BANK, SHOP: Role.MERCHANT}[signer]
    for role in Role:
        key, certificate = scene.stranger(signer, role)
        signed = resigned(get(bundle, part, name), key, request_digest=digest_of(bundle, part, name))
        forged = put(replace(bundle, certificates=(*bundle.certificates, certificate)), part, **{name: signed})
        verdict = scene.verify(forged)
        if role is own:  # what the role was for: a second key of the same party
            if name != "settlement":  # whose payout answers the first one
                verdict.require()
        elif role in (Role.USER, Role.OFFICER):  # the CA certifies neither
            assert failing(verdict)[part] == f"{link.value} (UNKNOWN_KEY)"
        else:
            assert failing(verdict)[part] == f"{link.value} (WRONG_ISSUER)"


@pytest.mark.parametrize(("part", "name", "link", "signer"), CERTIFIED)
def test_signed_by_another_party_of_the_same_role(
    scene: Scene, bundles: tuple[Bundle, Bundle], part: str, name: str, link: Link, signer: str
) -> None:
    """Certified for the role, and not the one whose word this must be."""
    bundle = holding(bundles, part)
    role = {TSM: Role.TSM, BANK: Role.BANK, SHOP: Role.MERCHANT}[signer]
    key, certificate = scene.stranger("somebody-else", role)
    signed = resigned(
        get(bundle, part, name), key, issuer="somebody-else", request_digest=digest_of(bundle, part, name)
    )
    forged = put(replace(bundle, certificates=(*bundle.certificates, certificate)), part, **{name: signed})
    after = {"tid_certificate": "tsm-info (WRONG_AUDIENCE)", "sign_on": "authorization (WRONG_ISSUER)"}
    if part == "receipt":  # a receipt names its TSM by itself: the settlement is another one's then
        assert failing(scene.verify(forged)) == {"payout": "settlement (WRONG_AUDIENCE)"}
    else:
        assert broken(scene, forged, part) == after.get(name, f"{link.value} (FIELD_MISMATCH)")


@pytest.mark.parametrize(("part", "name"), [row[:2] for row in SIGNED if not row[3]])
def test_a_key_without_a_certificate_is_the_one_that_was_vouched_for(
    scene: Scene, bundles: tuple[Bundle, Bundle], part: str, name: str
) -> None:
    forged = resigned(get(bundles[0], part, name), scene.world.key())
    link = next(row[2] for row in SIGNED if row[:2] == (part, name))
    assert broken(scene, put(bundles[0], part, **{name: forged}), part) == f"{link.value} (SIGNATURE_INVALID)"


@pytest.mark.parametrize(("part", "name", "link", "signer"), CERTIFIED)
def test_certificates_are_judged_at_the_time_of_the_signature(
    scene: Scene, bundles: tuple[Bundle, Bundle], part: str, name: str, link: Link, signer: str
) -> None:
    """One that has expired since still proves; one that had expired, or was not yet good, proves nothing."""
    bundle = holding(bundles, part)
    role = {TSM: Role.TSM, BANK: Role.BANK, SHOP: Role.MERCHANT}[signer]
    key = scene.world.merchant.sign if signer == SHOP else scene.key(signer)
    others = tuple(der for der in bundle.certificates if der not in certificates_of(scene, signer))
    assert len(others) == len(bundle.certificates) - 1
    for use, from_s, life_s in (
        (Use.SIGN, -YEAR_S, YEAR_S - 3600), (Use.SIGN, 3600, YEAR_S), (Use.SEAL, -60, YEAR_S), (Use.TLS, -60, YEAR_S),
    ):  # fmt: skip
        wrong = scene.certificate(key, signer, role, from_s=from_s, life_s=life_s, use=use)
        first = failing(scene.verify(replace(bundle, certificates=(*others, wrong))))
        links = [reason for reason in first.values() if not reason.startswith("rests-on")]
        assert links
        assert all(reason.endswith("(UNKNOWN_KEY)") for reason in links)
    short = scene.certificate(key, signer, role, life_s=3600)
    later = replace(bundle, certificates=(*others, short))
    scene.verify(later, now_s=scene.now_s + 20 * YEAR_S).require()


def certificates_of(scene: Scene, name: str) -> set[bytes]:
    return {scene.world.directory.named(name, Use.SIGN).certificate}


def test_another_ca(scene: Scene, bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    stranger = Scene.play(tmp_path, "elsewhere", users=0)
    for bundle, link in zip(bundles, ("tid-certificate", "receipt"), strict=True):
        found = failing(scene.verify(bundle, root=stranger.root))
        assert set(found) == {statement.value for statement in bundle.statements}
        assert next(iter(found.values())) == f"{link} (UNKNOWN_KEY)"
        assert failing(scene.verify(bundle, root=b"no certificate")) == found
        for position in range(len(bundle.certificates)):
            fewer = bundle.certificates[:position] + bundle.certificates[position + 1 :]
            for certificates in (fewer, (*fewer, flipped(bundle.certificates[position], -9))):
                reasons = failing(scene.verify(replace(bundle, certificates=certificates))).values()
                assert any(reason.endswith("(UNKNOWN_KEY)") for reason in reasons)


def test_what_was_signed_later_than_now(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    for bundle, link in zip(bundles, ("tid-certificate", "receipt"), strict=True):
        scene.verify(bundle, now_s=scene.now_s - MAX_SKEW_S).require()
        found = failing(scene.verify(bundle, now_s=scene.now_s - MAX_SKEW_S - 1))
        assert next(iter(found.values())) == f"{link} (NOT_YET_VALID)"
    never = resigned(get(bundles[1], "receipt", "receipt"), scene.key(TSM), issued_at_s=(1 << 40) - 1)
    assert broken(scene, put(bundles[1], "receipt", receipt=never), "receipt") == "receipt (UNKNOWN_KEY)"


# --- what the right parties signed, and what is not enough ---------------------------------------------------------
def said(kind: Any, signed: bytes, **changes: Any) -> bytes:
    """The payload with other values."""
    message = kind.from_bytes(cose.parse_sign1(signed, max_bytes=1 << 20).payload)
    return bytes(replace(message, **changes).to_bytes())


def by_tsm(scene: Scene, bundle: Bundle, part: str, name: str, kind: Any, **changes: Any) -> Bundle:
    """A message of the TSM's that says something else, properly signed."""
    signed = get(bundle, part, name)
    forged = resigned(
        signed, scene.key(TSM), payload=said(kind, signed, **changes), request_digest=digest_of(bundle, part, name)
    )
    return put(bundle, part, **{name: forged})


def test_a_tsm_that_says_something_else(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    tsm, shop = bundles
    certificate = get(tsm, "registration", "tid_certificate")
    key = scene.world.key().public.encoded
    for changes, reason in (
        ({"tid": "t-other"}, "tid-certificate (FIELD_MISMATCH)"),
        ({"pk_tid": bytes(65)}, "tid-certificate (MALFORMED)"),
        ({"pk_tid": key}, "tsm-info (SIGNATURE_INVALID)"),
        ({"expires_at_s": scene.now_s}, "tsm-info (FIELD_MISMATCH)"),
    ):  # fmt: skip
        forged = by_tsm(scene, tsm, "registration", "tid_certificate", TidCertificate, **changes)
        assert broken(scene, forged, "registration") == reason
    to_other = resigned(certificate, scene.key(TSM), audience="t-other")
    assert broken(scene, put(tsm, "registration", tid_certificate=to_other), "registration") == (
        "tid-certificate (FIELD_MISMATCH)"
    )
    decided = AuthorizationDecision.from_bytes(
        cose.parse_sign1(get(shop, "receipt", "receipt"), max_bytes=1 << 20).payload
    ).decided  # fmt: skip
    for changes in (
        {"amount_minor": 1}, {"verdict": Decision.DECLINED}, {"merchant": "shop-2"}, {"pan": ""}, {"sale": bytes(16)},
        {"cryptogram": bytes(8)}, {"atc": 9}, {"unpredictable": bytes(4)}, {"issuer_data": b"\0"}, {"currency": "USD"},
        {"terminal": "T0000009"},
    ):  # fmt: skip
        other = replace(decided, **changes)
        forged = by_tsm(scene, tsm, "purchase", "receipt", AuthorizationDecision, decided=other)
        assert broken(scene, forged, "purchase") == "receipt (FIELD_MISMATCH)"
    for changes in ({"verdict": Decision.DECLINED}, {"merchant": "shop-2"}):
        forged = by_tsm(scene, shop, "receipt", "receipt", AuthorizationDecision, decided=replace(decided, **changes))
        assert broken(scene, forged, "receipt") == "receipt (FIELD_MISMATCH)"
    for changes in ({"amount_minor": 1}, {"sale": bytes(16)}, {"currency": "USD"}):
        forged = by_tsm(scene, shop, "receipt", "receipt", AuthorizationDecision, decided=replace(decided, **changes))
        assert failing(scene.verify(forged)) == {"payout": "settlement (FIELD_MISMATCH)"}
    for changes in ({"total_minor": 1}, {"batch": bytes(16)}, {"currency": "USD"}):
        forged = by_tsm(scene, shop, "payout", "payout", Payout, **changes)
        assert broken(scene, forged, "payout") == "payout (FIELD_MISMATCH)"
    for changes in ({"claimed_minor": 20_000}, {"aid": "a-other"}, {"sequence": 2}, {"closing": True}):
        forged = by_tsm(scene, tsm, "claim", "claim", Claim, **changes)
        assert broken(scene, forged, "claim") == "claim-accepted (FIELD_MISMATCH)"


def test_a_settlement_that_the_merchant_signed_without_this_sale(
    scene: Scene, bundles: tuple[Bundle, Bundle]
) -> None:  # fmt: skip
    """Changed sales, signed by the merchant and paid out by the TSM: paid, and not for this."""
    settlement = get(bundles[1], "payout", "settlement")
    key = scene.world.merchant.sign
    for changes in ({"sales": ()}, {"currency": "USD"}):
        forged = resigned(settlement, key, payload=said(Settlement, settlement, **changes))
        altered = put(bundles[1], "payout", settlement=forged)
        assert broken(scene, altered, "payout") == "settlement (FIELD_MISMATCH)"


def test_the_holder_of_the_account_says_something_else(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    """By SK_TID itself: TSM and bank certified and promised otherwise."""
    tsm, key = bundles[0], scene.tid_key()
    info, keys = get(tsm, "registration", "tsm_info"), get(tsm, "issuance", "card_keys")
    for changes, reason in (
        ({"tid": "t-other"}, "tsm-info (FIELD_MISMATCH)"), ({"expires_at_s": 1}, "tsm-info (FIELD_MISMATCH)"),
        ({"r": bytes(32)}, "commitment (FIELD_MISMATCH)"), ({"sid": b"another"}, "commitment (FIELD_MISMATCH)"),
        ({"com": bytes(32)}, "commitment (FIELD_MISMATCH)"), ({"bank": "bank-b"}, "promise (FIELD_MISMATCH)"),
        ({"aid": "a-other"}, "promise (FIELD_MISMATCH)"), ({"limit_minor": 1}, "promise (FIELD_MISMATCH)"),
        ({"currency": "USD"}, "promise (FIELD_MISMATCH)"), ({"binfo_digest": bytes(32)}, "promise (FIELD_MISMATCH)"),
        ({"n2": bytes(32)}, "promise (FIELD_MISMATCH)"),
    ):  # fmt: skip
        forged = resigned(info, key, payload=said(TsmInfo, info, **changes))
        assert broken(scene, put(tsm, "registration", tsm_info=forged), "registration") == reason
    message = TsmInfo.from_bytes(cose.parse_sign1(info, max_bytes=1 << 20).payload)
    fresh = commitment(tid=message.tid, pk_tid=key.public.encoded, sid=message.sid, r=bytes(32))
    forged = resigned(info, key, payload=said(TsmInfo, info, r=bytes(32), com=fresh))
    assert broken(scene, put(tsm, "registration", tsm_info=forged), "registration") == "promise (FIELD_MISMATCH)"
    for changes, reason in (({"tid": "t-other"}, "FIELD_MISMATCH"), ({"root": bytes(32)}, "EVIDENCE_INCOMPLETE")):
        forged = resigned(keys, key, payload=said(CardKeys, keys, **changes))
        link = "card-keys" if "tid" in changes else "leaf"
        assert broken(scene, put(tsm, "issuance", card_keys=forged), "issuance") == f"{link} ({reason})"
    for audience in ("tsm-2", BANK):
        forged = resigned(keys, key, audience=audience)
        assert broken(scene, put(tsm, "issuance", card_keys=forged), "issuance") == "card-keys (WRONG_AUDIENCE)"


def test_a_terminal_that_is_not_the_one_that_was_shown(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    tsm, merchant = bundles[0], scene.world.merchant.sign
    sign_on = get(tsm, "purchase", "sign_on")
    for changes, reason in (
        ({"merchant_name": "Another Shop"}, "card-signature (FIELD_MISMATCH)"),
        ({"merchant_identifier": "TAPVEIL00000002"}, "card-signature (FIELD_MISMATCH)"),
        ({"terminal": "T0000009"}, "authorization (FIELD_MISMATCH)"),
        ({"terminal_key": bytes(65)}, "authorization (MALFORMED)"),
        ({"terminal_key": merchant.public.encoded}, "authorization (SIGNATURE_INVALID)"),
    ):  # fmt: skip
        forged = resigned(sign_on, merchant, payload=said(SignOn, sign_on, **changes))
        assert broken(scene, put(tsm, "purchase", sign_on=forged), "purchase") == reason
    late = scene.now_s + 3600
    after = resigned(sign_on, merchant, issued_at_s=late, expires_at_s=late + 60)
    assert broken(scene, put(tsm, "purchase", sign_on=after), "purchase", now_s=late) == "authorization (NOT_YET_VALID)"


def test_a_purchase_that_no_card_made(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    """Merchant and TSM together change what the card signed."""
    tsm = bundles[0]
    asked = get(tsm, "purchase", "authorization")
    purchase = Authorization.from_bytes(cose.parse_sign1(asked, max_bytes=1 << 20).payload).purchase
    for changes in (
        {"pdol_data": flipped(purchase.pdol_data, 5)}, {"cdol_data": flipped(purchase.cdol_data, 5)},
        {"atc": purchase.atc + 1}, {"signature": flipped(purchase.signature, 9)}, {"records": purchase.records[1:]},
    ):  # fmt: skip
        payload = said(Authorization, asked, purchase=replace(purchase, **changes))
        forged = resigned(asked, scene.key("terminal"), payload=payload)
        receipt = resigned(get(tsm, "purchase", "receipt"), scene.key(TSM), request_digest=Wire(cose=forged).digest)
        altered = put(tsm, "purchase", authorization=forged, receipt=receipt)
        assert broken(scene, altered, "purchase") == "card-signature (FIELD_MISMATCH)"


def test_a_purchase_at_another_tsm_than_the_registration(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    """Whole by itself, and not with this account."""
    merchant, terminal, other = scene.world.merchant.sign, scene.key("terminal"), scene.key("tsm-2")
    tsm = replace(bundles[0], statements=(Statement.REGISTRATION, Statement.PURCHASE))
    tsm = replace(tsm, certificates=(*tsm.certificates, *certificates_of(scene, "tsm-2")))
    sign_on = resigned(get(tsm, "purchase", "sign_on"), merchant, audience="tsm-2")
    asked = resigned(get(tsm, "purchase", "authorization"), terminal, audience="tsm-2")
    receipt = resigned(get(tsm, "purchase", "receipt"), other, issuer="tsm-2", request_digest=Wire(cose=asked).digest)
    moved = put(tsm, "purchase", sign_on=sign_on, authorization=asked, receipt=receipt)
    scene.verify(replace(moved, statements=(Statement.PURCHASE,))).require()
    assert failing(scene.verify(moved)) == {"purchase": "account (FIELD_MISMATCH)"}


@pytest.mark.parametrize("changes", [{"aid": "a-other"}, {"sid_digest": bytes(32)}, {}])
def test_a_claim_under_another_grant(
    scene: Scene, bundles: tuple[Bundle, Bundle], changes: dict[str, Any]
) -> None:  # fmt: skip
    """TSM and bank agree on it; this account is not what it is of."""
    tsm = bundles[0]
    bank = "bank-b" if not changes else BANK
    claim, accepted = get(tsm, "claim", "claim"), get(tsm, "claim", "accepted")
    payload = said(Claim, claim, **changes)
    moved = put(
        replace(tsm, certificates=(*tsm.certificates, *certificates_of(scene, "bank-b"))), "claim",
        claim=resigned(claim, scene.key(TSM), payload=payload, audience=bank),
        accepted=resigned(
            accepted, scene.key(bank), payload=payload, issuer=bank, request_digest=get(tsm, "claim", "asked")
        ),
    )  # fmt: skip
    scene.verify(replace(moved, statements=(Statement.PURCHASE, Statement.CLAIM))).require()
    assert failing(scene.verify(moved)) == {"claim": "account (FIELD_MISMATCH)"}


# --- bytes -----------------------------------------------------------------------------------------------------------
@given(st.binary(max_size=200))
def test_bytes_that_are_no_bundle(data: bytes) -> None:
    with pytest.raises(Malformed) as refusal:
        Bundle.from_bytes(data)
    assert refusal.value.code == "MALFORMED"


@given(position=st.integers(min_value=0), mask=st.integers(1, 255), shop=st.booleans())
def test_any_byte_altered_ends_in_a_refusal_or_a_verdict(
    scene: Scene, bundles: tuple[Bundle, Bundle], position: int, mask: int, shop: bool
) -> None:
    data = bundles[shop].to_bytes()
    try:
        altered = Bundle.from_bytes(flipped(data, position, mask))
    except (Malformed, Oversize) as refusal:
        assert refusal.code in ("MALFORMED", "OVERSIZE")
        return
    verdict = verify_bundle(altered, root=scene.root, now_s=scene.now_s)
    assert {finding.statement for finding in verdict.findings} == set(altered.statements)


def test_bundles_out_of_bounds(bundles: tuple[Bundle, Bundle]) -> None:
    plain = decode(bundles[0].to_bytes(), max_bytes=1 << 20)
    for changes, error in (
        ({"statements": []}, Malformed), ({"statements": ["receipt", "receipt"]}, Malformed),
        ({"statements": ["purchase", "innocence"]}, Malformed), ({"more": 1}, Malformed),
        ({"purchase": plain["purchase"] * 2}, Oversize), ({"certificates": [b"\0"] * 17}, Oversize),
        ({"certificates": [bytes(5000)]}, Oversize), ({"emv_ca": plain["emv_ca"] * 5}, Oversize),
        ({"claim": [{**plain["claim"][0], "more": b""}]}, Malformed),
    ):  # fmt: skip
        with pytest.raises(error) as refusal:
            Bundle.from_bytes(encode({**plain, **changes}))
        assert refusal.value.code == error.code
    with pytest.raises(Oversize) as refusal:
        Bundle.from_bytes(bytes(Bundle.MAX_BYTES + 1))
    assert refusal.value.code == "OVERSIZE"


def test_a_bundle_shows_no_other_card_and_no_other_sale(scene: Scene, bundles: tuple[Bundle, Bundle]) -> None:
    modulus = get(bundles[0], "issuance", "modulus")
    others = [row for row in scene.tsm.store.scan(CARDS) if row.modulus != modulus]
    assert len(others) == 5
    for bundle in bundles:
        shown = bundle.to_bytes()
        assert scene.sales[1] not in shown
        for row in others:
            for secret in (row.modulus, row.salt, row.pan.encode(), bytes.fromhex(row.pan + "0")[:9]):
                assert secret not in shown


def test_evidence_of_a_day_later(scene: Scene) -> None:
    """Another purchase and claim, under a clock that went on: nothing is judged as of today."""
    phone, tid = shopper(scene.world, "phone-9", number=1)
    scene.world.clock.time_s += 3600
    scene.world.refresh_stops(anew=True)
    scene.sales.append(pay(scene.stall, phone, tid))
    settle(scene.stall)
    Desk(scene.world).claim()
    bundle, sale = scene.of_tsm(-1), scene.of_shop(-1)
    for later_s in (0, 10 * 24 * 3600, 30 * YEAR_S):
        scene.verify(bundle, now_s=scene.now_s + later_s).require()
        scene.verify(sale, now_s=scene.now_s + later_s).require()
