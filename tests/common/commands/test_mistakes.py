"""Typing mistakes of a first hour: each is answered in at most five lines that name the remedy."""

import subprocess
import sys
from pathlib import Path

import lightning  # noqa: F401  (imported before its devices are hidden)
import pytest
import torch

import cli
from common.commands.errors import LINES, WIDTH, UsageError, concise
from tests.common.commands.hundred_mistakes import HUNDRED, HUNDRED_FILES

ROOT = Path(__file__).parents[3]
TOUR = ("test", "-c", "tour/06-diffpure")
PURIFIER = "--model.init_args.purifier"
LONG = "common.robustness.threats.norm_ball.ThreatModel"

MISTAKES: dict[str, tuple[list[str], str]] = {
    "command": (["tset"], "Did you mean test?"),
    "command, swapped": (["reprot", "runs/x"], "Did you mean report?"),
    "option before the command": (["--confg", "x.yaml"], "robust-diffusion --help"),
    "no settings": (["test"], "needs data and model: name a preset (-c diffpure/cifar10)"),
    "no file after -c": (["test", "-c"], "expected one argument"),
    "preset": (["test", "-c", "difpure/cifar10"], "Did you mean diffpure/cifar10?"),
    "preset, ending": (["fit", "-c", "train/cifar10-denoiser.yml"], "Did you mean train/cifar10-denoiser?"),
    "file": (["test", "-c", "mien.yaml"], "Did you mean mine.yaml?"),
    "option": ([*TOUR, "--trainer.acelerator", "cpu"], "Did you mean --trainer.accelerator?"),
    "option without dashes": ([*TOUR, "records", "x"], "settings are given as --NAME VALUE"),
    "setting of the task": ([*TOUR, "--model.init_args.recrods", "x"], "Did you mean records?"),
    "setting of a part": ([*TOUR, f"{PURIFIER}.init_args.stps", "4"], "no setting 'stps'. Did you mean steps?"),
    "type": ([*TOUR, f"{PURIFIER}.init_args.steps", "four"], ".steps must be an integer or null; got 'four'"),
    "type of data": ([*TOUR, "--data.init_args.batch_size", "big"], ".batch_size must be an integer; got 'big'"),
    "type of the trainer": ([*TOUR, "--trainer.max_epochs", "ten"], "must be an integer or null; got 'ten'"),
    "choice": ([*TOUR, "--model.init_args.verify", "maybe"], "must be one of 'refuse', 'warn', 'off'; got 'maybe'"),
    "list": ([*TOUR, "--model.init_args.evaluators", "PGD"], "model.init_args.evaluators must be a list; got 'PGD'"),
    "class": ([*TOUR, PURIFIER, "Difpure"], "Did you mean DiffPure"),
    "class of data": ([*TOUR, "--data", "CIFAR11"], "Did you mean CIFAR10"),
    "class of another kind": ([*TOUR, PURIFIER, "PGD"], "PGD is no Purifier"),
    "class of one's own": ([*TOUR, PURIFIER, "fgms.FGSM"], "A class of your own is FILE.NAME, in this folder"),
    "module path": ([*TOUR, "--model.init_args.threat", LONG.replace("Model", "Modle")], "Did you mean ThreatModel"),
    "function": ([*TOUR, f"{PURIFIER}.init_args.denoiser", "load_denoisr"], "Did you mean load_denoiser"),
    "missing arguments": (["test", "--model", "DiffPureTask", "--data", "Digits"], "DiffPureTask needs purifier,"),
    "value": ([*TOUR, "--model.init_args.threat.init_args.eps", "8"], "Write 8/255"),
    "device": ([*TOUR, "--trainer.accelerator", "gpuu"], "Did you mean gpu?"),
    "device that is missing": ([*TOUR, "--trainer.accelerator", "gpu"], "Use cpu or auto"),
    "test for fit": (["fit", "-c", "tour/06-diffpure"], "Use it with: robust-diffusion test"),
    "validate for test": (["validate", "-c", "tour/06-diffpure"], "Use it with: robust-diffusion test"),
    "fit for test": (["test", "-c", "tour/03-denoiser"], "Use it with: robust-diffusion fit"),
    "devices": ([*TOUR, "--trainer.devices", "many"], "--trainer.devices must be a number"),
    "no device": ([*TOUR, "--trainer.devices", "0"], "--trainer.devices must be at least 1"),
    "list of devices": ([*TOUR, "--trainer.devices", "0,1"], "on a CPU a number of processes; got 0,1. Use 1"),
    "precision": ([*TOUR, "--trainer.precision", "12"], "trainer.precision must be one of"),
    "weights to train": ([*TOUR], "Make it with: robust-diffusion tour"),
    "weights to fetch": (["test", "-c", "diffpure/cifar10"], "robust-diffusion fetch score_sde_cifar10"),
    "checkpoint": ([*TOUR, "--ckpt_path", "last.ckpt"], "--ckpt_path must be a complete Lightning checkpoint"),
    "card": (["fetch", "score_sde_cifar"], "Did you mean score_sde_cifar10?"),
    "pattern": (["presets", "dijits"], "no preset matches 'dijits'"),
    "study": (["study", "studies/ndc-node"], "Did you mean studies/ndc-nodes"),
    "option of a study": (["study", "studies/ndc-nodes", "--prat", "1/2"], "Did you mean --part?"),
    "test as a study": (["study", "studies/agdm-digits"], "robust-diffusion test -c studies/agdm-digits"),
    "study as a test": (["test", "-c", "studies/ndc-nodes"], "robust-diffusion study studies/ndc-nodes"),
    "number": (["tour", "--jobs", "two"], "--jobs must be an integer; got 'two'"),
    "missing argument": (["report"], "required: records"),
    "missing option": (["convert", "a.pth", "b.safetensors"], "required: --format"),
    "records": (["report", "runs/nowhere"], "runs/nowhere"),
    "file as records": (["report", "broken.yaml"], "broken.yaml holds no records. Name the directory"),
    "folder": (["test", "-c", "."], ". is a folder"),
    "suite alone": (["test", "-c", "suites/quick"], "Name a test first: -c tour/06-diffpure"),
    "key in a file": (["test", "-c", "key.yaml"], "Did you mean t_star?"),
    "section in a file": (["test", "-c", "section.yaml"], "Did you mean trainer?"),
    "setting in a section": (["test", "-c", "trainer.yaml"], "Did you mean trainer.max_epochs?"),
    "no YAML": (["test", "-c", "broken.yaml"], "broken.yaml, line 2 is not YAML"),
    "tab": (["test", "-c", "tab.yaml"], "Indent with spaces, not tabs"),
    "colon": (["test", "-c", "colon.yaml"], "The line before may lack its colon"),
    "indentation": (["test", "-c", "indentation.yaml"], "Indent the settings of one mapping alike"),
    "quotation mark": (["test", "-c", "quotation.yaml"], "A quotation mark or bracket is not closed"),
    "list as settings": (["test", "-c", "list.yaml"], "model: the settings must be a mapping"),
    "settings beside a class": (["test", "-c", "beside.yaml"], "its settings below init_args"),
    "base in a file": (["test", "-c", "base.yaml"], "Did you mean tour/06-diffpure?"),
}  # fmt: skip

FILES = {
    "mine.yaml": "trainer: {logger: false}\n",
    "key.yaml": "base: tour/06-diffpure\nmodel: {init_args: {purifier: {init_args: {tstar: 0.1}}}}\n",
    "section.yaml": "base: tour/06-diffpure\ntrianer: {logger: false}\n",
    "trainer.yaml": "base: tour/06-diffpure\ntrainer: {max_epoch: 3}\n",
    "broken.yaml": "model: {class_path: X\ndata: ]\n",
    "tab.yaml": "model:\n\tinit_args: {}\n",
    "colon.yaml": "model:\n  init_args\n    records: runs/x\n",
    "indentation.yaml": "model:\n   init_args: {}\n  class_path: X\n",
    "quotation.yaml": 'model: {records: "runs/x}\n',
    "list.yaml": "base: tour/06-diffpure\nmodel: {init_args: [{records: runs/x}]}\n",
    "beside.yaml": "base: tour/06-diffpure\nmodel: {records: runs/x}\n",
    "base.yaml": "base: tour/06-difpure\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with a few files, no weights, an empty cache, and no GPU."""
    for name, text in (FILES | HUNDRED_FILES).items():
        (tmp_path / name).write_text(text, encoding="latin-1" if name.endswith(".png") else "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_five_lines_with_the_remedy(mistake, folder):
    arguments, remedy = MISTAKES[mistake]
    assert remedy in answer(arguments)


@pytest.mark.parametrize("typed", HUNDRED)
def test_each_of_a_hundred_commands_is_answered(typed, folder):
    arguments, remedy = HUNDRED[typed]
    assert remedy in answer(arguments) and len(HUNDRED) >= 100


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for command in (["test", "-c"], ["study"], ["convert", "a.pt", "b.safetensors", "--format", "edm", "--config"]):
        assert "cannot read mine.yaml: Permission denied" in answer([*command, "mine.yaml"])


def answer(arguments):
    """The answer to a command that is refused, in at most five lines without noise."""
    with pytest.raises((ValueError, OSError)) as raised:
        cli.main(arguments)
    assert cli.is_expected(raised.value)
    lines = concise(str(raised.value)).splitlines()
    assert 1 <= len(lines) <= LINES and max(map(len, lines)) <= WIDTH
    for noise in ("usage:", "Given value", "Subtypes", "Namespace(", "<class", "Traceback"):
        assert noise not in str(raised.value)
    return " ".join(lines)


def test_on_the_command_line_it_is_all_there_is(folder):
    """Exit status 2, nothing on standard output, and on standard error the same text."""
    arguments, remedy = MISTAKES["command"]
    command = [sys.executable, "-W", "ignore", str(ROOT / "cli.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and remedy in done.stderr
    assert len(done.stderr.splitlines()) <= LINES


def test_with_debugging_it_is_a_traceback(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["robust-diffusion", "tset"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    monkeypatch.setenv("ROBUST_DIFFUSION_DEBUG", "1")
    with pytest.raises(UsageError):
        cli.main()


def test_long_messages_are_cut():
    assert concise("one\n\ntwo") == "one\ntwo"
    text = concise("word " * 1000, 50).splitlines()
    assert len(text) == LINES and max(map(len, text)) <= 50
    assert "ROBUST_DIFFUSION_DEBUG=1" in text[-1]
    path = "/".join(["folder"] * 40)
    assert concise(f"there is no {path}") == f"there is no\n{path}"  # paths stay whole
