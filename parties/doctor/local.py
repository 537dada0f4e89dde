"""What can be checked on the party's own machine: rights, keystore, database, files of its role, ports."""

from __future__ import annotations

import datetime
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestation.certificate import verify_attestation_certificate
from attestation.measurement import MeasurementList
from attestation.reference import ReferenceValues, verify_reference_values, verify_release
from parties.directory import MANUFACTURER_FILE, FileDirectory, certificate_file, read_certificate
from parties.doctor.finding import Finding, fail, ok, warn
from parties.emv_files import read_issuer
from parties.keystore import Keystore
from parties.settings import Settings
from parties.storage.database import faults, is_postgresql, open_database, parse, sqlite_file
from parties.storage.roles import TABLES
from parties.storage.store import open_store
from parties.storage.version import check_version
from parties.system import SystemClock
from parties.wallet.journal import Journal
from protocol.errors import Expired, KeystoreLocked, NotYetValid, ProtocolError, SettingsInvalid, StorageFault
from protocol.pki import Use
from protocol.roles.tsm.freshness import STALE_AFTER_S
from protocol.roles.tsm.tables import STOP_LISTS
from protocol.types import Role

LOCK_WAIT_S: Final = 1.0
LITTLE_ROOM_BYTES: Final = 256 * 2**20
SOON_S: Final = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class OpenedKeystore:
    """The keystore if it opens, and what was found."""

    store: Keystore | None
    findings: tuple[Finding, ...]


def rights(settings: Settings) -> Iterator[Finding]:
    """Who else may read the secrets, or change what the party believes."""
    found = False
    secret = [(settings.passphrase_file, fail), (settings.keystore, warn), (settings.capture, warn)]
    if _has_password(settings.database):
        secret.append((settings.path, fail))
    for path, level in secret:
        mode = _mode(path)
        if path is not None and mode & 0o077:
            found = True
            what = f"{path.name} may be used by others on this machine (mode {mode:o})"
            yield level("rights", what, f"chmod 600 {path}")
    for folder in (settings.folder, settings.pki):
        mode = _mode(folder)
        if mode & 0o022:
            found = True
            what = f"others on this machine may change the folder {folder} (mode {mode:o})"
            yield fail("rights", what, f"chmod go-w {folder}")
    if not found:
        yield ok("rights", "secrets are this user's alone")


def _has_password(url: str) -> bool:
    try:
        return bool(url) and parse(url).password is not None
    except SettingsInvalid:
        return False  # found elsewhere


def _mode(path: Path | None) -> int:
    try:
        return 0 if path is None else stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0


def open_keystore(settings: Settings) -> OpenedKeystore:
    """Passphrase and keystore."""
    try:
        store = Keystore.open(settings.keystore, settings.passphrase())
    except SettingsInvalid as exc:
        found = fail("keystore", str(exc), "mend keystore and passphrase_file in the settings, or restore the files")
    except KeystoreLocked as exc:
        mend = f"give the passphrase of {settings.keystore}: in TAPVEIL_PASSPHRASE, or in passphrase_file"
        found = fail("keystore", f"it does not open: {exc}", mend if "passphrase" in str(exc) else "restore the backup")
    else:
        return OpenedKeystore(store, (ok("keystore", f"opens; {len(store.names())} entries"),))
    return OpenedKeystore(None, (found,))


def database(settings: Settings) -> Iterator[Finding]:
    """There, of this program's version, and writable."""
    if settings.role.value not in TABLES:
        return
    if not settings.database:
        yield fail(
            "database", "the settings name none", 'set database = "sqlite:///data.db", then `tapveil db upgrade`'
        )
        return
    try:
        check_version(settings.database, settings.role.value)
        opened = open_database(settings.database, wait_s=LOCK_WAIT_S)
        try:
            with faults(), opened.writer.connect() as connection, connection.begin() as attempt:
                connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")
                attempt.rollback()
        finally:
            opened.close()
    except (StorageFault, SettingsInvalid) as exc:
        what, _, mend = str(exc).partition(": ")
        yield fail("database", what, mend or "check the path and the rights to it")
        return
    yield ok("database", "of this program's version, and writable")
    if not is_postgresql(settings.database):
        yield from room(sqlite_file(settings.database).parent)


def room(folder: Path, *, little_bytes: int = LITTLE_ROOM_BYTES) -> Iterator[Finding]:
    """Is there room on the disk?"""
    free = shutil.disk_usage(folder).free
    if free < little_bytes:
        what = f"{free // 2**20} MiB are free under {folder}"
        yield warn("disk", what, "make room: without it nothing is committed")


def capture(settings: Settings) -> Iterator[Finding]:
    """A capture undoes anonymity."""
    if settings.capture is not None:
        yield warn("capture", f"every envelope is copied to {settings.capture}", "remove `capture` from the settings")


# --- the role's files ------------------------------------------------------------------------------------------
def role_files(settings: Settings, keystore: Keystore | None) -> Iterator[Finding]:
    """Release, reference values, platform, EMV issuer: there, genuine, in force."""
    checks: dict[Role, Callable[[], Iterator[Finding]]] = {
        Role.BANK: lambda: _bank(settings),
        Role.TSM: lambda: _tsm(settings, keystore),
        Role.SP: lambda: _provider(settings),
        Role.SE: lambda: _element(settings),
        Role.MERCHANT: lambda: _merchant(settings),
        Role.PHONE: lambda: _wallet(settings, keystore),
    }
    yield from checks[settings.role]()


def _bank(settings: Settings) -> Iterator[Finding]:
    path = settings.option_path("platform_list")
    try:
        MeasurementList.from_bytes(path.read_bytes())
        yield ok("platform list", "readable")
    except OSError as exc:
        yield fail("platform list", f"{path} can't be read: {exc.strerror}", "put the reference platform's list there")
    except ProtocolError:
        yield fail("platform list", f"{path} is not a measurement list", "put the right file there")
    folder = settings.option_path("references")
    files = sorted(folder.glob("*.cose"))
    if not files:
        yield warn(
            "reference values", f"{folder} holds none: no software may be installed", "sign some and put them there"
        )
    for file in files:
        _, finding = _reference(settings, file, settings.name)
        yield finding


def _reference(settings: Settings, path: Path, bank: str) -> tuple[ReferenceValues | None, Finding]:
    """One file of reference values, as the bank's certificate has them verified."""
    check = f"reference values {path.name}"
    now_s = SystemClock().now_s()
    renew = f"have {bank} sign new reference values and put them there"
    try:
        key = FileDirectory(settings.pki, SystemClock()).named(bank, Use.SIGN).key
        values = verify_reference_values(path.read_bytes(), bank_key=key, bank_id=bank, now_s=now_s)
    except OSError as exc:
        return None, fail(check, f"can't be read: {exc.strerror}", renew)
    except Expired:
        return None, fail(check, "have expired", renew)
    except NotYetValid:
        return None, fail(check, "are not in force yet", "set this machine's clock, or wait")
    except ProtocolError as exc:
        return None, fail(check, f"are not good: {exc}", renew)
    if values.valid_until_s < now_s + SOON_S:
        return values, warn(check, "expire within 30 days", renew)
    return values, ok(check, f"in force, for version {values.software.version}")


def _tsm(settings: Settings, keystore: Keystore | None) -> Iterator[Finding]:
    if keystore is None:
        return
    path = settings.option_path("emv")
    today = datetime.datetime.now(datetime.UTC).date()
    read_issuer(path, keystore.entry("emv-issuer"), today=today)
    yield ok("EMV issuer", "certificate is of this keystore's key and in date")
    yield from _stop_lists(settings, keystore)


def _stop_lists(settings: Settings, keystore: Keystore) -> Iterator[Finding]:
    """Of each bank one that is young enough (CN-11); what is wrong with the database itself is found elsewhere."""
    try:
        with closing(open_store(settings.database, settings.role.value, keystore.data_key())) as store:
            minutes = {row.bank: row.minute_s for row in store.scan(STOP_LISTS)}
    except (StorageFault, SettingsInvalid):
        return
    now_s = SystemClock().now_s()
    for bank in sorted(settings.peers):
        check, minute_s = f"stops of {bank}", minutes.get(bank)
        if minute_s is None:
            yield ok(check, "no list has come yet")
        elif now_s - minute_s <= STALE_AFTER_S:
            yield ok(check, f"list of {now_s - minute_s} s ago")
        else:
            what = f"the last list is {(now_s - minute_s) // 60} min old: purchases on what {bank} granted are declined"
            yield warn(check, what, f"let the TSM run; if it does, see `peer {bank}` and `clock {bank}` here")


def _provider(settings: Settings) -> Iterator[Finding]:
    folder = settings.option_path("references")
    files = sorted(folder.glob("*.cose"))
    if not files:
        yield fail("reference values", f"{folder} holds none: no phone can install", "put the banks' files there")
    values = []
    for file in files:
        reference, finding = _reference(settings, file, file.stem)
        yield finding
        values += [reference] if reference else []
    for reference in values:
        yield _release(settings, reference)


def _release(settings: Settings, reference: ReferenceValues) -> Finding:
    manifest, package = settings.option_path("release"), settings.option_path("package")
    mend = "put release, package and reference values of one version there"
    try:
        key = FileDirectory(settings.pki, SystemClock()).named(settings.name, Use.SIGN).key
        release = verify_release(
            manifest.read_bytes(), package.read_bytes(), sp_key=key, sp_id=settings.name, reference=reference,
            now_s=SystemClock().now_s(),
        )  # fmt: skip
    except OSError as exc:
        return fail("release", f"{exc.filename} can't be read: {exc.strerror}", mend)
    except ProtocolError as exc:
        return fail("release", str(exc), mend)
    return ok("release", f"{release.software.software_id} {release.software.version}, as the bank vouched for it")


def _element(settings: Settings) -> Iterator[Finding]:
    path = settings.option_path("attestation_certificate")
    try:
        maker = read_certificate(settings.pki / MANUFACTURER_FILE)
        key = verify_attestation_certificate(
            path.read_bytes(), ca_certificate=maker, now_s=SystemClock().now_s()
        )  # fmt: skip
        yield ok("attestation key", f"certified, class {key.trust_class}")
    except OSError as exc:
        yield fail("attestation key", f"{path} can't be read: {exc.strerror}", "put the key's certificate there")
    except ProtocolError as exc:
        yield fail(
            "attestation key", f"{path.name}: {exc}", f"put the certificate by {MANUFACTURER_FILE}'s maker there"
        )
    platform = settings.options.get("platform")
    files = platform.values() if isinstance(platform, dict) else ()
    missing = [str(file) for file in files if not (settings.folder / str(file)).is_file()]
    if missing or not files:
        yield fail("platform", f"nothing to measure at {', '.join(missing) or '[options.platform]'}", "name its images")
    else:
        yield ok("platform", f"{len(files)} images to measure")
    wallet = certificate_file(settings.pki, Role.PHONE, settings.name, Use.SIGN)
    if not wallet.is_file():
        yield fail("wallet key", f"there is no certificate {wallet.name}", "put the wallet key's certificate into pki")


def _merchant(settings: Settings) -> Iterator[Finding]:
    for name in ("tsm", "merchant_name", "merchant_identifier", "terminal"):
        settings.option_text(name)
    tsm = settings.option_text("tsm")
    if tsm not in settings.peers:
        yield fail("settings", f"[peers] has no address of {tsm}", f'set [peers] {tsm} = "HOST:PORT"')


def _wallet(settings: Settings, keystore: Keystore | None) -> Iterator[Finding]:
    application = settings.option_path("application")
    if application.is_file():
        yield ok("app", "installed")
    else:
        yield warn("app", "none is installed", "run `tapveil wallet install`")
    journal = settings.folder / "journal.db"
    if keystore is not None and journal.is_file():
        with closing(Journal(journal, bytes(32))) as opened:
            flows = sorted({name.partition("/")[0] for name in opened.unfinished()})
        if flows:
            yield warn("journal", f"cut off: {', '.join(flows)}", "run the same commands again: they go on")
