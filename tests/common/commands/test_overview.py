"""The overview, help pages and lists: complete, short, and without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

import cli
from common.commands import COMMANDS, LIGHTNING

ROOT = Path(__file__).parents[3]
LIGHT = [[], ["-h"], ["--help"], ["fetch"], *([name, "--help"] for name in COMMANDS), ["presets"],
         ["presets", "diffpure/cifar10"], ["tset"],
         ["test", "-c", "difpure/cifar10"]]  # fmt: skip
LISTENER = """
import runpy, sys
sys.argv = ["robust-diffusion", *sys.argv[1:]]
try:
    runpy.run_path({path!r}, run_name="__main__")
except SystemExit:
    pass
heavy = {{"torch", "lightning"}} & {{*sys.modules}}
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""


def light(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A run of the script in another folder; its status is 0 if neither torch nor Lightning was imported."""
    command = [sys.executable, "-c", LISTENER.format(path=str(ROOT / "cli.py")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, cwd=ROOT / "tests")


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_lists_and_help_import_neither_torch_nor_lightning(arguments):
    done = light(arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout or arguments in (["tset"], ["test", "-c", "difpure/cifar10"])


def test_the_listener_notices_torch(tmp_path):
    script = LISTENER.format(path=str(tmp_path / "script.py"))
    (tmp_path / "script.py").write_text("import sys; sys.modules['torch'] = sys")
    assert subprocess.run([sys.executable, "-c", script]).returncode == 1


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_the_overview_has_one_line_per_command(arguments, capsys):
    cli.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    for name, command in COMMANDS.items():
        assert sum(line.startswith(f"  {name} ") and line.endswith(command.summary) for line in lines) == 1
    assert [line for line in lines if line in {command.group for command in COMMANDS.values()}] == [
        "train & evaluate",
        "look",
        "reproduce",
        "weights",
    ]
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("name", LIGHTNING)
def test_pages_of_lightnings_commands_are_short(name, capsys):
    cli.main([name, "--help"])
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= 20
    for part in (f"Usage: robust-diffusion {name} ", "Example: ", "--print_config", "--help-all", "--help CLASS"):
        assert part in page
