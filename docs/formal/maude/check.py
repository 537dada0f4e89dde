"""Runs the bounded model: `pip install maude==1.6.0 && python check.py`, in this folder."""

from __future__ import annotations

import sys

import maude

HIJACK = "t(acc, SID:Atom, KT:Atom, KB:Atom, tidM) C:Conf"
HONEST = "t(acc, SID:Atom, KT:Atom, KB:Atom, tidA) C:Conf"
EXPECTED = {"PAPER": True, "HARD": False, "HARDNOSIG": None, "HARDNOCOM": None, "HARDNOSIGNOCOM": None}
"""Module → is the hijack reachable (None: shown, not checked)."""


def find(module: str, goal: str) -> list[str] | None:
    """The rules of the first run that reaches `goal`."""
    loaded = maude.getModule(module)
    start, wanted = loaded.parseTerm("start"), loaded.parseTerm(goal)
    for _, _, path, _ in start.search(maude.ANY_STEPS, wanted, depth=-1):
        return [step.getLabel() for step in path()[1::2]]
    return None


def states(module: str) -> int:
    """How many states are reachable."""
    loaded = maude.getModule(module)
    start, anything = loaded.parseTerm("start"), loaded.parseTerm("C:Conf")
    return sum(1 for _ in start.search(maude.ANY_STEPS, anything, depth=-1))


def main() -> int:
    """0 if every module behaves as expected."""
    maude.init(advise=False)
    if not maude.load("reg.maude"):
        return 2
    wrong = 0
    for module, expected in EXPECTED.items():
        honest, hijack = find(module, HONEST), find(module, HIJACK)
        reached = "reachable" if honest else "NO"
        sys.stdout.write(f"{module}: states={states(module)} honest={reached} hijack={hijack}\n")
        wrong += honest is None or (expected is not None and bool(hijack) != expected)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
