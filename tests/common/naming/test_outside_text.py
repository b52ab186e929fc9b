"""Names of files, evaluators and studies are text: on any terminal, in tables, in spreadsheets."""

import ast
import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.markup import escape
from rich.text import Text

from common.commands.errors import concise
from common.files.spreadsheets import as_csv
from common.naming.outside_text import accept_any_text, as_entry, plain
from common.naming.terminal import Terminal
from common.records.schema import CleanRecord
from common.records.store import Records
from common.report.build import build
from tests.sources import FILES, identify

ROOT = Path(__file__).parents[3]
EVIL = {
    "clear": "a\x1b[2Jb",
    "title": "a\x1b]0;owned\x07b",
    "c1": "a\x9b31mb",
    "back": "a\x08\x08b\rc",
    "direction": "a\u202egnp.exe",
    "not UTF-8": os.fsdecode(b"a\xff\xfeb"),
    "half a pair": "a\ud83d",
}


def printed(*values: object, encoding: str = "utf-8", **options: object) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    Terminal(file=stream, width=200, **options).print(*values)
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("name", EVIL)
def test_terminal_codes_are_shown(name: str) -> None:
    text = EVIL[name]
    shown = [plain(text), concise(text), printed(text, markup=False), printed(Text(text)), printed(escape(text))]
    for one in shown:
        assert one.isascii()
        assert not any(ord(character) < 32 and character != "\n" for character in one)
        assert ascii(text[1])[1:-1] in one or name == "back"  # rich removes it
    styled = printed(Text(text, "red"), force_terminal=True, color_system="standard")
    assert styled.replace("\x1b[31m", "").replace("\x1b[0m", "") == printed(Text(text))


def test_ordinary_text_is_not_changed() -> None:
    for text in ("σ = 0.5, t* ≤ 0.1", "Bär 猫 🙂.png", "a\tb\nc", "C:\\x1b"):
        assert plain(text) == text


@pytest.mark.parametrize(
    "text", ["[bold]", "[/]", "[red]a[/red]", "runs/[x]/y", "a[/b", "tail\\", "[link=file:///etc]x"]
)
def test_brackets_of_outside_text_stay(text: str) -> None:
    assert printed(f"[bold]{escape(text)}[/]: x").strip() == f"{text}: x"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_every_encoding_of_a_terminal_takes_every_text(encoding: str) -> None:
    assert "8/255" in printed("σ ≤ 8/255 ✓ 猫", Text(EVIL["not UTF-8"]), encoding=encoding)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    accept_any_text(stream)
    print("σ 猫 \ud83d", file=stream, flush=True)


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+cmd|x", "-2+cmd|x", "@SUM(A1)", "\t=1+1", "\r=1", '=HYPERLINK("x")']
)
def test_formulas_are_text(text: str) -> None:
    ((entry, _),) = csv.reader(io.StringIO(as_csv([[text, 1]]), newline=""))
    assert entry == f"'{text}" or entry == "\\r=1"


def test_numbers_are_no_formulas() -> None:
    for value in ("-3.2", "+1.5 [0.2, 2.8]", "-1.2e-05", "-5 %", "", "a=b", "–", -3, 0.5, None):
        assert as_entry(value) == value


def test_consoles_are_terminals() -> None:
    """Every console of the project shows outside text as text."""
    for path in FILES:
        if identify(path) == "common/naming/terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console"), path


@pytest.mark.filterwarnings("error:Glyph")  # of matplotlib, for a character that no font has
def test_a_report_of_evil_names_is_built(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = tmp_path / os.fsdecode(b"=run\xff[red]\x1b[2J")
    store = Records(folder, "fingerprint")
    for position, name in enumerate(["=1+cmd|x", *EVIL.values()]):
        if name in (EVIL["not UTF-8"], EVIL["half a pair"]):
            with pytest.raises(ValueError, match="evaluator must be str"):
                CleanRecord(evaluator=name, index=0, label=0, predictions=[0])
            continue
        store.append(
            [CleanRecord(evaluator=name, index=index, label=0, predictions=[position % 2]) for index in (0, 1)]
        )
    store.close()
    page = build([folder], tmp_path / "out", figures=True)
    table = page.with_suffix(".csv").read_text(encoding="utf-8")
    assert "'=1+cmd|x" in table and "'=run" in table
    out, _ = capsysbinary.readouterr()
    assert b"\x1b" not in out and b"[red]" in out


def test_a_command_on_a_narrow_terminal_ends_well(tmp_path: Path) -> None:
    setting = "vary: {seed: {seed_everything: [1]}}"
    (tmp_path / "s.yaml").write_text(f"# σ [bold] 猫\nbase: tour/06-diffpure\nrecords: runs\n{setting}\n")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "cli.py"), "study", "s.yaml", "--report"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment)
    assert done.stdout.startswith(b"s: \\u03c3 [bold] \\u732b") and b"Traceback" not in done.stderr
