"""What the freezing commands of bank and TSM share: the reason, and how stops are listed."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from protocol.messages.stops import StopReason


def _reason(_ctx: click.Context, _param: click.Parameter, value: str) -> StopReason:
    from protocol.messages.stops import StopReason

    try:
        return StopReason(value)
    except ValueError as exc:
        raise click.BadParameter(f"must be one of {', '.join(StopReason)}") from exc


reason_option = click.option(
    "--reason", required=True, callback=_reason,
    help="lost-phone, crime-report, fraud, court-order or own-wish. It stays here.",
)  # fmt: skip


def stop_rows(records: tuple[Any, ...], holder: str) -> list[dict[str, Any]]:
    """Records of stops for output; `holder` is the column that says whose account it is."""
    return [
        {
            holder: getattr(record, holder), "kind": record.kind, "reason": record.reason,
            "made_at_s": record.made_at_s, "lifted_at_s": record.lifted_at_s,
        }
        for record in records
    ]  # fmt: skip


def stop_lines(rows: list[dict[str, Any]], holder: str) -> list[str]:
    """One line a stop, for a person to read; times in UTC."""
    lines = []
    for row in rows:
        until = f"until {_time(row['lifted_at_s'])}" if row["lifted_at_s"] else "holds"
        lines.append(f"{row[holder]}  {row['kind']}  {row['reason']}  since {_time(row['made_at_s'])}  {until}")
    return lines


def _time(at_s: int) -> str:
    return datetime.datetime.fromtimestamp(at_s, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
