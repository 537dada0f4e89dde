"""The allow-list is what is declared: a new column, field, log line or class of value fails until somebody decides."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from parties.channels import CODE_KEY
from parties.checker.allow_list import (
    LIST,
    ROLES,
    AllowList,
    allow_list,
    declared,
    read_allow_list,
    undecided,
    undecided_labels,
    undecided_logs,
)
from parties.checker.holdings import BEGIN, DOCUMENT, END, main, written
from protocol.messages.settle import Settlement
from protocol.roles.bank.tables import Customer
from protocol.roles.merchant.tables import SaleRow
from protocol.roles.tsm.tables import Service
from protocol.schema import Many, Nested, Record, Text
from protocol.types import Role

ROOT = Path(__file__).parents[3]


def plain() -> dict[str, Any]:
    return tomllib.loads((ROOT / LIST).read_text())


def changed(section: str, **values: Any) -> AllowList:
    found = plain()
    found[section] |= values
    return read_allow_list(found)


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "parties").rglob("*.py")):
        yield str(path.relative_to(ROOT)), path.read_text()


def test_everything_declared_is_decided() -> None:
    assert list(undecided(declared(), allow_list())) == []


def test_everything_logged_is_decided() -> None:
    assert list(undecided_logs(sources(), allow_list())) == []


def test_every_label_of_a_metric_is_decided() -> None:
    assert list(undecided_labels(sources(), allow_list())) == []


def test_one_header_is_sent_beside_messages() -> None:
    """The code of a refusal; no other is set, and none is read of a request."""
    setting = [name for name, text in sources() if "set_trailing_metadata(" in text]
    assert setting == ["parties/channels.py"]
    assert not any(word in text for _, text in sources() for word in ("invocation_metadata", "initial_metadata"))
    assert allow_list().headers.keys() == {CODE_KEY}


# --- what is planted -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("role", "table", "row"),
    [(Role.TSM, "services", Service), (Role.BANK, "customers", Customer), (Role.MERCHANT, "sales", SaleRow)],
)
def test_a_planted_column_is_found(role: Role, table: str, row: type) -> None:
    planted = make_dataclass("Planted", [("customer_name", str, field(kw_only=True))], bases=(row,), frozen=True)
    found = list(undecided(declared().with_row(role, table, planted), allow_list()))
    assert found == [f"{role.value}: column {table}.customer_name is on no allow-list: decide about it in {LIST}"]


def test_a_planted_table_is_found() -> None:
    planted = make_dataclass("Loyalty", [("card", str)])
    found = list(undecided(declared().with_row(Role.MERCHANT, "loyalty", planted), allow_list()))
    assert found == [f"merchant: column loyalty.card is on no allow-list: decide about it in {LIST}"]


class Loyalty(Record):
    """What no message has."""

    NAME: ClassVar[str] = "loyalty"
    member: Annotated[str, Text(8, ".*")]


class Planted(Record):
    """A settlement with a field and a record too many."""

    NAME: ClassVar[str] = Settlement.NAME
    batch: Annotated[bytes, Settlement.specs()["batch"]]
    currency: Annotated[str, Settlement.specs()["currency"]]
    total_minor: Annotated[int, Settlement.specs()["total_minor"]]
    customer_name: Annotated[str, Text(64, ".*")]
    members: Annotated[tuple[Loyalty, ...], Many(Nested(Loyalty), 0, 9)]


def test_a_planted_field_is_found() -> None:
    found = list(undecided(declared().with_record(Planted), allow_list()))
    assert found == [f"field settlement.customer_name is on no allow-list: decide about it in {LIST}"]


def test_a_planted_record_is_found() -> None:
    found = list(undecided(declared().with_record(Loyalty), allow_list()))
    assert found == [
        f"field loyalty.member is on no allow-list: decide about it in {LIST}",
        f"loyalty is read by nobody: decide about it in {LIST}",
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('log.info("served", customer_name=name)', "logs customer_name, which"),
        ('log.info("sold to Ada")', "logs an event that"),
        ("log.warning(text)", "logs an event that"),
        ('log.error("fault", **fields)', "logs None, which"),
    ],
)
def test_a_planted_log_line_is_found(line: str, what: str) -> None:
    found = list(undecided_logs([("parties/planted.py", f"def plant():\n    {line}\n")], allow_list()))
    assert found == [f"parties/planted.py:2 {what} is on no allow-list: decide about it in {LIST}"]


def test_a_planted_label_is_found() -> None:
    line = """yield f'tapveil_sales_total{{merchant="{merchant}",code="{code}"}} {count}'"""
    found = list(undecided_labels([("parties/planted.py", line)], allow_list()))
    where = "parties/planted.py:1 has a metric with merchant, which"
    assert found == [f"{where} is on no allow-list: decide about it in {LIST}"]


@pytest.mark.parametrize("name", ["logs", "envelope"])
def test_a_planted_field_of_logs_and_envelopes_is_found(name: str) -> None:
    code = declared()
    found = list(undecided(replace(code, **{name: getattr(code, name) | {"client"}}), allow_list()))
    assert found == [f"{name.removesuffix('s')} field client is on no allow-list: decide about it in {LIST}"]


# --- decisions that are none -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("role", "table", "held"),
    [
        ("tsm", "services", "person"), ("tsm", "tid_list", "phone"), ("merchant", "sales", "account"),
        ("merchant", "sales", "pseudonym"), ("bank", "grants", "purchase"), ("bank", "ledger", "amount"),
        ("bank", "received_claims", "merchant"),
    ],
)  # fmt: skip
def test_a_column_of_a_class_that_the_role_must_not_hold_is_found(role: str, table: str, held: str) -> None:
    found = plain()
    columns = found[role]["columns"][table]
    first = next(iter(columns))
    (name, *rest) = columns[first].split()
    columns[first] = " ".join(rest)
    columns[held] = f"{columns.get(held, '')} {name}"
    told = list(undecided(declared(), read_allow_list(found)))
    assert told == [f"{role}: column {table}.{name} holds what a {role} must not: {held}"]


def test_a_message_that_a_role_must_not_read_is_found() -> None:
    """The till that opened a service account's messages would hold pseudonyms."""
    code = declared()
    reads = {**code.reads, "merchant": code.reads["merchant"] | {"service-request"}}
    found = list(undecided(replace(code, reads=reads), allow_list()))
    assert [one.partition(" holds")[0] for one in found] == [
        f"merchant: field service-request.{name}" for name in ("tid", "pk_tid", "ek_tid")
    ]


def test_what_is_gone_is_struck_from_the_list() -> None:
    bare = make_dataclass("Bare", [("tid", str)])
    found = list(undecided(declared().with_row(Role.TSM, "services", bare), allow_list()))
    assert f"tsm: column services.stop is on the allow-list, and there is none: strike it from {LIST}" in found


def test_a_word_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="nickname, of loyalty, is no class"):
        changed("messages", loyalty={"nickname": "member"})


def test_two_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loyalty\.member has two classes"):
        changed("messages", loyalty={"person": "member", "state": "member"})


# --- the list itself -------------------------------------------------------------------------------------------------
def test_no_role_may_hold_what_the_paper_keeps_from_it() -> None:
    holds = allow_list().holds
    assert holds.keys() == {role.value for role in ROLES}
    assert not holds["tsm"] & {"person", "phone"}
    assert not holds["merchant"] & {"person", "phone", "account", "grant", "pseudonym", "case"}
    assert not holds["bank"] & {"pseudonym", "card", "purchase", "amount", "merchant"}
    assert not holds["sp"] - {
        "institution", "software", "time", "key", "nonce", "digest", "state", "object"
    }  # fmt: skip
    assert set().union(*holds.values()) == allow_list().classes.keys()


def test_each_exception_has_its_reason() -> None:
    for one in allow_list().exceptions:
        assert one.why
        assert bool(one.columns) != bool(one.inside)
        listed = {f"{t}.{c}" for t, own in allow_list().columns[one.role].items() for c in own}
        assert one.columns <= listed
        assert not one.inside or one.inside in allow_list().messages


# --- as the threat model shows it ------------------------------------------------------------------------------------
def test_the_threat_model_shows_the_list_as_it_is() -> None:
    document = (ROOT / DOCUMENT).read_text()
    assert document == written(document, allow_list())
    assert "| person: " in document


def test_another_list_is_another_table(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / DOCUMENT).write_text((ROOT / DOCUMENT).read_text())
    main(tmp_path)
    assert (tmp_path / DOCUMENT).read_text() == (ROOT / DOCUMENT).read_text()
    found = plain()
    found["holds"]["tsm"] += " person"
    assert written((ROOT / DOCUMENT).read_text(), read_allow_list(found)) != (ROOT / DOCUMENT).read_text()


@pytest.mark.parametrize("mark", [BEGIN, END])
def test_a_lost_mark_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="lost a mark"):
        written((ROOT / DOCUMENT).read_text().replace(mark, ""), allow_list())
