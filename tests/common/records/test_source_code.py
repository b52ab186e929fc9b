"""Checksum of the code: it changes with a file of a user, and with a function of a notebook."""

import sys
from types import ModuleType

import pytest

from common.records import source_code
from common.records.source_code import code_checksum


@pytest.fixture
def module(monkeypatch):
    """Function: a module of a user under a name, of these lines, imported from a file where there is one."""

    def make(name, lines, file=None):
        made = ModuleType(name)
        exec(compile(lines, str(file or "<cell>"), "exec"), made.__dict__)
        if file is not None:
            file.write_text(lines)
            made.__file__ = str(file)
        monkeypatch.setitem(sys.modules, name, made)

    return make


def test_a_file_of_a_user_counts(module, tmp_path):
    before = code_checksum()
    module("my_defence", "SIGN = 1\n", tmp_path / "my_defence.py")
    with_module = code_checksum()
    assert with_module != before and code_checksum() == with_module
    module("my_defence", "SIGN = 2\n", tmp_path / "my_defence.py")
    assert code_checksum() not in (before, with_module)


@pytest.mark.parametrize("lines", ["def f(x): return {}\n", "class A:\n    def f(self, x): return {}\n"])
def test_functions_of_a_notebook_count(module, lines):
    """Defined again as they were, they are the same."""
    module("__main__", lines.format("x + 1"))
    one = code_checksum()
    module("__main__", lines.format("x + 1"))
    assert code_checksum() == one
    module("__main__", lines.format("x - 1"))
    assert code_checksum() != one


@pytest.mark.parametrize("name", ["torch._inductor.runtime.compile_tasks.abc", "abc.kernel"])
def test_what_torch_compile_generates_does_not_count(module, tmp_path, monkeypatch, name):
    before = code_checksum()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    module(name, "SIGN = 1\n", tmp_path / "abc.py")
    assert code_checksum() == before


def test_all_launchers_of_the_command_line_have_one_checksum(module, monkeypatch, tmp_path):
    """``python cli.py`` and the installed script; a script with a defence of its own differs."""
    cli, main = ModuleType("cli"), ModuleType("__main__")
    cli.__file__ = main.__file__ = str(source_code._cli())
    cli.main = type("main", (), {"__module__": "cli"})
    monkeypatch.setitem(sys.modules, "__main__", main)
    direct = code_checksum()
    monkeypatch.setitem(sys.modules, "cli", cli)
    module("__main__", "from cli import main\n", tmp_path / "robust-diffusion")
    assert code_checksum() == direct
    module("__main__", "from cli import main\nclass Mine: pass\n", tmp_path / "mine.py")
    assert code_checksum() != direct


def test_installed_modules_do_not_count(module, tmp_path):
    """They may be imported late; their versions are those of an environment."""
    before = code_checksum()
    (tmp_path / "site-packages").mkdir()
    module("late", "SIGN = 1\n", tmp_path / "site-packages" / "late.py")
    assert code_checksum() == before


def test_the_own_code_and_versions_count(monkeypatch):
    before = code_checksum()
    monkeypatch.setattr(source_code.torch, "__version__", "0.0")
    other = code_checksum()
    monkeypatch.undo()
    monkeypatch.setattr(source_code, "_own", lambda: "of another commit")
    assert len({before, other, code_checksum()}) == 3
    monkeypatch.undo()
    source_code._own.cache_clear()
    read = source_code._read
    monkeypatch.setattr(source_code, "_read", lambda file: read(file) + (b"#" if file.name == "crew.py" else b""))
    assert code_checksum() != before
    source_code._own.cache_clear()
