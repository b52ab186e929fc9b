"""A report replaces its own files and no others, nor writes through links."""

import os
from pathlib import Path

import pytest

from common.report.build import build
from tests.common.report.pages import attacked, clean, write


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write(folder / "a", clean(), attacked()), write(folder / "b", clean(seed=5), attacked(seed=6))]


@pytest.mark.parametrize(
    "name", ["idx.html", "idx.csv", "idx.compared.csv", "idx.accuracy.png", "idx.plane.svg", "idx.md"]
)
@pytest.mark.parametrize("link", [False, True])
def test_a_file_of_somebody_else_is_not_overwritten(name: str, link: bool, runs: list[Path], tmp_path: Path) -> None:
    victim = tmp_path / "victim" if link else tmp_path / "out" / name
    (tmp_path / "out").mkdir()
    victim.write_text("precious")
    if link:
        os.symlink(victim, tmp_path / "out" / name)
    with pytest.raises(ValueError, match=rf"{name} exists and is not of this report.* Name another folder \(--out\)"):
        build(runs, tmp_path / "out" / "idx.html", figures=True, quiet=True)
    assert victim.read_text() == "precious"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {name}


def test_a_report_is_replaced_with_its_own_files(runs: list[Path], tmp_path: Path) -> None:
    for figures in (True, False, True):  # the second has fewer files, and still owns the others
        build(runs, tmp_path / "o&<ut", figures=figures, quiet=True)
    build(runs[:1], tmp_path / "o&<ut", quiet=True)
    (tmp_path / "o&<ut" / "plane.svg").unlink()
    build(runs, tmp_path / "o&<ut", quiet=True)
    (tmp_path / "o&<ut" / "plane.svg").write_text("drawn by hand")
    with pytest.raises(ValueError, match=r"plane\.svg exists"):
        build(runs, tmp_path / "o&<ut", figures=True, quiet=True)


def test_two_pages_in_one_folder_have_tables_of_their_own(runs: list[Path], tmp_path: Path) -> None:
    build(runs, tmp_path / "two.html", quiet=True)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    assert "two.compared.csv" in before
    build(runs[::-1], tmp_path / "three.html", quiet=True)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("text", ["/etc/passwd\n../idx.html\n", "..\n.\n", "\xff\0", ""])
def test_a_list_of_another_program_owns_nothing(text: str, runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "idx.html").write_text("precious")
    (tmp_path / ".idx.html.files").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"idx\.html exists"):
        build(runs, tmp_path / "idx.html", quiet=True)
