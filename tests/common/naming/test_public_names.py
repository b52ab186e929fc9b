"""Public names: one per exported class and function, importable, independent of the module that holds it."""

import importlib
import inspect
import pkgutil
import sys
from collections import OrderedDict

import pytest
from torch import nn

from common.checkpoints.description import SCHEDULES, build_part, describe
from common.naming.public_names import PACKAGES, import_public, is_ours, public_name
from common.networks import SmallCNN

INTERFACE = "common.api.robust_diffusion"  # installed under another name, and no room
ROOMS = sorted(
    module.name
    for package in PACKAGES
    for module in [
        pkgutil.ModuleInfo(None, package, True),  # type: ignore[arg-type]
        *pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."),
    ]
    if module.ispkg and module.name != INTERFACE and hasattr(importlib.import_module(module.name), "__all__")
)


def exported(name):
    room, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(room), attribute)


def is_class_or_function(name):
    part = exported(name)
    return (inspect.isclass(part) or inspect.isfunction(part)) and is_ours(part)


NAMES = sorted(f"{room}.{name}" for room in ROOMS for name in importlib.import_module(room).__all__)
EXPORTED = [name for name in NAMES if is_class_or_function(name)]


def test_every_room_of_the_methods_and_of_parts_exports_something():
    assert {"agdm", "diffpure", "ndc", "common.data", "common.diffusion", "common.diffusion.networks",
            "common.networks", "common.robustness", "common.checkpoints"} <= {*ROOMS}  # fmt: skip
    assert len(EXPORTED) > 120


def test_exports_exist():
    for room in ROOMS:
        module = importlib.import_module(room)
        assert [name for name in module.__all__ if not hasattr(module, name)] == [], room


def test_public_names_import_back_to_the_same_object():
    for name in EXPORTED:
        part = exported(name)
        public = public_name(part)
        assert import_public(public) is part, name
        room, _, own = public.rpartition(".")
        assert room in ROOMS, name
        assert own == part.__qualname__, name


def modules_by_name():
    return {name: exported(name) for name in EXPORTED if inspect.isclass(exported(name))}


def test_everything_a_checkpoint_may_hold_has_one_name():
    """Networks, denoisers, classifiers and schedules, wherever they are exported."""
    kinds = {kind for kind in modules_by_name().values() if issubclass(kind, nn.Module) or kind in SCHEDULES}
    assert len(kinds) > 30
    assert {*SCHEDULES} <= kinds
    for kind in kinds:
        assert import_public(public_name(kind)) is kind
    names = [public_name(kind) for kind in kinds]
    assert len(names) == len({*names})


def test_a_name_survives_a_move_between_modules(monkeypatch):
    before = describe(SmallCNN(4, 1))
    assert before["class"] == "common.networks.SmallCNN"
    elsewhere = sys.modules["common.networks.wide_resnet"]
    monkeypatch.setattr(elsewhere, "SmallCNN", SmallCNN, raising=False)
    monkeypatch.setattr(SmallCNN, "__module__", "common.networks.wide_resnet")
    assert describe(SmallCNN(4, 1)) == before
    assert type(build_part(before)) is SmallCNN


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch.nn.Linear", "must start with a package of agdm, common, diffpure, ndc"),
        ("common", "must start with a package"),
        ("common..networks.SmallCNN", "must start with a package"),
        ("common._private.x", "must start with a package"),
        ("common.networks.Nothing", "this version of the project has no"),
        ("common.nowhere.SmallCNN", "this version of the project has no"),
        ("common.networks.small_cnn", "must be a class or function that the room common.networks exports"),
        ("common.networks.small_cnn.SmallCNN", "must be a class or function that the room"),
        ("common.networks.wide_resnet.WideBlock", "must be a class or function that the room"),
        ("common.checkpoints.description.describe", "must be a class or function that the room"),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        import_public(name)


def test_names_of_other_projects_and_of_what_no_room_exports():
    assert public_name(nn.Linear) == "torch.nn.Linear"
    assert public_name(OrderedDict) == "collections.OrderedDict"
    assert public_name(modules_by_name) == f"{__name__}.modules_by_name"
    block = sys.modules["common.networks.wide_resnet"].WideBlock
    assert public_name(block) == "common.networks.wide_resnet.WideBlock"
    with pytest.raises(ValueError, match="must be a class or function that the room"):
        describe(block(1, 1, 1, 0.0))
