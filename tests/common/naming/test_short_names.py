"""Short names: complete, unambiguous, each the public name of one class or function, known without torch."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

import pytest

from common.naming.public_names import PACKAGES, import_public, is_ours, public_name
from common.naming.short_names import _EXPORTS, SHORT_NAMES, nearest_short_names, resolve_short_name

INTERNAL = {"common.naming", "common.numerics", "common.checkpoints.formats"}  # rooms that users do not name parts of
INTERFACE = "common.api.robust_diffusion"  # its exports are the table


def rooms():
    """Names of all modules with an ``__all__`` that a user may name parts of."""
    for package in PACKAGES:
        yield package
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if module.ispkg or module.name.count(".") == 1:
                yield module.name


def exports():
    """Short and public name of every exported class and function."""
    for room in rooms():
        module = importlib.import_module(room)
        for name in () if room in {*INTERNAL, INTERFACE} else getattr(module, "__all__", ()):
            part = getattr(module, name)
            if (inspect.isclass(part) or inspect.isfunction(part)) and is_ours(part):
                yield name, public_name(part)


def test_the_table_holds_every_export_of_the_rooms_and_nothing_else():
    found = sorted(exports())
    assert len(found) > 170
    assert found == sorted(SHORT_NAMES.items())


def test_no_short_name_is_ambiguous_also_not_by_case():
    """The table is a dictionary: a name of two rooms would silently lose one."""
    names = [name for text in _EXPORTS.values() for name in text.split()]
    assert len({name.lower() for name in names}) == len(names) == len(SHORT_NAMES)


def test_each_short_name_is_that_of_its_public_name():
    for name, public in SHORT_NAMES.items():
        part = import_public(resolve_short_name(name))
        assert part.__name__ == name
        assert public_name(part) == public


def test_the_table_is_read_without_torch():
    code = "import sys, common.naming.short_names as s; assert 'PGD' in s.SHORT_NAMES; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("Diffpure", "DiffPure"), ("pgd", "PGD"), ("load_clasifier", "load_classifier"), ("Smothing", "Smoothing")],
)
def test_a_mistyped_name_is_answered_with_the_nearest(typed, meant):
    assert nearest_short_names(typed)[0] == meant
    with pytest.raises(ValueError, match=re.escape(f"{typed!r}. Did you mean {meant}")):
        resolve_short_name(typed)


def test_a_name_unlike_any_other_is_answered_with_the_way_to_name_a_class_of_ones_own():
    with pytest.raises(ValueError, match=r"'zzzqqq'. A class of your own needs its module"):
        resolve_short_name("zzzqqq")
