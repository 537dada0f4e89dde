"""One builder a role: its value, its steps."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from attestation.measurement import MeasurementList
from attestation.reference import ReferenceValues, verify_reference_values
from attestation.soft_mtm import SoftMtm
from parties.assembly.cardkeys import KEYS_AHEAD, CardKeyPool
from parties.assembly.common import KeystoreSecrets, Opened, PinHashes
from parties.attesting import BankAppraiser, MeasuredPhone, PhoneFiles
from parties.directory import MANUFACTURER_FILE, certificate_file, read_certificate
from parties.emv_files import read_ca_keys, read_issuer
from parties.links.nfc import open_reader
from parties.merchant.lane import Lane
from parties.merchant.settlement import Settler
from parties.settings import Settings
from protocol.card.applet import Applet
from protocol.card.profile import CardProfile, Channel
from protocol.card.terminal import Terminal
from protocol.crypto import PrivateKey
from protocol.engine import Peers, Step
from protocol.errors import CardDataInvalid, EvidenceMalformed, ProtocolError, SettingsInvalid
from protocol.pki import Issuer, Use
from protocol.roles.bank import bank_steps
from protocol.roles.bank.party import Bank, BankPolicy
from protocol.roles.merchant import Shop, merchant_steps
from protocol.roles.se import se_steps
from protocol.roles.se.field import Field
from protocol.roles.se.party import SecureElement
from protocol.roles.sp import SoftwareProvider, sp_steps
from protocol.roles.tsm import tsm_steps
from protocol.roles.tsm.issuer import EmvIssuer
from protocol.roles.tsm.party import Tsm, TsmPolicy
from protocol.rows import Store
from protocol.types import MAX_CARDS, Role

Steps = dict[str, Step[Any]]


def build_bank(opened: Opened) -> Bank:
    """Keys, intermediate CA, reference platform and values. Raises: SettingsInvalid."""
    settings = opened.settings
    keys = opened.keys
    platform = _platform(settings.option_path("platform_list"))
    issuer_file = certificate_file(settings.pki, Role.BANK, settings.name, Use.ISSUE)
    appraiser = BankAppraiser(
        bank=settings.name, manufacturer=read_certificate(settings.pki / MANUFACTURER_FILE), platform=platform,
        references=_references(settings.option_path("references"), opened),
    )  # fmt: skip
    return Bank(
        keys=keys, issuer=Issuer(key=opened.key(Use.ISSUE), certificate=read_certificate(issuer_file)),
        directory=opened.directory, appraiser=appraiser, secrets=KeystoreSecrets(opened.keystore),
        policy=bank_policy(settings),
        emv_ca=read_ca_keys(settings.pki),
    )  # fmt: skip


def bank_policy(settings: Settings) -> BankPolicy:
    """What the bank's settings change of its policy. Raises: SettingsInvalid."""
    return BankPolicy(stops_every_s=_seconds(settings, "stops_every_s", most=BankPolicy().stops_every_s))


def _seconds(settings: Settings, name: str, *, most: int) -> int:
    """A time that may be made shorter, and is `most` seconds otherwise."""
    value = settings.options.get(name, most)
    if type(value) is not int or not 1 <= value <= most:
        raise SettingsInvalid(f"{settings.path}: [options] {name} must be a whole number of 1 to {most} seconds")
    return value


def _platform(path: Path) -> MeasurementList:
    try:
        return MeasurementList.from_bytes(_read(path))
    except EvidenceMalformed as exc:
        raise SettingsInvalid(f"{path} is not a measurement list: put the right file there") from exc


def _references(folder: Path, opened: Opened) -> dict[str, ReferenceValues]:
    found = {}
    for path in sorted(folder.glob("*.cose")):
        try:
            values = verify_reference_values(
                path.read_bytes(), bank_key=opened.keys.sign.public, bank_id=opened.settings.name,
                now_s=opened.clock.now_s(),
            )  # fmt: skip
        except ProtocolError as exc:
            raise SettingsInvalid(f"reference values {path}: {exc}") from exc
        found[values.software.software_id] = values
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise SettingsInvalid(f"{path} can't be read: {exc.strerror}") from exc


def build_tsm(opened: Opened) -> Tsm:
    """Keys, cookie key and EMV issuer. Raises: SettingsInvalid."""
    settings = opened.settings
    today = datetime.datetime.fromtimestamp(opened.clock.now_s(), tz=datetime.UTC).date()
    uses = settings.options.get("card_uses", TsmPolicy().uses)
    if type(uses) is not int or uses < 1:
        raise SettingsInvalid(f"{settings.path}: [options] card_uses must be a whole number from 1")
    policy = TsmPolicy(
        uses=uses, stops_every_s=_seconds(settings, "stops_every_s", most=TsmPolicy().stops_every_s),
        stops_max_age_s=_seconds(settings, "stops_max_age_s", most=TsmPolicy().stops_max_age_s),
    )  # fmt: skip
    issuer = EmvIssuer(
        issuer=read_issuer(settings.option_path("emv"), opened.keystore.entry("emv-issuer"), today=today),
        master_key=opened.keystore.entry("emv-master"), profile=CardProfile(), uses=policy.uses,
        verify_above_minor=policy.verify_above_minor,
    )  # fmt: skip
    return Tsm(
        keys=opened.keys, cookie_key=opened.keystore.entry("cookie"), directory=opened.directory, issuer=issuer,
        emv_ca=read_ca_keys(settings.pki), secrets=KeystoreSecrets(opened.keystore), policy=policy,
    )  # fmt: skip


def build_sp(opened: Opened) -> SoftwareProvider:
    """Release, package and the banks' reference values. Raises: SettingsInvalid."""
    settings = opened.settings
    references = {path.stem: _read(path) for path in sorted(settings.option_path("references").glob("*.cose"))}
    return SoftwareProvider(
        keys=opened.keys, software=settings.option_text("software"), release=_read(settings.option_path("release")),
        package=_read(settings.option_path("package")), reference_values=references,
    )  # fmt: skip


def build_se(opened: Opened) -> SecureElement:
    """SE and MTM: the trusted side of one phone. Raises: SettingsInvalid."""
    settings = opened.settings
    platform = settings.options.get("platform")
    if type(platform) is not dict or any(type(value) is not str for value in platform.values()):
        raise SettingsInvalid(f"{settings.path}: [options.platform] must map measured paths to files")
    files = PhoneFiles(
        platform={name: settings.folder / value for name, value in platform.items()},
        application=settings.option_path("application"), software=settings.option_text("software"),
    )  # fmt: skip
    mtm = SoftMtm(PrivateKey.from_bytes(opened.keystore.entry("attestation")), opened.clock)
    phone = MeasuredPhone(
        mtm=mtm, certificate=_read(settings.option_path("attestation_certificate")), files=files,
        reference=lambda: _phone_reference(opened),
    )  # fmt: skip
    wallet_file = certificate_file(settings.pki, Role.PHONE, settings.name, Use.SIGN)
    return SecureElement(
        name=settings.name, key=opened.key(Use.SIGN), wallet_key=opened.directory_key(wallet_file, Use.SIGN),
        root=opened.directory.root, directory=opened.directory, platform=phone,
        card_keys=CardKeyPool(_keys_ahead(settings)), pins=PinHashes(), emv_ca=read_ca_keys(settings.pki),
        working=opened.working,
    )  # fmt: skip


def _keys_ahead(settings: Settings) -> int:
    """How many card keys the SE makes ahead."""
    value = settings.options.get("card_keys_ahead", KEYS_AHEAD)
    if type(value) is not int or not 1 <= value <= MAX_CARDS:
        raise SettingsInvalid(f"{settings.path}: [options] card_keys_ahead must be a whole number of 1 to {MAX_CARDS}")
    return value


def build_applet(opened: Opened, store: Store, channel: Channel) -> Applet:
    """The card of an SE, for one stay in a reader."""
    return Applet(Field(store=store, clock=opened.clock, working=opened.working), opened.entropy, channel=channel)


def _phone_reference(opened: Opened) -> ReferenceValues | None:
    """What the launcher left beside the app, if a bank signed it and it is in force. Another file is no reference."""
    software = opened.settings.option_text("software")
    for path in sorted(opened.settings.option_path("application").parent.glob("*.cose")):
        try:
            bank = opened.directory.named(path.stem, Use.SIGN)
            values = verify_reference_values(
                path.read_bytes(), bank_key=bank.key, bank_id=bank.name, now_s=opened.clock.now_s()
            )
        except (ProtocolError, OSError):
            continue
        if bank.role is Role.BANK and values.software.software_id == software:
            return values
    return None


def build_shop(opened: Opened) -> Shop:
    """A merchant. Raises: SettingsInvalid."""
    settings = opened.settings
    return Shop(
        keys=opened.keys, directory=opened.directory, merchant_name=settings.option_text("merchant_name"),
        merchant_identifier=settings.option_text("merchant_identifier"), terminal=settings.option_text("terminal"),
        tsm=settings.option_text("tsm"),
    )  # fmt: skip


def build_lane(opened: Opened, store: Store, peers: Peers) -> Lane:
    """The merchant's terminal with its reader. Raises: SettingsInvalid."""
    settings, shop = opened.settings, build_shop(opened)
    try:
        terminal = Terminal(
            merchant_identifier=shop.merchant_identifier, terminal=shop.terminal, merchant_name=shop.merchant_name,
            ca_keys=read_ca_keys(settings.pki),
        )  # fmt: skip
    except CardDataInvalid as exc:
        raise SettingsInvalid(
            f"{settings.path}: [options] merchant_name, merchant_identifier, terminal: {exc}"
        ) from exc
    return Lane(
        shop=shop, store=store, peers=peers, clock=opened.clock, entropy=opened.entropy, terminal=terminal,
        reader=open_reader(settings.option_text("reader")),
    )  # fmt: skip


def build_settler(opened: Opened, store: Store, peers: Peers) -> Settler:
    """What settles for the merchant. Raises: SettingsInvalid."""
    return Settler(shop=build_shop(opened), store=store, peers=peers, clock=opened.clock, entropy=opened.entropy)


STEPS: Final[dict[Role, Callable[[Opened], Steps]]] = {
    Role.BANK: lambda opened: bank_steps(build_bank(opened)),
    Role.TSM: lambda opened: tsm_steps(build_tsm(opened)),
    Role.SP: lambda opened: sp_steps(build_sp(opened)),
    Role.SE: lambda opened: se_steps(build_se(opened)),
    Role.MERCHANT: lambda opened: merchant_steps(build_shop(opened)),
}
