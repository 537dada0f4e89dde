"""Pages lead where they say: links, decisions that are cited, commands' names in no page's way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from parties.cli import main
from parties.contract import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DECISIONS = sorted(path for path in (DOCS / "adr").glob("*.md") if path.name != "README.md")
MANUALS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]
AHEAD = {"design.md", "controls.md"}
"""Pages that also name commands of issues to come."""
SOURCES = [path for package in ("protocol", "attestation", "parties") for path in (ROOT / package).rglob("*.py")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize(
    "page", [*DECISIONS, *DOCS.glob("*.md"), DOCS / "formal/README.md"], ids=lambda page: page.name
)
def test_pages_name_no_machine(page: Path) -> None:
    assert not re.search(r"/(home|root|work|tmp|Users)/|https?://(?!.*rfc)", page.read_text())


def test_decisions_are_numbered_without_gaps_and_listed_in_order() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    listed = re.findall(r"\]\((\d{4}[^)]*)\)", (DOCS / "adr/README.md").read_text())
    assert listed == [path.name for path in DECISIONS]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_a_decision_has_its_parts_on_a_page(page: Path) -> None:
    text = page.read_text()
    assert re.match(rf"# {page.name[:4]} \S.*\n\nStatus: (accepted(; amends \d{{4}})?|replaced by \d{{4}})\n", text)
    assert re.findall(r"^## (.*)$", text, re.M)[:4] == ["Context", "Options", "Decision", "Consequences"]
    assert len(text.split()) < 450


def test_every_decision_cited_exists() -> None:
    numbers = {path.name[:4] for path in DECISIONS}
    for path in (*SOURCES, *PAGES):
        assert set(re.findall(r"ADR-(\d{4})", path.read_text())) <= numbers, path


def commands_in(text: str) -> Iterator[list[str]]:
    """Words after `tapveil`, in backticks or on a line of its own."""
    for found in re.findall(r"`tapveil ([^`]+)`|^    tapveil ([^#\n]+)", text, re.M):
        yield "".join(found).split()


def misnamed(words: list[str]) -> list[str]:
    """Commands and options that there are not."""
    command: click.Command = main
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    options = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    unknown = [word for word in words if word.startswith("--") and word not in options | {"--help"}]
    if isinstance(command, click.Group):
        unknown += [word for word in words[:1] if re.fullmatch("[a-z-]+", word)]
    return unknown


@pytest.mark.parametrize("page", [page for page in MANUALS if page.name not in AHEAD], ids=lambda page: page.name)
def test_commands_on_a_page_exist(page: Path) -> None:
    for words in commands_in(page.read_text()):
        assert misnamed(words) == [], words


def test_a_command_that_does_not_exist_is_found() -> None:
    text = (
        "`tapveil bank frieze X --reason r` and `tapveil bank freeze X --why r`\n    tapveil servo --vpcd H  # text\n"
    )
    assert [misnamed(words) for words in commands_in(text)] == [["--reason", "frieze"], ["--why"], ["--vpcd", "servo"]]
