"""What the README says can be done: its commands name real files and classes, its Python runs."""

import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def test_the_two_commands_come_first():
    language, text = BLOCKS[0]
    install, test = text.strip().splitlines()
    assert language == "bash"
    assert install.endswith("robust-diffusion tour")
    assert test == "pytest"
    assert "\npytest\n" in (ROOT / ".ci" / "run").read_text()  # exactly what CI runs


def test_commands_name_files_that_exist():
    commands = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
    named = [word for line in commands for word in shlex.split(line, comments=True) if word.endswith(".yaml")]
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_dotted_names_exist():
    names = set(re.findall(r"`((?:agdm|common|diffpure|ndc)\.[\w.]+\w)`", README))
    assert len(names) > 5
    for name in names:
        assert pkgutil.resolve_name(name) is not None


def test_the_python_example_runs(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tour").symlink_to(weights)
    (code,) = [text for language, text in BLOCKS if language == "python"]
    namespace: dict[str, object] = {}
    exec(compile(code.replace("steps=20, eot=4", "steps=2, eot=2"), "README.md", "exec"), namespace)
    image, adv = namespace["image"], namespace["adv"]
    assert 0 < float((adv - image).abs().max()) <= 8 / 255 + 1e-6


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_begin_with_what_they_are(path):
    assert path.read_text().startswith("# ")
    assert isinstance(yaml.safe_load(path.read_text()), dict)
