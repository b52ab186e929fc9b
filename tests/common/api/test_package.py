"""The package ``robust_diffusion``: every short name, imported on use; one copy of every class."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import robust_diffusion as rd
import yaml

from common.naming.public_names import import_public
from common.naming.short_names import SHORT_NAMES

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "common" / "api" / "robust_diffusion" / "__init__.py"


def test_it_is_that_of_this_tree():
    assert Path(rd.__file__) == SOURCE


def test_each_name_is_the_one_object_of_its_room():
    assert [name for name, public in SHORT_NAMES.items() if getattr(rd, name) is not import_public(public)] == []


def test_names_are_listed_for_completion():
    assert rd.__all__ == [*SHORT_NAMES]
    assert {*SHORT_NAMES, "__version__"} <= set(dir(rd))
    assert not {"Any", "TYPE_CHECKING", "import_module"} & set(dir(rd))


def test_editors_and_type_checkers_see_every_room_of_the_table():
    """The names come from ``from room import *`` under TYPE_CHECKING, which runs nowhere."""
    tree = ast.parse(SOURCE.read_text())
    seen = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"}
    assert seen == {public.rpartition(".")[0] for public in SHORT_NAMES.values()}


def test_the_import_needs_no_torch_and_a_name_brings_it():
    code = (
        "import sys; sys.path.insert(0, 'common/api'); import robust_diffusion as rd;"
        "before = 'torch' in sys.modules; rd.Noise; print(before, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True"]


def test_a_mistyped_name_is_answered_with_the_nearest():
    with pytest.raises(AttributeError, match=r"robust_diffusion: no class .* named 'Diffpure'. Did you mean DiffPure"):
        _ = rd.Diffpure
    assert not hasattr(rd, "__wrapped__")
    with pytest.raises(ImportError):
        from robust_diffusion import Diffpure  # noqa: F401


def test_the_version_is_that_of_the_metadata_and_of_the_citation():
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert rd.__version__ == version == citation["version"]
