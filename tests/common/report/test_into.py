"""Tables, figures and numbers between the markers of pages in Markdown."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.experiments.study import Combination, Study
from common.report.build import build
from common.report.into import write_into
from common.report.markdown import part_of
from common.report.studies import RecordedStudy, read_studies
from common.report.tables.table import Table
from tests.common.report.conftest import Made
from tests.common.report.trees import numbers, write_tree

PAGE = """# Title

<!-- table plain -->
stale
<!-- end -->
Words.
<!-- table scale scores | pgd | clean | rows: 2.0; 0.0 -->
<!-- end -->
<!-- figure scale -->
<!-- end -->
<!-- table plain cost | Seconds -->
<!-- end -->
<!-- table scale compared | Images | rows: clean | reference: scale=2.0 -->
<!-- end -->
End."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, made: Callable[..., Made]) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree"), made)


def test_a_page_is_written_between_its_markers_and_then_stays(tree: Path, tmp_path: Path) -> None:
    page, studies = tmp_path / "README.md", read_studies(tree)
    page.write_text(PAGE)
    changed = write_into(page, studies)
    assert {path.name for path in changed} == {"README.md", "scale.svg", "scale-dark.svg"}
    text = page.read_text()
    assert text.startswith("# Title\n\n<!-- table plain -->\n\n| Defence |") and text.endswith("<!-- end -->\nEnd.")
    assert "stale" not in text and "<!-- end -->\nWords.\n<!-- table scale" in text
    (scores,) = re.findall(r"<!-- table scale scores.*?<!-- end -->", text, re.DOTALL)
    rows = numbers(scores)
    assert rows[0] == ["scale", "pgd", "clean"] and [row[0] for row in rows[1:]] == ["2.0", "0.0"]
    (compared,) = re.findall(r"<!-- table scale compared.*?<!-- end -->", text, re.DOTALL)
    pairs = ["scale=10.0 − scale=2.0", "scale=0.0 − scale=2.0"]
    assert [row[:2] for row in numbers(compared)[1:]] == [[pair, "clean"] for pair in pairs]
    assert 'srcset="figures/scale-dark.svg"' in text and (tmp_path / "figures" / "scale.svg").is_file()
    assert write_into(page, studies) == write_into(page, read_studies(tree), check=True) == []
    report = build([tree], tmp_path / "report", quiet=True)
    assert (tmp_path / "figures" / "scale.svg").read_bytes() == report.with_name("scale.svg").read_bytes()
    (headline,) = re.findall(r"<!-- table plain -->\n\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert headline in report.with_name("plain.md").read_text()


def test_line_ends_of_the_page_stay(tree: Path, tmp_path: Path) -> None:
    page, studies = tmp_path / "page.md", read_studies(tree)
    page.write_bytes(b"Title\r\n<!-- table plain -->  \r\n<!-- end -->\r\nEnd.\r\n")
    assert write_into(page, studies) == [page]
    assert page.read_bytes().count(b"\n") == page.read_bytes().count(b"\r\n") > 5
    assert write_into(page, studies, check=True) == []
    page.write_bytes(b"\xff<!-- table plain -->\n<!-- end -->")
    with pytest.raises(ValueError, match=r"page\.md must be a text file in UTF-8"):
        write_into(page, studies)


def test_studies_and_runs_of_one_name_are_refused(tree: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table scale -->\n<!-- end -->")
    with pytest.raises(ValueError, match="scale is in several"):
        write_into(page, [*read_studies(tree), *read_studies(tree / "scale")])
    study = Study("s", "", Path(), [Combination("a b", (), {})])
    (run, *_) = read_studies(tree)[0].load()
    runs = [replace(run, name=name) for name in (study.combinations[0].name, "a b")]
    assert runs[0].name != runs[1].name
    with pytest.raises(ValueError, match="must have names of their own; a-b and a b are both a b"):
        _ = RecordedStudy.of_runs(runs, study).runs


def test_values_in_a_line_are_entries_of_tables(tree: Path, tmp_path: Path) -> None:
    page, studies = tmp_path / "page.md", read_studies(tree)
    pair, reference = "scale=0.0 − scale=2.0", "reference: scale=2.0"
    lost = f"<!-- value scale compared | First − second | row: {pair}; pgd; average | {reference} -->"
    page.write_text(f"Of <!-- value scale scores | clean | row: 2.0 -->old<!-- end --> it lost {lost}<!-- end -->.")
    write_into(page, studies)
    (clean, difference) = re.findall(r"-->([^<]+)<!-- end -->", page.read_text())
    tables = "scale scores | clean | rows: 2.0", f"scale compared | First − second | rows: {pair} | {reference}"
    page.write_text("".join(f"<!-- table {words} -->\n<!-- end -->\n" for words in tables))
    write_into(page, studies)
    assert re.fullmatch(r"[\d.]+ % \[[\d.]+, [\d.]+\]", clean)
    assert f"| 2.0 | {clean.replace(' %', '')} |" in page.read_text()
    assert f"| {pair} | pgd | average | {difference} |" in page.read_text().replace("**", "")


@pytest.mark.parametrize("name", ["README.md", "figures/scale.svg", "figures/scale-dark.svg"])
def test_a_check_names_what_differs_and_writes_nothing(name: str, tree: Path, tmp_path: Path) -> None:
    page, studies = tmp_path / "README.md", read_studies(tree)
    page.write_text(PAGE)
    write_into(page, studies)
    content = (tmp_path / name).read_bytes()
    changed = content.replace(b"| 20 |", b"| 21 |", 1).replace(b"#0072b2", b"#0072b3").replace(b"#3f9fdc", b"#3f9fdd")
    assert changed != content
    (tmp_path / name).write_bytes(changed)
    assert write_into(page, studies, check=True) == [tmp_path / name]
    assert (tmp_path / name).read_bytes() == changed
    assert write_into(page, studies) == [tmp_path / name] and (tmp_path / name).read_bytes() == content


def test_a_figure_of_another_matplotlib_is_no_difference(tree: Path, tmp_path: Path) -> None:
    page, studies = tmp_path / "README.md", read_studies(tree)
    page.write_text(PAGE)
    write_into(page, studies)
    figure = tmp_path / "figures" / "scale.svg"
    figure.write_bytes(re.sub(rb"matplotlib [\d.]+", b"matplotlib 1.0", figure.read_bytes()))
    assert write_into(page, studies, check=True) == []
    assert write_into(page, studies) == [figure]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "has no markers"),
        ("\n<!-- table plain -->\n", "line 2: a marker must be .*; got <!-- table plain -->, which has no counterpart"),
        ("<!-- tabel plain -->\n<!-- end -->", "line 2: .* got <!-- end -->, which has no counterpart"),
        ("<!--table plain -->\n<!-- end -->", "line 1: .* got <!--table plain -->"),
        ("<!-- table plain -->\n<!-- end -->\n<!-- end -->", "line 3: .* got <!-- end -->"),
        ("<!-- table plain -->\n<!-- table scale -->\n<!-- end -->", "line 1: .* needs <!-- end --> before"),
        (
            "<!-- table plain -->\n<!-- end -->\n<!-- table scale -->",
            "line 3: a marker must be .*, which has no counterpart",
        ),
        ("<!-- table plane -->\n<!-- end -->", "line 1, .*there are no records of plane; studies are plain, scale"),
        ("<!-- table plain none -->\n<!-- end -->", "there is no table none; tables are headline"),
        ("<!-- table plain certified -->\n<!-- end -->", "the records of plain have nothing for this table"),
        ("<!-- table plain cost | Hours -->\n<!-- end -->", "its columns are Images | Network"),
        ("<!-- table plain cost | rows: c -->\n<!-- end -->", "its rows are a | clean"),
        ("<!-- table plain compared | reference: c -->\n<!-- end -->", "the reference must be one of the runs, a, b"),
        ("<!-- table plain cost | reference: a -->\n<!-- end -->", "only the table compared has a reference"),
        ("<!-- figure plain certified -->\n<!-- end -->", "there is no figure certified; figures are accuracy"),
        (
            "a <!-- value plain cost | Images -->1<!-- end -->",
            "names of one row; got 1 columns and 6 rows",
        ),
        ("<!-- value plain cost | Images | row: a -->1<!-- end -->", "got 1 columns and 3 rows"),
        ("<!-- value plain cost | row: a; clean -->1<!-- end -->", "got 4 columns and 1 rows"),
        ("<!-- value plain cost | Images | row: a -->", "which has no counterpart"),
    ],
)
def test_markers_that_cannot_be_filled_are_named(text: str, message: str, tree: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=message):
        write_into(page, read_studies(tree))
    assert page.read_text() == text and not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("table plain cost | row: a", "the rows of a table must be named by rows:; got row: a. Write rows: a"),
        ("table plain cost | row : a", "the rows of a table must be named by rows:; got row : a"),
        ("value plain cost | Images | rows: a; pgd", "the rows of a value must be named by row:; got rows: a; pgd"),
        ("table plain cost | rows: a | rows: b", "rows: must be given once; got a and b"),
        ("table plain cost | rows: a; a", "each name of rows: must be named once; got a twice"),
        ("table plain cost | rows: a;", "each name of rows: must be a text that is not empty"),
        ("table plain cost | Images | | Seconds", "each column must be a text that is not empty"),
        ("table plain cost | Images | Images", "each column must be named once; got Images twice"),
        ("table plain compared | reference: a; b", "must be one of the runs, a, b; got a; b. Name one of them"),
        ("table plain compared | reference: x/a", "must be one of the runs, a, b; got x/a"),
        ("table plain compared | reference:", "reference: must be the name of a run; got nothing"),
        ("table plain compared | reference: a | reference: b", "reference: must be given once; got a and b"),
        ("figure scale | pgd", "a figure must have neither columns nor rows"),
    ],
)
def test_no_setting_is_ignored(words: str, message: str, tree: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- {words} -->\n<!-- end -->")
    with pytest.raises(ValueError, match=message):
        write_into(page, read_studies(tree))


def test_a_value_that_the_records_lack_is_refused(tmp_path: Path, made: Callable[..., Made]) -> None:
    made(n=20).clean().attacked("pgd").write(tmp_path / "uneven" / "a")
    made(n=20).clean().write(tmp_path / "uneven" / "b")
    page, studies = tmp_path / "page.md", read_studies(tmp_path / "uneven")
    page.write_text("<!-- table uneven scores | pgd | rows: b -->\n<!-- end -->\n")
    write_into(page, studies)
    assert "| b | – |" in page.read_text()
    page.write_text("<!-- value uneven scores | pgd | row: b --><!-- end -->")
    with pytest.raises(ValueError, match="a value must be an entry of the records; b has no pgd"):
        write_into(page, studies)


def test_columns_of_one_name_cannot_be_chosen() -> None:
    table = Table("", ["A", "B", "B"], [["x", 1, 2]], 1)
    assert part_of(table) == table
    with pytest.raises(ValueError, match="must have names of their own to be chosen; several are B"):
        part_of(table, ["B"])


# Code, lists and quotations

LIVE = "<!-- table plain cost | Images | rows: pgd -->\n<!-- end -->\n"
EXAMPLES = [
    "```md\n<!-- table STUDY -->\n<!-- end -->\n```\n",
    "~~~~\n```\n<!-- table STUDY -->\n~~~\n~~~~\n",
    "* One:\n\n  ```\n  <!-- table STUDY -->\n  ```\n",
    "1. ```\n   <!-- figure STUDY -->\n   ```\n",
    "> ```\n> <!-- value STUDY scores -->\n> ```\n",
    "A marker is `<!-- table STUDY -->`, its end `<!-- end -->`.\n",
    "A marker is ``<!-- table `STUDY` -->`` in a line.\n",
    "A marker is `of this form:\n  that is <!--table STUDY -->` and no other.\n",
    "An escaped one is \\<!-- table STUDY -->.\n",
    "<!-- end of page -->\n",
    "<!-- ending -->\n<!-- table-of-contents -->\n",
    "<!-- This ` comment -->\n",
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_markers_in_code_are_examples(example: str, tree: Path, tmp_path: Path) -> None:
    """They stay, and do not end or begin a table of the page."""
    page, studies = tmp_path / "page.md", read_studies(tree)
    page.write_text(f"{example}\n{LIVE}\n{example}")
    assert write_into(page, studies) == [page]
    text = page.read_text()
    assert text.startswith(f"{example}\n<!-- table plain") and text.endswith(f"<!-- end -->\n\n{example}")
    assert numbers(text)[0][-1] == "Images" and write_into(page, studies, check=True) == []
    page.write_text(example)
    with pytest.raises(ValueError, match="has no markers outside of code"):
        write_into(page, studies)


@pytest.mark.parametrize(
    "before",
    [
        "A lone ` and a second one in the next block\n\n",
        "A lone ` of a paragraph\n",
        "* A lone ` in an item\n* `` another\n\n",
        "An escaped \\` and \\` another\n\n",
        "<!-- a comment with a ` and\n```\n-->\n",
        "```\ncode\n```\n",
        "```one line``` of code\n\n",
        "    indented, as in a list\n",
    ],
)
def test_markers_beside_code_are_filled(before: str, tree: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{before}{LIVE}and ` more")
    write_into(page, read_studies(tree))
    text = page.read_text()
    assert text.startswith(f"{before}<!-- table plain") and text.endswith("<!-- end -->\nand ` more")
    assert numbers(text)[0][-1] == "Images"


def test_code_that_does_not_end_would_hide_markers(tree: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Words.\n\n```sh\n{LIVE}")
    with pytest.raises(ValueError, match="line 3: code must end with a line ```, or the markers below are code"):
        write_into(page, read_studies(tree))
    page.write_text(f"{LIVE}\n```sh\nls")
    assert write_into(page, read_studies(tree)) == [page]


@pytest.mark.parametrize(
    ("begin", "indent"),
    [
        ("1. One:\n   ", "   "),
        ("1. One:\n\n   ", "   "),
        ("* ", "  "),
        ("10. One: ", "    "),
        ("- a\n  - b\n    ", "    "),
        ("> Words.\n> ", "> "),
        ("> * ", ">   "),
        ("\t", "\t"),
        ("One: ", ""),
    ],
)
def test_tables_are_indented_as_their_markers(begin: str, indent: str, tree: Path, tmp_path: Path) -> None:
    """Other lines would end the list or the quotation."""
    page, studies = tmp_path / "page.md", read_studies(tree)
    for marker in ("table plain cost | Images | rows: pgd", "figure scale"):
        page.write_text(f"{begin}<!-- {marker} -->\n{indent}<!-- end -->\nEnd.")
        write_into(page, studies)
        text = page.read_text()
        first, *lines, end = text.removeprefix(begin).splitlines()
        assert first == f"<!-- {marker} -->" and lines[-1] == f"{indent}<!-- end -->" and end == "End."
        assert len(lines) > 5 and all(line.startswith(indent) or line == indent.rstrip() for line in lines)
        assert lines[0] == lines[-2] == indent.rstrip() and write_into(page, studies, check=True) == []


def test_an_end_within_the_words_of_a_table_is_not_passed_over(tree: Path, tmp_path: Path) -> None:
    """Words up to the next end would be overwritten."""
    page = tmp_path / "page.md"
    page.write_text("<!-- value plain cost | Images | row: a; pgd -->1<!-- end. --> words <!-- end -->")
    with pytest.raises(ValueError, match=r"needs <!-- end --> before the next marker; got <!-- end\. -->"):
        write_into(page, read_studies(tree))


def test_values_are_escaped_as_in_tables(tmp_path: Path, made: Callable[..., Made]) -> None:
    for strength, name in ((0.2, "a"), (6.0, "b")):
        made(n=60, strength=strength).clean().attacked("pgd").write(tmp_path / "odd" / name)
    page, studies = tmp_path / "page.md", read_studies(tmp_path / "odd")
    page.write_text("p <!-- value odd compared | p | row: a − b; pgd; average --><!-- end -->.")
    write_into(page, studies)
    assert page.read_text().endswith(r"-->\< 0.0001<!-- end -->.")
    assert write_into(page, studies, check=True) == []
