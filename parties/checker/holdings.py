"""The allow-list as `docs/threat-model.md` shows it: which class of value each party may hold, and the exceptions.

`python -m parties.checker.holdings` writes that part anew, in a checkout.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from parties.checker.allow_list import LIST, ROLES, AllowList, Exemption, allow_list
from protocol.types import Role

DOCUMENT: Final = Path("docs/threat-model.md")
BEGIN: Final = "<!-- holdings: python -m parties.checker.holdings -->\n"
END: Final = "<!-- end of holdings -->\n"
_TITLES: Final = {
    Role.BANK: "bank", Role.TSM: "TSM", Role.MERCHANT: "merchant", Role.SE: "SE and wallet", Role.SP: "SP"
}  # fmt: skip


def render(allowed: AllowList) -> str:
    """The table, a row per class, and the exceptions."""
    return "".join(f"{line}\n" for line in (*_about(), *_table(allowed), "", "Exceptions:", *_exceptions(allowed)))


def _about() -> Iterator[str]:
    yield "By class of value; a tick is what a party may hold, in its database, log, or in messages that it can open."
    yield f"Each column and field has its class in [{Path(LIST).name}](../{LIST}); `tapveil demo` and"
    yield "`tests/simulation/test_knowledge.py` hold what parties really have against it."
    yield ""


def _table(allowed: AllowList) -> Iterator[str]:
    yield f"| class | {' | '.join(_TITLES[role] for role in ROLES)} |"
    yield "|---|" + "---|" * len(ROLES)
    for name, meaning in allowed.classes.items():
        ticks = ("✓" if name in allowed.holds[role.value] else "" for role in ROLES)
        yield f"| {name}: {meaning} | {' | '.join(ticks)} |".replace("  ", " ")


def _exceptions(allowed: AllowList) -> Iterator[str]:
    for one in allowed.exceptions:
        yield f"- **{_TITLES[Role(one.role)]}**, {_what(one)}: {one.why}."


def _what(one: Exemption) -> str:
    names = sorted(one.columns) or [one.inside]
    return ", ".join(f"`{name}`" for name in names)


def written(document: str, allowed: AllowList) -> str:
    """The document with that part made anew. Raises: ValueError if it has lost its marks."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT} has lost a mark: {BEGIN.strip()} or {END.strip()}")
    return head + begin + render(allowed) + end + tail


def main(root: Path) -> None:
    """Write it below `root`."""
    path = root / DOCUMENT
    path.write_text(written(path.read_text(), allow_list()))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd())
