"""Everything that is generated from the contract, and the check that what is committed is up to date.

`python -m parties.contract` writes the typed stubs (`parties/rpc`), the generated part of `proto/payloads.cddl`,
`docs/error-codes.md` and `docs/spec-map.md`; with `--check` it writes nothing and ends with 1 and a diff if any of
them differs. It works on a checkout and needs the development requirements.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol import contract
from protocol.contract import Rpc, SignedObject
from protocol.engine import StatelessStep
from protocol.errors import REGISTRY
from protocol.messages.card import CardKey
from protocol.schema import MESSAGES, Many, Message, Nested, Record, Spec, Text

ROOT: Final = Path(__file__).resolve().parent.parent
CDDL: Final = Path("proto/payloads.cddl")
ERRORS: Final = Path("docs/error-codes.md")
SPEC_MAP: Final = Path("docs/spec-map.md")
SPEC_DATA: Final = Path("docs/spec-map.toml")
STUBS: Final = Path("parties/rpc")
MARKER: Final = "; ---- generated ----\n"
_WIDTH: Final = 112
_TEST: Final = re.compile(r"(tests/[\w/]+\.py)::(\w+)")

_ATTESTATION_OBJECTS: Final = """\
; ======================================================================================================================
; 7. Objects of attestation, addressed to all phones (aud = "phones"), with an empty request digest.

; S_B: the bank's reference values, SIGN(SK_B, Quote) of the paper. In reference-reply. INIT-5
reference-values = {
  "software_id": tstr .regexp "[a-z0-9][a-z0-9.-]{0,63}",
  "version": tstr .regexp "[0-9A-Za-z][0-9A-Za-z.+-]{0,31}",
  "digest": bstr .size 32,  ; SHA-256 of the package
  "size": 1..67108864,
  "platform": bstr,  ; the platform's Measurement List, ASCII lines of IMA's template ima-ng
  "pcr10": bstr .size 32,  ; PCR 10 after the platform and this package
}

; S_SP: the software provider's release. In release-package. ATT-D0
release = {
  "software_id": tstr .regexp "[a-z0-9][a-z0-9.-]{0,63}",
  "version": tstr .regexp "[0-9A-Za-z][0-9A-Za-z.+-]{0,31}",
  "digest": bstr .size 32,
  "size": 1..67108864,
}
"""


# --- CDDL ----------------------------------------------------------------------------------------------------------
def nested_records(roots: Iterable[type[Record]]) -> list[type[Record]]:
    """The records that these contain, each once, those inside others first."""
    found: dict[type[Record], None] = {}

    def visit(spec: Spec) -> None:
        if isinstance(spec, Many):
            visit(spec.item)
        elif isinstance(spec, Nested):
            for inner in spec.record.specs().values():
                visit(inner)
            found.setdefault(spec.record)

    for root in roots:
        for spec in root.specs().values():
            visit(spec)
    return list(found)


def cddl_rule(record: type[Record]) -> str:
    """One rule: a map of exactly the record's fields. Keys are quoted: some are names of the prelude (`number`)."""
    if not record.specs():
        return f"{record.NAME} = {{}}"
    lines = [f'  "{name}": {spec.cddl()},' + _bound(spec) for name, spec in record.specs().items()]
    return "\n".join([f"{record.NAME} = {{", *lines, "}"])


def _bound(spec: Spec) -> str:
    text = spec.item if isinstance(spec, Many) else spec
    return f"  ; at most {text.high} characters" if isinstance(text, Text) and "{" not in text.pattern else ""


def _usage(message: type[Message]) -> list[str]:
    """Where the message travels: form, signer → receiver, RPC, paper steps."""
    lines = []
    for rpc in contract.RPCS:
        steps = ", ".join(rpc.steps) or "beyond the paper"
        if message is rpc.request:
            lines.append(
                f"request of {rpc.full_name}: {rpc.request_form}, {rpc.request_signer} → {rpc.service}. {steps}"
            )
        elif message is rpc.reply:
            lines.append(f"reply of {rpc.full_name}: {rpc.reply_form}, {rpc.reply_signer} → caller. {steps}")
    return lines


def _object_usage(item: SignedObject) -> str:
    return f"{item.form}, {item.signer} → {item.audience}. In {item.carried_in}. {', '.join(item.steps)}"


def _summary(record: type[Record]) -> str:
    lines = [line.strip() for line in (record.__doc__ or "").strip().splitlines()]
    text = " ".join(lines[: lines.index("")] if "" in lines else lines)
    return f"{text} At most {record.MAX_BYTES} bytes." if issubclass(record, Message) else text


def _comment(lines: Iterable[str]) -> str:
    wrapped = []
    for line in lines:
        row = ";"
        for word in line.split():
            if len(row) + len(word) >= _WIDTH:
                wrapped.append(row)
                row = ";  "
            row += f" {word}"
        wrapped.append(row)
    return "\n".join(wrapped)


def _section(title: str) -> str:
    return f"; {'=' * 118}\n; {title}"


def render_cddl(head: str) -> str:
    """`payloads.cddl`: the hand-written head, then a rule for every message and every record inside one."""
    objects = {item.message: item for item in contract.OBJECTS}
    messages = sorted(MESSAGES.values(), key=lambda message: message.NAME)
    parts = [_section("5. Messages that travel inside others, each signed by itself with an empty request digest.")]
    parts += [f"{_comment([_object_usage(objects[m]), _summary(m)])}\n{cddl_rule(m)}" for m in messages if m in objects]
    parts.append(_section("6. Requests and replies, and the records inside them."))
    parts += [f"{_comment([*_usage(m), _summary(m)])}\n{cddl_rule(m)}" for m in messages if m not in objects]
    parts += [f"{_comment([_summary(r)])}\n{cddl_rule(r)}" for r in (*nested_records(messages), *_unsigned_parts())]
    return head + "\n" + "\n\n".join(parts) + "\n\n" + _ATTESTATION_OBJECTS


def _unsigned_parts() -> tuple[type[Record], ...]:
    return (*nested_records((CardKey,)), CardKey)


def cddl_head(text: str) -> str:
    """The hand-written part of `payloads.cddl`, up to and with the marker."""
    head, marker, _ = text.partition(MARKER)
    if not marker:
        raise ValueError(f"{CDDL} has lost its line {MARKER.strip()!r}")
    return head + marker


_ABOUT_CODES: Final = """\
A refusal is a gRPC status with one of these codes; the detail stays in the local log. It changes nothing, but that a
wrong passcode or PIN is counted. *Every call* means that the code can come from opening, deciding once or running;
codes by call stand in [spec-map.md](spec-map.md). A dash means that no call answers it: it is told locally.
The reason in an `attestation-decision` is one of these codes too, or empty.
"""


# --- error codes -----------------------------------------------------------------------------------------------------
def render_error_codes() -> str:
    """`docs/error-codes.md`: every code once, in the order of `protocol.errors`."""
    rows = [
        f"| `{code}` | {kind.status} | {_first(kind.meaning)} | {_flat(kind.__doc__)} | {_answered_by(code)} |"
        for code, kind in REGISTRY.items()
    ]
    return "\n".join([
        "# Error codes",
        "",
        "Generated from `protocol.errors` by `python -m parties.contract`; do not edit.",
        "",
        *_ABOUT_CODES.splitlines(),
        "",
        "| code | gRPC status | meaning | when | answered by |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def _answered_by(code: str) -> str:
    if code in contract.COMMON_CODES:
        return "every call"
    calls = [rpc.full_name for rpc in contract.RPCS if code in rpc.codes]
    if code == "DECRYPTION_FAILED":
        return "every call whose request is encrypted, and " + ", ".join(calls)
    return ", ".join(calls) or "—"


def _first(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _flat(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


# --- the specification map -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class PaperStep:
    """One step of the paper: `functions` beside the step classes of its RPCs, and the tests that show it."""

    identifier: str
    title: str
    functions: tuple[str, ...]
    tests: tuple[str, ...]


def paper_steps(data: Mapping[str, Any]) -> list[PaperStep]:
    """The steps of `docs/spec-map.toml`, in its order."""
    return [
        PaperStep(
            identifier=identifier, title=step["title"], functions=tuple(step["functions"]), tests=tuple(step["tests"])
        )
        for identifier, step in data["steps"].items()
    ]  # fmt: skip


def spec_data(root: Path = ROOT) -> dict[str, Any]:
    """`docs/spec-map.toml`, parsed."""
    return tomllib.loads((root / SPEC_DATA).read_text())


def find_object(dotted: str) -> object:
    """What a dotted name names. Raises: ImportError, AttributeError."""
    parts = dotted.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as exc:
            if exc.name is None or not dotted.startswith(exc.name):
                raise
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ImportError(dotted)


def missing_names(data: Mapping[str, Any], root: Path = ROOT) -> list[str]:
    """Functions and tests that the map names and that do not exist; steps without any test."""
    problems = []
    for step in paper_steps(data):
        for function in step.functions:
            try:
                find_object(function)
            except (ImportError, AttributeError):
                problems.append(f"{step.identifier}: no function {function}")
        problems += [f"{step.identifier}: no test {test}" for test in step.tests if not _test_exists(test, root)]
        if not step.tests:
            problems.append(f"{step.identifier}: no test is named")
    return problems


def _test_exists(name: str, root: Path) -> bool:
    match = _TEST.fullmatch(name)
    if match is None or not (root / match[1]).is_file():
        return False
    tree = ast.parse((root / match[1]).read_text())
    return any(isinstance(node, ast.FunctionDef) and node.name == match[2] for node in ast.walk(tree))


def render_spec_map(data: Mapping[str, Any]) -> str:
    """`docs/spec-map.md`: paper step → RPC, messages, functions, tests; and the table of RPCs."""
    return "\n".join([
        "# Specification map",
        "",
        "Generated from `protocol/contract/` and `docs/spec-map.toml` by `python -m parties.contract`; do not edit.",
        "",
        "Step IDs are the paper's. Forms: `S` a COSE_Sign1; `E(…)` HPKE to the receiver around it; `{…}K`",
        "COSE_Encrypt0 under a shared key; `kx` is the key of one AID run.",
        "Fields are in [payloads.cddl](../proto/payloads.cddl).",
        "",
        "## Paper steps",
        "",
        "| step | what | RPC: request → reply | signed by | functions | tests |",
        "|---|---|---|---|---|---|",
        *(_step_row(step) for step in paper_steps(data)),
        "",
        "## RPCs",
        "",
        "*Session* is the envelope's field of that name in the request. *TLS* is the role in the caller's certificate,",
        "which must also bear the signer's name; *any*: the port asks for a certificate of the CA, and the step does",
        "not look at it; *none*: no certificate is asked for, and a wallet must show the TSM none.",
        "",
        "| RPC | steps | request | session | reply | TLS | answered by | codes |",
        "|---|---|---|---|---|---|---|---|",
        *(_rpc_row(rpc) for rpc in contract.RPCS),
        "",
        "Every call can answer " + _codes(sorted(contract.COMMON_CODES)) + ", and with an encrypted request",
        "`DECRYPTION_FAILED`; calls that keep nothing (" + ", ".join(_stateless()) + ")",
        "never answer `REPLAY`. Refusals of the bank are passed on by `Tsm.ProveCredit` and `Tsm.CloseAccount`.",
        "",
    ])  # fmt: skip


def _stateless() -> list[str]:
    steps = {rpc.name: find_object(rpc.step) for rpc in contract.RPCS}
    return [_code(name) for name, step in steps.items() if isinstance(step, type) and issubclass(step, StatelessStep)]


def _step_row(step: PaperStep) -> str:
    rpcs = [rpc for rpc in contract.RPCS if step.identifier in rpc.steps]
    objects = [item for item in contract.OBJECTS if step.identifier in item.steps]
    calls = [f"{r.full_name}: `{r.request.NAME}` {_code(r.request_form)} → `{r.reply.NAME}` {_code(r.reply_form)}"
             for r in rpcs]  # fmt: skip
    calls += [f"object `{item.message.NAME}` {_code(item.form)}" for item in objects]
    signers = [f"{r.request_signer} → {r.reply_signer}" for r in rpcs] + [str(item.signer) for item in objects]
    functions = [f"`{name}`" for name in (*(rpc.step for rpc in rpcs), *step.functions)]
    tests = [f"`{test.removeprefix('tests/')}`" for test in step.tests]
    cells = (step.identifier, step.title, _cell(calls), _cell(signers), _cell(functions), _cell(tests))
    return f"| {' | '.join(cells)} |"


def _rpc_row(rpc: Rpc) -> str:
    cells = (
        rpc.full_name,
        ", ".join(rpc.steps) or "—",
        f"`{rpc.request.NAME}` {_code(rpc.request_form)} {rpc.request_signer}",
        rpc.session or "—",
        f"`{rpc.reply.NAME}` {_code(rpc.reply_form)} {rpc.reply_signer}",
        " or ".join(rpc.tls) or ("any" if rpc.service in contract.MUTUAL_ONLY else "none"),
        f"`{rpc.step}`",
        _codes(rpc.codes) or "—",
    )
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    return f"`{text}`"


def _codes(codes: Iterable[str]) -> str:
    return ", ".join(f"`{code}`" for code in codes)


def _cell(lines: Iterable[str]) -> str:
    return "<br>".join(dict.fromkeys(lines)) or "—"


# --- stubs -----------------------------------------------------------------------------------------------------------
def generate_stubs(root: Path = ROOT) -> dict[Path, str]:
    """The typed gRPC stubs of proto/*.proto. The plugins stand beside the running interpreter."""
    plugins = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{STUBS}={root / 'proto'}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={directory}", f"--grpc_python_out={directory}", f"--mypy_out=quiet:{directory}",
            f"--mypy_grpc_out=quiet,only_sync:{directory}", *(str(p) for p in sorted((root / "proto").glob("*.proto"))),
        ]  # fmt: skip
        subprocess.run(command, check=True)  # noqa: S603
        made = sorted((Path(directory) / STUBS).iterdir())
        return {STUBS / path.name: path.read_text() for path in made}


# --- writing and checking --------------------------------------------------------------------------------------------
def render_documents(root: Path = ROOT) -> dict[Path, str]:
    """Path → content of all generated files but the stubs."""
    return {
        CDDL: render_cddl(cddl_head((root / CDDL).read_text())),
        ERRORS: render_error_codes(),
        SPEC_MAP: render_spec_map(spec_data(root)),
    }


def differences(wanted: Mapping[Path, str], root: Path = ROOT) -> list[str]:
    """A unified diff of each file that is not as it should be."""
    diffs = []
    for path, content in wanted.items():
        committed = (root / path).read_text() if (root / path).is_file() else ""
        if committed != content:
            lines = difflib.unified_diff(
                committed.splitlines(), content.splitlines(), f"{path} (committed)", f"{path} (generated)", lineterm=""
            )
            diffs.append("\n".join(lines))
    return diffs


def stale_stubs(wanted: Mapping[Path, str], root: Path = ROOT) -> list[Path]:
    """Stubs that no .proto file makes any more."""
    return [path for path in sorted((root / STUBS).glob("*_pb2*")) if path.relative_to(root) not in wanted]


def write(path: Path, content: str) -> None:
    """Replace a file at once: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def main(arguments: list[str]) -> int:
    """Exit status: 0 done or up to date; 1 something differs or a name does not exist; 2 wrong usage."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m parties.contract [--check]\n")
        return 2
    wanted = {**generate_stubs(), **render_documents()}
    stale = stale_stubs(wanted)
    problems = missing_names(spec_data())
    if arguments:
        problems += differences(wanted) + [f"{path.relative_to(ROOT)}: no .proto file makes it" for path in stale]
    else:
        for path, content in wanted.items():
            write(ROOT / path, content)
        for path in stale:
            path.unlink()
    sys.stdout.write("".join(f"{problem}\n" for problem in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
