"""`tapveil wallet`: what a person does with a phone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from parties.cli.bank import read_passcode
from parties.cli.output import json_option, one_line_errors, show

if TYPE_CHECKING:
    from parties.client import PhoneClient, Tap
    from parties.launcher import Launcher

phone_option = click.option(
    "--phone", "folder", required=True, type=click.Path(path_type=Path), help="The phone's folder."
)
bank_option = click.option("--bank", default="bank-a", show_default=True, help="The bank that judges launches.")
tsm_option = click.option("--tsm", default="tsm-1", show_default=True, help="The TSM.")
tid_option = click.option("--tid", required=True, help="The service account.")
pin_file_option = click.option(
    "--pin-file", type=click.Path(path_type=Path), help="The PIN; else it is asked for when it is needed."
)
MIN_PERSONAL: Final = 4
MAX_PERSONAL: Final = 8
"""How many digits such a number has for a PIN to resemble it, and how many numbers the secure element looks at."""
_PIN: Final = re.compile("[0-9]{4,12}")


def _launcher(folder: Path) -> Launcher:
    from parties.launcher import Launcher as Phone

    return Phone(folder)


@click.group()
def wallet() -> None:
    """Act as a person with a phone.

    Commands of the app first pass a launch attestation (ATT-L). Those around a purchase do not: a launch at each
    payment would tell the bank when its customer pays, and the secure element measures the phone by itself.
    """


@wallet.command()
@phone_option
@bank_option
@click.option("--branch-code", required=True, help="The one-time code from `tapveil bank add-customer`.")
@json_option
@one_line_errors
def enroll(folder: Path, bank: str, branch_code: str, as_json: bool) -> None:
    """INIT: register this phone at the bank."""
    show({"user": _launcher(folder).enroll(bank=bank, branch_code=branch_code)}, as_json=as_json)


@wallet.command()
@phone_option
@bank_option
@click.option("--provider", default="sp-1", show_default=True, help="The software provider.")
@json_option
@one_line_errors
def install(folder: Path, bank: str, provider: str, as_json: bool) -> None:
    """ATT-D0 … D7: download, check, approval by the bank, installation, report."""
    software = _launcher(folder).install(bank=bank, provider=provider).software
    show({"software": software.software_id, "version": software.version, "sha256": software.digest.hex()},
         as_json=as_json)  # fmt: skip


@wallet.command()
@phone_option
@bank_option
@json_option
@one_line_errors
def launch(folder: Path, bank: str, as_json: bool) -> None:
    """ATT-L1 … L6: may the app run? Exit status 1 with the typed reason if not."""
    from parties.launcher import refusal_for

    decision = _launcher(folder).launch(bank=bank)
    if not decision.allowed:
        raise refusal_for(decision.reason, "the app may not run")
    show({"allowed": True, "passes": decision.passes}, as_json=as_json)


def _app(folder: Path, bank: str, arguments: list[str], *, as_json: bool, passcode: str = "") -> None:
    result: dict[str, Any] = _launcher(folder).start(arguments, bank=bank, passcode=passcode)
    show(result, as_json=as_json)


@wallet.command()
@phone_option
@bank_option
@json_option
@one_line_errors
def status(folder: Path, bank: str, as_json: bool) -> None:
    """What the secure element holds. What is left of a limit only the TSM knows."""
    state = _launcher(folder).start(["status"], bank=bank)
    show(state, as_json=as_json)
    for tid in state.get("recredits", ()):
        _notice(tid)


def _notice(tid: str) -> None:
    click.echo(
        f"The TSM asks for further credit for {tid}: `tapveil wallet recredit --tid {tid} --bank BANK`, another bank.",
        err=True,
    )


@wallet.command("open-account")
@phone_option
@bank_option
@tsm_option
@click.option("--passcode-file", type=click.Path(path_type=Path), help="The passcode; else it is asked for.")
@json_option
@one_line_errors
def open_account(folder: Path, bank: str, tsm: str, passcode_file: Path | None, as_json: bool) -> None:
    """AID: open an anonymous account at the bank, for use at the TSM."""
    passcode = read_passcode(passcode_file, confirm=False)
    _app(folder, bank, ["open-account", "--bank", bank, "--tsm", tsm], as_json=as_json, passcode=passcode)


@wallet.command()
@phone_option
@bank_option
@tsm_option
@click.option("--aid", required=True, help="The anonymous account that pays.")
@click.option("--maximum", default=0, show_default=True, help="Own maximum per purchase in minor units; 0: none.")
@json_option
@one_line_errors
def register(folder: Path, bank: str, tsm: str, aid: str, maximum: int, as_json: bool) -> None:
    """TID: open a service account at the TSM with the credit of AID."""
    _app(folder, bank, ["register", "--tsm", tsm, "--aid", aid, "--maximum", str(maximum)], as_json=as_json)


@wallet.command()
@phone_option
@bank_option
@tsm_option
@click.option("--tid", required=True, help="The service account.")
@click.option("--number", default=4, show_default=True, type=click.IntRange(1, 32), help="How many cards.")
@json_option
@one_line_errors
def issue(folder: Path, bank: str, tsm: str, tid: str, number: int, as_json: bool) -> None:
    """CARD: have virtual cards issued."""
    _app(folder, bank, ["issue", "--tsm", tsm, "--tid", tid, "--number", str(number)], as_json=as_json)


@wallet.command()
@phone_option
@bank_option
@tsm_option
@click.option("--tid", required=True, help="The service account.")
@click.option("--aid", default="", help="Give the credit of this anonymous account back only.")
@json_option
@one_line_errors
def close(folder: Path, bank: str, tsm: str, tid: str, aid: str, as_json: bool) -> None:
    """Close a service account: its cards end, and each bank frees its anonymous account."""
    _app(folder, bank, ["close", "--tsm", tsm, "--tid", tid, "--aid", aid], as_json=as_json)


@wallet.command()
@phone_option
@tsm_option
@tid_option
@click.option("--pool", default=8, show_default=True, type=click.IntRange(1, 32), help="How many cards to have ready.")
@json_option
@one_line_errors
def renew(folder: Path, tsm: str, tid: str, pool: int, as_json: bool) -> None:
    """RENEW: have missing cards issued, and a successor before the first expires. Run it daily, not when paying."""
    result = _launcher(folder).run_app(["renew", "--tsm", tsm, "--tid", tid, "--pool", str(pool)])
    show(result, as_json=as_json)
    if result.get("recredit"):
        _notice(tid)


@wallet.command()
@phone_option
@click.option("--bank", required=True, help="Another bank, where this phone is registered.")
@tsm_option
@tid_option
@click.option(
    "--passcode-file", type=click.Path(path_type=Path),
    help="The passcode at that bank; else it is asked for when it is needed.",
)  # fmt: skip
@json_option
@one_line_errors
def recredit(folder: Path, bank: str, tsm: str, tid: str, passcode_file: Path | None, as_json: bool) -> None:
    """RECREDIT: further credit for a service account whose TSM asks for it, of another bank.

    An anonymous account that is open at that bank is taken; else one is opened.
    """
    phone = _launcher(folder)
    phone.expect_registered(bank)
    free = any(
        (credit["bank"], credit["tsm"], credit["tid"]) == (bank, tsm, "")
        for credit in phone.run_app(["status"])["credits"]
    )
    passcode = read_passcode(passcode_file, confirm=False) if passcode_file is not None or not free else ""
    arguments = ["recredit", "--tsm", tsm, "--tid", tid, "--bank", bank]
    show(phone.start(arguments, bank=bank, passcode=passcode), as_json=as_json)


@wallet.command()
@phone_option
@tid_option
@click.option("--ceiling", required=True, type=click.IntRange(1), help="The most that may be asked, in minor units.")
@click.option("--reader", required=True, metavar="HOST:PORT", help="The merchant's reader, on this machine.")
@click.option("--seconds", default=30, show_default=True, type=click.IntRange(1, 50), help="How long to hold on.")
@pin_file_option
@json_option
@one_line_errors
def pay(folder: Path, tid: str, ceiling: int, reader: str, seconds: int, pin_file: Path | None, as_json: bool) -> None:
    """PAY: open a card for one purchase and hold the phone to the reader.

    Above the verification limit the phone shows what is asked, takes the PIN, and is held on once more.
    """
    import dataclasses

    from parties.client import PhoneClient

    phone = PhoneClient(folder)
    tap = phone.pay(tid, ceiling_minor=ceiling, reader=reader, seconds=seconds)
    if tap.state == "EXPECT_PIN":
        confirmed = False
        try:
            tap = _confirm(phone, tap, reader, seconds, pin_file)
            confirmed = True
        finally:
            if not confirmed:  # refused, or the person went away
                _close_card(phone, tid)
    show(dataclasses.asdict(tap), as_json=as_json)


def _confirm(phone: PhoneClient, tap: Tap, reader: str, seconds: int, pin_file: Path | None) -> Tap:
    """The PIN for what is asked; one that was typed wrong may be typed again. Raises: the app's refusal."""
    from protocol.errors import PinInvalid

    click.echo(
        f"{tap.merchant_name} ({tap.merchant}, terminal {tap.terminal}) asks for {tap.amount_minor} minor units of "
        f"{tap.currency}.", err=True,
    )  # fmt: skip
    while True:
        pin = _pin(pin_file, "PIN")
        try:
            return phone.confirm(tap, pin=pin, reader=reader, seconds=seconds)
        except PinInvalid:  # after the fifth it is FACTOR_LOCKED, and the end
            if pin_file is not None:
                raise
            click.echo("The PIN is wrong.", err=True)


def _close_card(phone: PhoneClient, tid: str) -> None:
    from protocol.errors import ProtocolError

    try:
        phone.close_card(tid)
    except ProtocolError:  # it closes by itself within a minute; what ended the purchase is what the person must know
        click.echo("The card could not be closed now; it closes within a minute.", err=True)


@wallet.command("close-card")
@phone_option
@tid_option
@json_option
@one_line_errors
def close_card(folder: Path, tid: str, as_json: bool) -> None:
    """PAY: take the consent back; the next tap finds no card."""
    show(_launcher(folder).run_app(["close-card", "--tid", tid]), as_json=as_json)


@wallet.command("set-pin")
@phone_option
@click.option(
    "--old-pin-file", type=click.Path(path_type=Path), help="The PIN now; else it is asked for, if there is one."
)
@click.option("--pin-file", type=click.Path(path_type=Path), help="The new PIN; else it is asked for.")
@click.option(
    "--personal-file", type=click.Path(path_type=Path),
    help="Digits that the PIN must not resemble, a line each: birth date, identity and telephone numbers.",
)  # fmt: skip
@json_option
@one_line_errors
def set_pin(
    folder: Path, old_pin_file: Path | None, pin_file: Path | None, personal_file: Path | None, as_json: bool
) -> None:
    """TW-G3a: set the first PIN, or change it. It is kept in the secure element only."""
    phone = _launcher(folder)
    old = ""
    if old_pin_file is not None or phone.run_app(["status"]).get("pin") == "ACTIVE":
        old = _pin(old_pin_file, "Old PIN")
    new = _pin(pin_file, "New PIN", confirm=True)
    personal = _personal(personal_file)
    show(phone.run_app(["set-pin"], passcode="\n".join((old, new, *personal))), as_json=as_json)


@wallet.command("reopen-pin")
@phone_option
@bank_option
@click.option(
    "--approval", required=True, type=click.Path(path_type=Path), help="The file from `tapveil bank reopen-pin`."
)
@json_option
@one_line_errors
def reopen_pin(folder: Path, bank: str, approval: Path, as_json: bool) -> None:
    """TW-G3b: after five wrong entries and a visit to the branch; set a new PIN next."""
    arguments = ["reopen-pin", "--bank", bank, "--approval", str(approval.absolute())]
    show(_launcher(folder).run_app(arguments), as_json=as_json)


def _pin(path: Path | None, prompt: str, *, confirm: bool = False) -> str:
    """From a file, or asked for without echo until it is one."""
    if path is not None:
        from protocol.errors import SettingsInvalid

        pin = _text(path)
        if not _PIN.fullmatch(pin):
            raise SettingsInvalid(f"{path} holds no PIN: write 4 to 12 digits into it")
        return pin
    answer: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, value_proc=_digits, err=True)
    return answer


def _digits(entered: str) -> str:
    if not _PIN.fullmatch(entered):
        raise click.UsageError("a PIN has 4 to 12 digits")
    return entered


def _personal(path: Path | None) -> list[str]:
    """Digits only, whatever they were written with: 1990-01-31 is 19900131."""
    from protocol.errors import SettingsInvalid

    if path is None:
        return []
    lines = [re.sub("[^0-9]", "", line) for line in _text(path).splitlines()]
    numbers = [line for line in lines if len(line) >= MIN_PERSONAL]
    if len(numbers) > MAX_PERSONAL:
        raise SettingsInvalid(f"{path} has more than {MAX_PERSONAL} numbers")
    return numbers


def _text(path: Path) -> str:
    from protocol.errors import SettingsInvalid

    try:
        return path.read_text().strip()
    except OSError as exc:
        raise SettingsInvalid(f"{path} can't be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SettingsInvalid(f"{path} is not a text") from exc
