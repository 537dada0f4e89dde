"""Options and fixtures: who is tested, and parties in the state that a test starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.bridge import Bridge
from conformance.bundle import Bundle
from conformance.calls import Connection
from conformance.phone import Account, Phone
from conformance.played import PlayedBank
from conformance.service import PlayedTsm, Wallet
from conformance.stage import Phones, Registered

ROLES = ("bank", "tsm", "tsm-mutual")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "conformance of bank and TSM (tests/conformance/README.md)")
    group.addoption(
        "--target", action="append", default=[], metavar="ROLE=HOST:PORT",
        help="test this bank, tsm or tsm-mutual (the port for merchants); without it, our own are started",
    )  # fmt: skip
    group.addoption("--bundle", default=None, metavar="DIR", help="what the suite knows and plays; goes with --target")


def _targets(config: pytest.Config) -> dict[str, str]:
    found = {}
    for item in config.getoption("--target", []) or []:
        role, _, address = item.partition("=")
        if role not in ROLES or ":" not in address:
            raise pytest.UsageError(f"--target {item}: want bank=, tsm= or tsm-mutual=HOST:PORT")
        found[role] = address
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a target, these tests start real servers; with one, they need a bundle."""
    targets = _targets(config)
    if targets and config.getoption("--bundle", None) is None:
        raise pytest.UsageError("--target needs --bundle DIR: see tests/conformance/README.md")
    if not targets and config.getoption("--bundle", None) is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def targets(request: pytest.FixtureRequest) -> dict[str, str]:
    return _targets(request.config)


@pytest.fixture(scope="session")
def bundle(
    request: pytest.FixtureRequest, targets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bundle]:
    folder = request.config.getoption("--bundle", None)
    if folder is not None:
        yield Bundle(Path(folder), targets)
        return
    from conformance.ours import Servers

    servers = Servers(tmp_path_factory.mktemp("ours"))
    try:
        yield Bundle(servers.bundle)
    finally:
        servers.close()


@pytest.fixture(scope="session")
def with_bank(targets: dict[str, str]) -> None:
    """Only where a bank is tested."""
    if targets and "bank" not in targets:
        pytest.skip("no bank is tested")


@pytest.fixture(scope="session")
def with_tsm(targets: dict[str, str]) -> None:
    """Only where a TSM is tested."""
    if targets and "tsm" not in targets:
        pytest.skip("no TSM is tested")


# --- phones -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def phones(bundle: Bundle, with_bank: None) -> Iterator[Phones]:
    pool = Phones(bundle)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def ready(phones: Phones) -> Phone:
    """A phone after ATT-D7, for everyone."""
    return phones.installed()


@pytest.fixture(scope="session")
def other(phones: Phones) -> Phone:
    """Somebody else's phone, in the same state."""
    return phones.installed()


@pytest.fixture(scope="session")
def played_tsm(bundle: Bundle, with_bank: None) -> Iterator[PlayedTsm]:
    tsm = PlayedTsm(bundle)
    yield tsm
    tsm.connection.close()


@pytest.fixture
def payer(phones: Phones) -> Phone:
    """A phone after ATT-D7 whose person can open further accounts."""
    return phones.payer()


@pytest.fixture
def account(payer: Phone, played_tsm: PlayedTsm) -> Account:
    """An active account without a grant, for the played TSM."""
    return payer.account(played_tsm.name)


# --- the TSM ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def played_bank(bundle: Bundle, with_tsm: None) -> Iterator[PlayedBank]:
    if bundle.played_bank is None:
        pytest.skip("the bundle has no bank to play")
    bank = PlayedBank(bundle, bundle.played_bank)
    bank.await_listed()  # without a list nothing is approved
    yield bank
    bank.close()
    assert not bank.faults, "the TSM asked the bank wrongly"


@pytest.fixture(scope="session")
def to_tsm(bundle: Bundle, with_tsm: None) -> Iterator[Connection]:
    """As a wallet comes: without a certificate."""
    connection = Connection(bundle.tsm.address, bundle.tsm.name, bundle.tls())
    yield connection
    connection.close()


@pytest.fixture
def wallet(bundle: Bundle, to_tsm: Connection) -> Wallet:
    """A new TID."""
    return Wallet(bundle.tsm, to_tsm)


@pytest.fixture
def registered(wallet: Wallet, played_bank: PlayedBank) -> Registered:
    return Registered(wallet, played_bank)


# --- the secure element ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def bridge(targets: dict[str, str]) -> Iterator[Bridge]:
    """Our secure element and applet: no other one can be reached, so only where ours are tested."""
    if targets:
        pytest.skip("no secure element is tested")
    ours = Bridge()
    yield ours
    ours.close()
