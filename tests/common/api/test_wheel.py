"""The built wheel: complete, importable from another folder, with its presets."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PARTS = ("agdm", "common", "diffpure", "ndc", "configs")
UNPACKED = ("README.md",)  # rooms' pages, read in the repository

KEPT = {"figures", "records"}  # folders of a study, read in the repository
LARGEST = 25e6  # bytes: weights of 20 MB at most, code and presets


def shipped() -> set[str]:
    """Names in the wheel of all files of the source tree that belong into it."""
    files = {path for part in PARTS for path in (ROOT / part).rglob("*") if path.is_file()}
    names = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    names = {name for name in names if name.startswith("configs/") or not name.endswith(UNPACKED)}
    names = {name for name in names if not name.startswith("common/report/images/")}  # of the README
    names = {name for name in names if not (name.startswith("configs/") and KEPT.intersection(name.split("/")))}
    mapped = {"common/api/robust_diffusion/": "robust_diffusion/", "configs/": "robust_diffusion/configs/"}
    for old, new in mapped.items():
        names = {new + name.removeprefix(old) if name.startswith(old) else name for name in names}
    return names | {"cli.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of the wheel, built from a copy of the tree, where the build leaves its own files."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "runs")
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / "tree" / part, ignore=ignored)
    for name in ("records.jsonl.gz", "study.json", "configs/run.test.yaml"):
        kept = folder / "tree" / "configs" / "studies" / "cifar10" / "records" / "a study" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("# kept")
    for name in ("cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder / "tree", capture_output=True, text=True)
    assert not done.returncode, done.stderr
    (path,) = folder.glob("robust_diffusion-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel):
    """Folder with the wheel's content, as in site-packages."""
    folder = wheel.parent / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed, *command, cwd):
    """Standard output of Python run in another folder, which sees this project in the wheel alone."""
    code = f"import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f)]; {command[0]}"
    done = subprocess.run(
        [sys.executable, "-c", code, *command[1:]],
        env={"PYTHONPATH": str(installed), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, cwd=cwd,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_the_wheel_holds_every_file_of_the_tree_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == shipped()


def test_the_wheel_holds_weights_and_presets_and_no_records(wheel):
    assert wheel.stat().st_size < LARGEST
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    studies = [name.partition("/studies/cifar10/")[2] for name in names if "/studies/cifar10/" in name]
    assert {"weights/classifier.safetensors", "agdm.study.yaml", "README.md"} <= {*studies}
    assert not [name for name in studies if name.startswith(("records/", "figures/"))]


def test_the_package_is_imported_from_the_wheel_without_torch(installed, tmp_path):
    code = "import robust_diffusion as rd; print(rd.__file__, 'torch' in sys.modules, 'DiffPure' in dir(rd))"
    assert run(installed, code, cwd=tmp_path).split() == [
        str(installed / "robust_diffusion" / "__init__.py"), "False", "True",
    ]  # fmt: skip


def test_its_presets_are_found(installed, tmp_path):
    code = "from common.naming import presets_root as r; print(r(), *(p.stem for p in r().glob('tour/*.yaml')))"
    folder, *stages = run(installed, code, cwd=tmp_path).split()
    assert Path(folder) == installed / "robust_diffusion" / "configs"
    assert len(stages) == len(list((ROOT / "configs" / "tour").glob("*.yaml"))) > 5


def test_a_class_of_every_room_is_that_of_its_room(installed, tmp_path):
    code = (
        "import robust_diffusion as rd, common.robustness, diffpure;"
        "print(rd.PGD is common.robustness.PGD, rd.DiffPure is diffpure.DiffPure, rd.PGD.__module__)"
    )
    assert run(installed, code, cwd=tmp_path) == "True True common.robustness.attacks.pgd"
