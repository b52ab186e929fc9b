"""Folders of studies: their order and titles, a page of each, archives, and tables in pages of Markdown."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.commands import report as command
from common.commands.errors import UsageError
from common.experiments.study import Combination, Study
from common.experiments.study_list import LIST, read_list, write_list
from common.records.archiving import archive
from common.report.build import build
from common.report.into import write_into
from common.report.keeping import keep
from common.report.markdown import markdown, part_of
from common.report.named_tables import TABLES, markdown_page
from common.report.pairing import Pairing
from common.report.runs import read_runs
from common.report.studies import RecordedStudy, read_studies
from common.report.tables.accuracy import accuracy_table
from common.report.tables.table import Cell, Table
from tests.common.report.conftest import Made
from tests.common.report.pages import page_of, texts
from tests.common.report.trees import SCALE, SCALES, numbers, write_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, made: Callable[..., Made]) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree"), made)


def test_studies_are_found_with_their_titles_and_the_order_of_their_runs(tree: Path) -> None:
    plain, scale = read_studies(tree)
    assert (plain.name, plain.title) == ("plain", "Plain runs: two defences.")
    assert (scale.name, scale.title) == ("scale", SCALE.title)
    assert [run.name for run in plain.runs] == ["a", "b"]
    assert [run.name for run in scale.runs] == ["scale=10.0", "scale=2.0", "scale=0.0"]
    assert [one.values for one in scale.outcomes] == [(("scale", s),) for s in SCALES]
    assert [one.name for one in read_studies(tree / "scale")] == ["scale"]
    assert read_studies(tree / "scale" / "scale=2.0") == read_studies(tree / "logs") == []


def test_runs_that_the_list_lacks_come_last(tree: Path, tmp_path: Path) -> None:
    keep([tree / "scale"], tmp_path)
    write_list(Study("scale", "", Path(), SCALE.combinations[1:2]), tmp_path / "scale")
    (study,) = read_studies(tmp_path)
    assert [run.name for run in study.runs] == ["scale=2.0", "scale=0.0", "scale=10.0"]
    assert study.title == "scale" and len(study.outcomes) == 1


def test_values_may_be_paths(made: Callable[..., Made], tmp_path: Path) -> None:
    paths = [("file", path) for path in ("runs/one/a.safetensors", "runs/two/a.safetensors")]
    study = Study("files", "", tmp_path, [Combination("", (value,), {}) for value in paths])
    for one in study.combinations:
        made(n=20).clean().write(tmp_path / one.name)
    write_list(study, tmp_path)
    (found,) = read_studies(tmp_path)
    assert [one.values for one in found.outcomes] == [(value,) for value in paths]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"runs": {}}', '{"runs": [3]}', '{"title": 3}', "[" * 99999])
def test_a_damaged_list_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / LIST).write_text(text)
    with pytest.raises(ValueError, match=r"study\.json is not the list of a study"):
        read_list(tmp_path)


def test_a_list_gives_back_every_combination(tmp_path: Path) -> None:
    values = (("nodes", 8), ("pair", [1, "a"]), ("off", None), ("flag", True))
    study = Study("ask", "Title é.", tmp_path, [Combination("case", values, {"a": 1}), Combination("", (), {})])
    write_list(study, tmp_path)
    found = read_list(tmp_path)
    assert [(one.case, one.values, one.name) for one in found.combinations] == [
        (one.case, one.values, one.name) for one in study.combinations
    ]
    assert (found.name, found.title) == ("ask", "Title é.")


def test_a_folder_of_studies_gets_a_page_of_each_and_one_of_all(tree: Path, tmp_path: Path) -> None:
    target = build([tree], tmp_path, quiet=True)
    index, one = page_of(target), page_of(tmp_path / "scale.html")
    assert [texts(head) for head in index.iter("h2")] == ["Plain runs: two defences.", SCALE.title]
    links = [link.get("href") for link in index.iter("a")]
    assert {"plain.html", "scale.html"} <= {*links}
    assert texts(next(one.iter("h1"))) == SCALE.title
    names = {path.name for path in tmp_path.iterdir()}
    assert {"scale.md", "plain.md", "scale.svg", "plain.accuracy.svg", "scale.compared.csv"} <= names
    assert not any(name.endswith(".png") for name in names)


def test_a_folder_of_one_study_is_a_folder_of_studies(tree: Path, tmp_path: Path) -> None:
    keep([tree / "plain"], tmp_path / "kept")
    build([tmp_path / "kept"], tmp_path / "all", quiet=True)
    assert {"report.html", "plain.html", "plain.md"} <= {path.name for path in (tmp_path / "all").iterdir()}
    build([tmp_path / "kept" / "plain"], tmp_path / "one", quiet=True)
    assert {"report.html", "report.md"} <= {path.name for path in (tmp_path / "one").iterdir()}
    assert (tmp_path / "one" / "report.md").read_bytes() == (tmp_path / "all" / "plain.md").read_bytes()


def test_a_run_beside_studies_is_a_study_of_its_own(tree: Path, tmp_path: Path) -> None:
    keep([tree], tmp_path / "all")
    shutil.copytree(tree / "plain" / "a", tmp_path / "all" / "diffpure")
    studies = read_studies(tmp_path / "all")
    sizes = [("diffpure", 1), ("Plain runs: two defences.", 2), (SCALE.title, 3)]
    assert [(one.title, len(one.runs)) for one in studies] == sizes
    build([tmp_path / "all"], tmp_path / "report", quiet=True)
    assert {"diffpure.html", "plain.html", "scale.html"} <= {path.name for path in (tmp_path / "report").iterdir()}
    kept = {file.parent.relative_to(tmp_path / "kept") for file in keep([tmp_path / "all"], tmp_path / "kept")}
    assert {str(path) for path in kept} == {"diffpure", "plain/a", "plain/b", *(f"scale/scale={s}" for s in SCALES)}
    assert not (tmp_path / "kept" / "diffpure" / LIST).exists()
    page = tmp_path / "page.md"
    page.write_text("<!-- table diffpure -->\n<!-- end -->\n<!-- table scale -->\n<!-- end -->")
    write_into(page, studies)
    assert "| diffpure | " in page.read_text()
    for one in (tmp_path / "all", tree):
        with pytest.raises(ValueError, match=r"each path must be .*; .* holds studies, .*scale\. Name them, or that"):
            build([one, tree / "plain"], tmp_path / "both", quiet=True)


def test_records_in_the_folder_of_a_study_are_one_more_run(tree: Path, tmp_path: Path) -> None:
    keep([tree], tmp_path / "all")
    root = tmp_path / "all" / "scale"
    shutil.copytree(tree / "plain" / "a", root, dirs_exist_ok=True)
    shutil.copytree(tree / "plain" / "a", root / "diagnostics")  # of the run in the folder itself
    names = ["scale=10.0", "scale=2.0", "scale=0.0"]
    for folder in (root, tmp_path / "all"):
        *_, study = read_studies(folder)
        assert [run.name for run in study.runs] == [*names, "scale"]
    build([root, tree / "plain"], tmp_path / "both", quiet=True)
    rows = numbers((tmp_path / "both" / "report.md").read_text().partition("##")[0])
    assert [row[0] for row in rows[1:]] == ["scale", *sorted(names), "a", "b"]
    kept = {file.parent.relative_to(tmp_path / "kept") for file in keep([root], tmp_path / "kept")}
    assert {str(path) for path in kept} == {"scale", "scale/diagnostics", *(f"scale/{name}" for name in names)}


@pytest.mark.parametrize(
    ("inner", "left"), [("scale/old/a", "old"), ("scale/scale=2.0/a", "a"), ("plain/more/a", "more")]
)
def test_runs_that_would_be_left_out_are_named(inner: str, left: str, tree: Path, tmp_path: Path) -> None:
    """A study within a study, and a run within a run."""
    everything = tmp_path / "all"
    keep([tree], everything)
    shutil.copytree(tree / "plain" / "a", everything / inner)
    study = everything / Path(inner).parts[0]
    uses: list[Callable[[Path], object]] = [
        read_studies,
        lambda folder: keep([folder], tmp_path / "kept"),
        lambda folder: build([folder], tmp_path / "report"),
    ]
    for folder in (study, everything) if left != "a" else (study,):
        for use in uses:
            with pytest.raises(ValueError, match=rf"{re.escape(left)} would be left out\. .*, or move {left} out of"):
                use(folder)
    assert not (tmp_path / "kept").exists()


def test_a_study_named_as_the_page_of_all_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scale\.html would be the page of a study and of all"):
        build([tree], tmp_path / "scale.html", quiet=True)


def test_the_archive_gives_the_same_page_in_markdown(tree: Path, tmp_path: Path) -> None:
    files = keep([tree], tmp_path / "all")
    assert len(files) == 5 and {file.name for file in files} == {"records.jsonl.gz"}
    for one, kept in zip(read_studies(tree), read_studies(tmp_path / "all"), strict=True):
        assert markdown_page(kept, Pairing()) == markdown_page(one, Pairing())
        assert [figure.light for figure in kept.figures] == [figure.light for figure in one.figures]
    again = [file.read_bytes() for file in keep([tmp_path / "all"], tmp_path / "all")]
    assert again == [file.read_bytes() for file in files]
    single = keep([tree / "scale" / "scale=2.0"], tmp_path / "one")
    assert single == [tmp_path / "one" / "scale=2.0" / "records.jsonl.gz"]
    assert json.loads((tmp_path / "all" / "plain" / LIST).read_text())["title"] == "Plain runs: two defences."
    with pytest.raises(ValueError, match="no records in"):
        keep([tree / "logs"], tmp_path)


def test_a_table_in_markdown_holds_the_entries_of_the_table(tree: Path) -> None:
    table = accuracy_table(read_runs([tree / "plain"]))
    rows = numbers(markdown(table))
    assert rows[0] == table.columns and len(rows) == 1 + len(table.rows)
    for row, entries in zip(rows[1:], table.rows, strict=True):
        for shown, entry in zip(row, entries, strict=True):
            if isinstance(entry, tuple):
                low, high = (f"{100 * end:.1f}" for end in entry[1:])
                assert shown == f"{100 * entry[0]:.1f} [{low}, {high}]"
            else:
                assert shown == ("–" if entry is None else str(entry))


def test_the_headline_in_markdown_holds_the_numbers_of_the_records(tree: Path) -> None:
    (study,) = read_studies(tree / "scale")
    rows = numbers(markdown(TABLES["headline"](study)))
    heads = ["Defence", "Worst attack", "Clean", "Robust, L∞ ≤ 8/255", "Worst of 10 draws", "Images"]
    assert rows[0] == heads
    for row, run in zip(rows[1:], study.runs, strict=True):
        clean, pgd = ({one.evaluator: one for one in run.records if one.evaluator == name} for name in ("clean", "pgd"))
        assert clean and pgd
        shares = [run.clean[0].summary.metrics["Avg"], *(run.attacks[0].summary.metrics[k] for k in ("Avg", "Wor@10"))]
        assert row[:2] == [run.name, "pgd"] and row[-1] == "30"
        assert [float(entry.split()[0]) for entry in row[2:5]] == [round(100 * share[0], 1) for share in shares]


def test_names_from_outside_stay_text() -> None:
    name = "a|b *c* <!-- end --> [x](http://y) `z` _u_ v_w\n\x1b[31m"
    text = markdown(Table("", ["One", "Two"], [[name, Cell("1", "2", True)]], 1, ["n|m"]))
    head, _, row, _, note = text.splitlines()
    assert head == "| One | Two |" and note == r"* n\|m"
    assert row == r"| a\|b \*c\* \<!-- end --\> [x\](http://y) \`z\` \_u\_ v_w \\x1b[31m | **1** 2 |"


def test_scores_have_the_worst_of_the_clean_draws(tree: Path) -> None:
    """The control of the worst draw under an attack."""
    study = read_studies(tree)[0]
    for run, outcome in zip(study.runs, study.outcomes, strict=True):
        right = [row.correct for row in run.clean[0].rows]
        assert outcome.scores["clean, worst of 10"][0] == sum(map(all, right)) / 20
        assert outcome.scores["clean"][0] == pytest.approx(sum(map(sum, right)) / 200)


def test_a_part_of_a_table() -> None:
    table = Table("", ["A", "B", "C"], [["x", 1, 2], ["y", 3, 4]], 1)
    assert part_of(table, ["C"], ["y"]).rows == [["y", 4]] and part_of(table).rows == table.rows
    for columns, rows in ((["D"], []), (["A"], []), ([], ["z"])):
        with pytest.raises(ValueError, match=r"its (columns|rows) are"):
            part_of(table, columns, rows)


def test_the_command(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table plain -->\n<!-- end -->")
    command.run([str(tree), "--keep", str(tmp_path / "kept")])
    assert re.search(r"5 files of records, 0\.\d\d MB: .*kept", capsys.readouterr().out)
    with pytest.raises(UsageError, match=r"page\.md is not what the records give\. Write it: .* --into"):
        command.run([str(tmp_path / "kept"), "--into", str(page), "--check"])
    command.run([str(tmp_path / "kept"), "--into", str(page)])
    command.run([str(tree), "--into", str(page), "--check"])
    assert "is what the records give" in capsys.readouterr().out
    for arguments in (["--check"], ["--into", str(tmp_path / "none.md")]):
        with pytest.raises(ValueError, match=r"--check needs --into|there is no page"):
            command.run([str(tree), *arguments])
    with pytest.raises(UsageError, match="no study in"):
        command.run([str(tree), str(tree / "plain" / "a"), "--into", str(page)])


def test_runs_of_no_study_have_a_page_in_markdown(tree: Path, tmp_path: Path) -> None:
    build([tree / "plain" / "b", tree / "plain" / "a"], tmp_path, quiet=True)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Robustness report\n\n| Defence |") and "## Cost per image" in text
    assert [row[0] for row in numbers(text.partition("##")[0])[1:]] == ["b", "a"]
    study = RecordedStudy.of_runs(read_runs([archive(tree / "plain" / "a", tmp_path / "kept" / "a")[0].parent]))
    assert "| a | clean | 20 | 11 | 0.05 | 1.50 |" in markdown(TABLES["cost"](study))
