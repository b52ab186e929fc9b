"""The overview, help pages and lists: complete, short, and without torch."""

import json
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
import json, os, runpy, sys
import cli  # what every command imports

def listen(arguments, number):
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{{number}}.{{name}}", os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["robust-diffusion", *arguments]
    try:
        runpy.run_path({path!r}, run_name="__main__")
    except SystemExit:
        pass
    return bool({{"torch", "lightning"}} & {{*sys.modules}})

for number, arguments in enumerate(json.loads(sys.argv[1])):
    if not os.fork():  # a process of its own, which shares the start of Python
        status = 2
        try:
            status = listen(arguments, number)
        except Exception:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def light(commands: list[list[str]], script: Path, folder: Path) -> list[tuple[int, str, str]]:
    """Status of runs of a script in another folder, 0 if it imported neither torch nor Lightning, and both outputs."""
    command = [sys.executable, "-uc", LISTENER.format(path=str(script), folder=folder), json.dumps(commands)]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT / "tests")
    outputs = [[(folder / f"{i}.{name}").read_text() for name in ("out", "err")] for i in range(len(commands))]
    return [(int(status), *both) for status, both in zip(done.stdout.split(), outputs, strict=True)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Statuses and outputs of all commands of ``LIGHT``."""
    return light(LIGHT, ROOT / "cli.py", tmp_path_factory.mktemp("answers"))


@pytest.mark.parametrize("number", range(len(LIGHT)), ids=[" ".join(arguments) for arguments in LIGHT])
def test_lists_and_help_import_neither_torch_nor_lightning(answers, number):
    status, shown, errors = answers[number]
    assert status == 0, errors
    assert shown or LIGHT[number] in (["tset"], ["test", "-c", "difpure/cifar10"])


def test_the_listener_notices_torch_and_errors(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.modules['torch'] = sys if sys.argv[1] else 1 / 0")
    assert [status for status, _, _ in light([["x"], [""]], script, tmp_path)] == [1, 2]


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
