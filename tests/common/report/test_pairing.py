"""Runs that are compared: every two of a few, of many each with one, and p corrected for what was tested."""

import pytest

from common.commands.report import run as report
from common.records.paired import holm, paired
from common.report import contents as report_contents
from common.report.build import build
from common.report.pairing import FEW, Pairing
from common.report.runs import read_runs
from common.report.tables.comparisons import run_table
from tests.common.report.pages import attacked, clean, page_of, table_rows, texts, write


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One run more than are compared two by two."""
    root = tmp_path_factory.mktemp("runs")
    return [write(root / f"r{i}", clean(seed=i), attacked(seed=i + 20, chance=(i + 1) / 9)) for i in range(FEW + 1)]


def pairs(table):
    return list(dict.fromkeys(row[0] for row in table.rows))


def test_few_runs_are_compared_two_by_two_and_many_with_the_first(folders):
    few, many = read_runs(folders[:3]), read_runs(folders)
    assert pairs(run_table(few, Pairing())) == ["r0 − r1", "r0 − r2", "r1 − r2"]
    table = run_table(many, Pairing())
    assert pairs(table) == [f"r{i} − r0" for i in range(1, FEW + 1)]
    assert any("is compared with r0, the first" in note for note in table.notes)
    assert len(pairs(run_table(many, Pairing(every=True)))) == (FEW + 1) * FEW / 2


@pytest.mark.parametrize("way", ["name", "path"])
def test_the_reference_is_named_as_its_run_or_its_folder(folders, way):
    known = folders[4].name if way == "name" else str(folders[4])
    table = run_table(read_runs(folders[2:5]), Pairing(known))
    assert pairs(table) == ["r2 − r4", "r3 − r4"]
    assert any("is compared with r4, the reference" in note for note in table.notes)


def test_a_reference_that_is_no_run_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="the reference must be one of the runs, r0, r1; got 'r9'"):
        build(folders[:2], tmp_path / "out", pairing=Pairing("r9"))
    assert not (tmp_path / "out" / "report.html").exists()


def test_p_is_corrected_for_the_pairs_that_are_compared(folders):
    runs = read_runs(folders)

    def outcomes(run, name):
        rows = [row for row in run.records if row.evaluator == name]
        return {row.index: (row.label, row.correct) for row in rows}

    table = run_table(runs, Pairing("r3"))
    others = [run for run in runs if run.name != "r3"]
    tests = {
        (f"{run.name} − r3", name): paired(outcomes(run, name), outcomes(runs[3], name)).p
        for run in others
        for name in ("clean", "pgd")
    }
    worst = [row for row in table.rows if row[2] != "average"]
    assert len(worst) == len(others)  # the worst of five draws of the attack
    averages = {(row[0], row[1]): row[7] for row in table.rows if row[2] == "average"}
    assert averages.keys() == tests.keys()
    smallest = min(tests.values())
    corrected = holm([smallest] + [1.0] * (len(table.rows) - 1))[0]
    assert corrected == pytest.approx(smallest * len(table.rows))
    first = min(table.rows, key=lambda row: 0.0 if row[7].startswith("<") else float(row[7]))
    assert first[-1].strong


def test_a_page_of_many_runs_has_figures_on_demand(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(report_contents, "MOST_DRAWN", 3)
    words = [str(folder) for folder in folders[:4]]
    report([*words, "--out", str(tmp_path / "none"), "--reference", "r2"])
    page = page_of(tmp_path / "none" / "report.html")
    assert not list(page.iter("source")) and "r1 − r2" in texts(page)
    assert [row[0] for row in table_rows(page, "Accuracy, %")] == ["r0", "r0", "r1", "r1", "r2", "r2", "r3", "r3"]
    assert sum(1 for _ in page.iter("img")) > 0  # the images of the first run
    assert [path.name for path in (tmp_path / "none").glob("*.png")] == []
    report([*words, "--out", str(tmp_path / "all"), "--figures", "--pairs", "all"])
    page = page_of(tmp_path / "all" / "report.html")
    assert list(page.iter("source")) and "r0 − r3" in texts(page)
    report([*words[:3], "--out", str(tmp_path / "few")])
    assert list(page_of(tmp_path / "few" / "report.html").iter("source"))
