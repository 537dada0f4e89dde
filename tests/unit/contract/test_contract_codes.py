"""The error codes listed for a call are those that its code can raise, read from the code itself."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import pytest

import attestation.verifier
from parties.contract import find_object
from protocol.contract import RPCS, Rpc
from protocol.engine import AskingStep, StatelessStep, Step
from protocol.errors import ProtocolError
from protocol.roles.bank.account import CertifyAccountStep
from protocol.roles.bank.enroll import EnrollStep
from protocol.roles.se.party import SecureElement

THROUGH_PORTS: dict[type[Any], tuple[Any, ...]] = {
    EnrollStep: (attestation.verifier,), CertifyAccountStep: (attestation.verifier,),
}  # fmt: skip
"""What a step calls through a port, which its own names do not show."""
OURS = ("protocol.", "attestation.")
PASSED_ON = {"Tsm.ProveCredit": "Bank.ApproveGrant", "Tsm.CloseAccount": "Bank.ReleaseGrant"}


def functions_of(owner: type[Any]) -> Iterator[FunctionType]:
    for base in owner.__mro__:
        if base in (Step, StatelessStep, AskingStep) or not base.__module__.startswith(OURS):
            continue
        for member in vars(base).values():
            plain = getattr(member, "__func__", member)
            if isinstance(plain, FunctionType):
                yield plain


def names_of(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from names_of(const)


@cache
def reachable(*roots: Any) -> frozenset[FunctionType]:
    """Every function of ours that the roots name, and that those name, and so on. More than is called, never less."""
    seen: set[FunctionType] = set()
    waiting = list(roots)
    while waiting:
        item = waiting.pop()
        if inspect.ismodule(item):
            waiting += [
                v for v in vars(item).values() if isinstance(v, FunctionType | type) and v.__module__ == item.__name__
            ]
        elif isinstance(item, type):
            waiting += functions_of(item)
        elif (
            isinstance(item, FunctionType)
            and item not in seen
            and item.__module__.startswith(("protocol", "attestation"))
        ):
            seen.add(item)
            found = [item.__globals__.get(name) for name in names_of(item.__code__)]
            for value in found:
                attributes = (
                    [getattr(value, name, None) for name in item.__code__.co_names] if inspect.ismodule(value) else []
                )
                waiting += [v for v in (value, *attributes) if isinstance(v, FunctionType | type)]
    return frozenset(seen)


def named_codes(functions: frozenset[FunctionType]) -> set[str]:
    codes = set()
    for function in functions:
        for name in names_of(function.__code__):
            value = function.__globals__.get(name)
            if isinstance(value, type) and issubclass(value, ProtocolError):
                codes.add(value.code)
            elif name in {"unseal", "decrypt"}:  # through the suite, a value
                codes.add("DECRYPTION_FAILED")
    return codes


def raised_codes(functions: frozenset[FunctionType]) -> set[str]:
    """Codes in `raise` statements of the roles, but those that a broad `except ProtocolError` translates."""
    codes = set()
    for function in functions:
        made = inspect.unwrap(function).__code__.co_filename.startswith("<")  # a dataclass's own methods have no source
        if made or not function.__module__.startswith("protocol.roles"):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                target = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                value = function.__globals__.get(target.id) if isinstance(target, ast.Name) else None
                if isinstance(value, type) and issubclass(value, ProtocolError):
                    codes.add(value.code)
    return codes


def peer_codes(rpc: Rpc) -> set[str]:
    other = PASSED_ON.get(rpc.full_name)
    return set() if other is None else next(set(r.codes) for r in RPCS if r.full_name == other)


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.full_name)
def test_every_code_listed_can_be_raised(rpc: Rpc) -> None:
    step: Any = find_object(rpc.step)
    ports = (*THROUGH_PORTS.get(step, ()), *((SecureElement,) if rpc.service == "SecureElement" else ()))
    possible = named_codes(reachable(step, *ports)) | peer_codes(rpc) | {"UNKNOWN_KEY", step.conflict.code}
    assert set(rpc.codes) <= possible


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.full_name)
def test_every_code_raised_is_listed(rpc: Rpc) -> None:
    step: Any = find_object(rpc.step)
    assert raised_codes(reachable(step)) | {step.conflict.code} <= rpc.all_codes


def test_the_reader_finds_what_is_raised_in_a_helper() -> None:
    """The two tests above would prove nothing if the reader saw nothing."""
    assert "BRANCH_CODE_INVALID" in raised_codes(reachable(EnrollStep))
    assert "WRONG_STATE" in raised_codes(reachable(EnrollStep))
    assert "PLATFORM_CHANGED" in named_codes(reachable(EnrollStep, attestation.verifier))
