"""What is generated is up to date, complete, and names nothing that does not exist."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path

import grpc
import pytest

from parties import contract as generator
from parties.contract import CDDL, ERRORS, MARKER, ROOT, SPEC_MAP, differences, missing_names, render_documents
from protocol.contract import RPCS
from protocol.errors import REGISTRY
from protocol.schema import MESSAGES

_STEPS = """
INIT-1 INIT-2 INIT-3 INIT-4 INIT-5 INIT-6 ATT-D0 ATT-D1 ATT-D2 ATT-D3 ATT-D4 ATT-D5 ATT-D6 ATT-D7
ATT-L1 ATT-L2 ATT-L3 ATT-L4 ATT-L5 ATT-L6 AID-1 AID-2 AID-3 AID-4 AID-5 AID-6 AID-7 AID-8
TID-0 TID-1a TID-1b TID-2a TID-2b TID-2c TID-2d TID-3a TID-3b TID-3c TID-3d TID-4 CARD-1/2 CARD-3 CARD-4 CARD-5
RENEW RECREDIT SETTLE TRACE FREEZE
"""
PAPER = _STEPS.split()


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    section = f"\n{(ROOT / page).read_text()}".partition(f"\n{heading}\n")[2]
    table = re.findall(r"^\|(.*)\|$", section.split("\n## ")[0], re.M)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in table]
    width = len(cells[0])
    return [row for row in cells[2:] if len(row) == width]


def test_committed_files_are_up_to_date() -> None:
    assert differences(render_documents()) == []


def test_the_check_that_ci_runs_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Stubs too."""
    assert generator.main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_check_shows_a_difference(tmp_path: Path) -> None:
    wanted = {Path("docs/page.md"): "new\n"}
    (diff,) = differences(wanted, tmp_path)
    assert "+new" in diff
    generator.write(tmp_path / "docs/page.md", "new\n")
    assert differences(wanted, tmp_path) == []
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["page.md"]


def test_writing_replaces_a_file_and_leaves_no_other(tmp_path: Path) -> None:
    page = tmp_path / "page"
    generator.write(page, "one")
    generator.write(page, "two")
    assert page.read_text() == "two"
    assert page.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [page]


def test_wrong_usage_is_told_from_a_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert generator.main(["--chekc"]) == 2
    assert "usage" in capsys.readouterr().err


def test_every_paper_step_stands_in_the_map_once() -> None:
    assert [row[0] for row in rows(SPEC_MAP, "## Paper steps")] == PAPER


def test_steps_of_the_rpcs_are_the_papers() -> None:
    assert {step for rpc in RPCS for step in rpc.steps} <= set(PAPER)


def test_every_rpc_stands_in_the_map() -> None:
    assert [row[0] for row in rows(SPEC_MAP, "## RPCs")] == [rpc.full_name for rpc in RPCS]


def test_every_function_and_test_named_exists() -> None:
    assert missing_names(generator.spec_data()) == []


def test_a_name_that_does_not_exist_is_found() -> None:
    data = copy.deepcopy(generator.spec_data())
    step = data["steps"]["AID-1"]
    step["functions"] = ["protocol.pki.invented", "protocol.nowhere.at_all"]
    here = "tests/unit/contract/test_generated_files.py"
    step["tests"] = [f"{here}::test_invented", "tests/unit/no_such_file.py::test_x", "AID-1"]
    data["steps"]["AID-2"]["tests"] = []
    assert missing_names(data) == [
        "AID-1: no function protocol.pki.invented",
        "AID-1: no function protocol.nowhere.at_all",
        f"AID-1: no test {here}::test_invented",
        "AID-1: no test tests/unit/no_such_file.py::test_x",
        "AID-1: no test AID-1",
        "AID-2: no test is named",
    ]


def test_every_error_code_stands_in_its_page_once() -> None:
    table = rows(ERRORS, "# Error codes")
    assert [row[0].strip("`") for row in table] == list(REGISTRY)
    assert {row[1] for row in table} <= {status.name for status in grpc.StatusCode}
    assert all(row[2] and row[3] for row in table)


def test_every_message_has_one_rule_and_a_comment() -> None:
    lines = (ROOT / CDDL).read_text().splitlines()
    for name in MESSAGES:
        places = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
        assert len(places) == 1, name
        assert lines[places[0] - 1].startswith("; "), name


def test_a_page_without_its_marker_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="generated"):
        generator.cddl_head("; written by hand\n")
    assert generator.cddl_head(f"a\n{MARKER}b\n") == f"a\n{MARKER}"


def test_the_map_is_told_from_its_data_file() -> None:
    data = tomllib.loads((ROOT / generator.SPEC_DATA).read_text())
    assert list(data["steps"]) == PAPER
    assert list(data) == ["steps"]


def test_stubs_that_no_proto_makes_are_found(tmp_path: Path) -> None:
    (tmp_path / generator.STUBS).mkdir(parents=True)
    stale = tmp_path / generator.STUBS / "old_pb2.py"
    stale.write_text("")
    assert generator.stale_stubs({}, tmp_path) == [stale]
