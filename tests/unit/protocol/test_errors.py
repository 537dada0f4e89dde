"""One root, one class per code: what the edge and the documentation rely on."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import sys
from collections.abc import Iterator

import grpc
import pytest

import attestation
import parties
import protocol
from protocol.errors import REGISTRY, Malformed, ProtocolError, Replay

OURS = (protocol, attestation, parties)
SIGNALS = {"Conflict", "SealBroken", "NotOpen", "SeePhone", "CardLost", "Implausible", "_Closed", "_Broken", "Turned"}


def _import_all() -> None:
    for package in OURS:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if {"__main__", "migrations"} & set(module.name.split(".")):
                continue  # run by Python or by Alembic, never imported
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as missing:
                if (missing.name or "").split(".")[0] in {ours.__name__ for ours in OURS}:
                    raise  # only what a third party provides, such as a card reader's driver, may be absent


def _descendants(root: type[ProtocolError]) -> Iterator[type[ProtocolError]]:
    for child in root.__subclasses__():
        yield child
        yield from _descendants(child)


@pytest.fixture(scope="module")
def classes() -> list[type[ProtocolError]]:
    _import_all()
    gc.collect()  # classes that were refused at their definition are gone only then
    names = {package.__name__ for package in OURS}
    return [found for found in _descendants(ProtocolError) if found.__module__.split(".")[0] in names]


def test_every_class_has_its_own_code(classes: list[type[ProtocolError]]) -> None:
    assert len({found.code for found in classes}) == len(classes)
    assert {found.code: found for found in classes} == REGISTRY


def test_codes_statuses_and_meanings(classes: list[type[ProtocolError]]) -> None:
    statuses = {status.name for status in grpc.StatusCode} - {"OK"}
    for found in classes:
        assert found.code.isupper(), found
        assert found.code.replace("_", "").isalnum(), found
        assert found.code.replace("_", "").title() == found.__name__.title(), found
        assert found.status in statuses, found
        assert found.meaning, found
        assert found.__doc__, found


def test_every_exception_on_its_way_to_a_peer_descends_from_the_root(classes: list[type[ProtocolError]]) -> None:
    """Beside the refusals there are only the package's own signals, each caught where it is meant to be.

    A transaction that must be run anew, a broken seal, what a card says by a status word, a link that is gone, a
    purchase that gets a signed decline.
    """
    ours = {package.__name__ for package in OURS}
    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] in ours]
    defined = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseException) and value.__module__.split(".")[0] in ours
    }
    assert {error.__name__ for error in defined - {ProtocolError, *classes}} <= SIGNALS
    assert set(classes) <= defined


def test_a_code_is_taken_once() -> None:
    with pytest.raises(TypeError, match="MALFORMED is taken by Malformed"):
        type("Twin", (ProtocolError,), {}, code="MALFORMED", status="INTERNAL", meaning="a twin")
    assert REGISTRY["MALFORMED"] is Malformed


def test_a_class_without_a_code_is_not_made() -> None:
    with pytest.raises(TypeError, match="code"):
        type("Nameless", (ProtocolError,), {})


@pytest.mark.parametrize(("detail", "shown"), [("", Replay.meaning), ("nonce of session 3", "nonce of session 3")])
def test_detail_is_kept_for_the_local_log(detail: str, shown: str) -> None:
    refusal = Replay(detail)
    assert (str(refusal), refusal.detail, refusal.code) == (shown, detail, "REPLAY")
