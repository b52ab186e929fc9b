"""Rooms whose exports are imported on first use."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from common.naming.lazy_rooms import exported

ROOMS = ("common.checkpoints", "common.hub")


@pytest.mark.parametrize("room", ROOMS)
def test_every_export_is_the_object_of_its_module(room):
    package = importlib.import_module(room)
    modules = exported(Path(package.__file__))
    assert {*modules} == {*package.__all__}
    for name, module in modules.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_naming_a_room_imports_no_torch():
    script = f"import sys, {', '.join(ROOMS)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3]).returncode == 0
