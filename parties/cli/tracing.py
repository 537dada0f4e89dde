"""Commands around a trace: of the bank's officers (`tapveil bank trace`), and of the TSM's operator."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import click

from parties.cli.output import json_option, one_line_errors, show

HEX_DIGITS: Final = 32
bank_settings = click.option(
    "--settings", required=True, type=click.Path(path_type=Path), help="The bank's settings.toml."
)
passphrase_option = click.option(
    "--passphrase-file", type=click.Path(path_type=Path), help="The officer's own passphrase; else it is asked for."
)


class Handle(click.ParamType[bytes]):
    """32 hexadecimal digits."""

    name = "hex"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """As bytes."""
        text = str(value)
        try:
            data = bytes.fromhex(text)
        except ValueError:
            data = b""
        if len(text) != HEX_DIGITS or not data:
            self.fail(f"{text!r} is not {HEX_DIGITS} hexadecimal digits", param, ctx)
        return data


HANDLE: Final = Handle()


def _passphrase(path: Path | None, *, confirm: bool) -> bytes:
    if path is not None:
        from parties.trace import read_file

        return read_file(path).strip()
    answer: str = click.prompt("Officer's passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return answer.encode()


@click.command("add-officer")
@bank_settings
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder, for the officer alone.")
@passphrase_option
@click.argument("name")
@json_option
@one_line_errors
def add_officer(settings: Path, out: Path, passphrase_file: Path | None, name: str, as_json: bool) -> None:
    """Appoint NAME to sign traces: makes their own key and certificate. The log keeps who was appointed."""
    from parties.trace import add_officer as add

    add(settings, name, out, _passphrase(passphrase_file, confirm=True))
    show({"officer": name, "folder": str(out)}, as_json=as_json)


@click.command("remove-officer")
@bank_settings
@click.argument("name")
@json_option
@one_line_errors
def remove_officer(settings: Path, name: str, as_json: bool) -> None:
    """Let NAME sign no more; what they signed counts no more in cases that are open."""
    from parties.trace import remove_officer as remove

    remove(settings, name)
    show({"officer": name, "state": "removed"}, as_json=as_json)


@click.group("trace")
def trace_cases() -> None:
    """Cases in which a TSM asks for a person's name: two officers look at each, and sign."""


@trace_cases.command("list")
@bank_settings
@json_option
@one_line_errors
def list_cases(settings: Path, as_json: bool) -> None:
    """All cases, without their purchases."""
    from parties.trace import list_cases as read

    cases = read(settings)
    if as_json:
        sys.stdout.write(json.dumps({"cases": cases}) + "\n")
        return
    for case in cases:
        click.echo(" ".join(str(case[column]) for column in ("case", "state", "reason", "tsm", "requester")))


@trace_cases.command("show")
@bank_settings
@click.argument("case", type=HANDLE)
@json_option
@one_line_errors
def show_case(settings: Path, case: bytes, as_json: bool) -> None:
    """The purchase that CASE is about, and who has signed. The person's name is not shown."""
    from parties.trace import show_case as read

    show(read(settings, case), as_json=as_json)


def _verdict(settings: Path, case: bytes, officer: Path, passphrase_file: Path | None, verdict: str) -> dict[str, str]:
    from parties.trace import give_verdict

    taken = give_verdict(settings, case, officer, _passphrase(passphrase_file, confirm=False), verdict)
    return {"case": case.hex(), "state": taken.state}


@trace_cases.command()
@bank_settings
@click.option("--officer", required=True, type=click.Path(path_type=Path), help="The officer's folder.")
@passphrase_option
@click.argument("case", type=HANDLE)
@json_option
@one_line_errors
def approve(settings: Path, officer: Path, passphrase_file: Path | None, case: bytes, as_json: bool) -> None:
    """Sign that the person of CASE may be named. The second officer's signature answers."""
    from protocol.roles.bank.officers import APPROVE

    show(_verdict(settings, case, officer, passphrase_file, APPROVE), as_json=as_json)


@trace_cases.command()
@bank_settings
@click.option("--officer", required=True, type=click.Path(path_type=Path), help="The officer's folder.")
@passphrase_option
@click.argument("case", type=HANDLE)
@json_option
@one_line_errors
def refuse(settings: Path, officer: Path, passphrase_file: Path | None, case: bytes, as_json: bool) -> None:
    """Sign that the person of CASE is not to be named. That ends it."""
    from protocol.roles.bank.officers import REFUSE

    show(_verdict(settings, case, officer, passphrase_file, REFUSE), as_json=as_json)


@trace_cases.command()
@bank_settings
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where the sealed answer is written to.")
@click.argument("case", type=HANDLE)
@json_option
@one_line_errors
def answer(settings: Path, out: Path, case: bytes, as_json: bool) -> None:
    """Hand out the answer to CASE; only the requester can open it."""
    from parties.trace import hand_out, write_file

    write_file(out, hand_out(settings, case))
    show({"case": case.hex(), "answer": str(out)}, as_json=as_json)


@click.command("trace")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The TSM's settings.toml.")
@click.option("--merchant", required=True, help="Whose sale it was.")
@click.option("--sale", required=True, type=HANDLE, help="The merchant's name of the sale.")
@click.option("--reason", required=True, help="dispute, default, fraud or court-order.")
@click.option("--requester", required=True, help="Who is to be told: a party with a sealing certificate.")
@click.option("--case", type=HANDLE, help="The case's name; else a new one, or the one that this sale has already.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the sealed answer is written to, once it is there.")
@json_option
@one_line_errors
def trace_purchase(
    settings: Path, merchant: str, sale: bytes, reason: str, requester: str, case: bytes | None, out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Ask the bank who made a purchase, with proof that it was made; or, asked again, how that stands."""
    from parties.trace import ask, write_file

    row = ask(settings, merchant=merchant, sale=sale, reason=reason, requester=requester, case=case or b"")
    result = {"case": row.case_id.hex(), "bank": row.bank, "state": row.state}
    if out is not None and row.answer:
        write_file(out, row.answer)
        result["answer"] = str(out)
    show(result, as_json=as_json)


@click.command("open-trace")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The TSM's settings.toml.")
@click.argument("answer", type=click.Path(path_type=Path))
@json_option
@one_line_errors
def open_trace(settings: Path, answer: Path, as_json: bool) -> None:
    """Read a bank's ANSWER that is sealed to this TSM. Prints the person's NAME."""
    from parties.cli.audit import show_answer

    show_answer(settings, answer, as_json=as_json)
