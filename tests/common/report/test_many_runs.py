"""A page of many runs stays short: folded tables, figures of the worst attacks, words below the lowest panels."""

import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from common.experiments.study import Combination, Study
from common.experiments.study_list import write_list
from common.report.figures.accuracy_bars import accuracy_bars, are_many, plane_points
from common.report.figures.drawing import LIGHT
from common.report.figures.study_figures import panels, spaced
from common.report.page.page import page
from common.report.runs import Run
from common.report.studies import RecordedStudy, read_studies
from common.report.tables.study_table import study_table
from tests.common.report.conftest import Made
from tests.common.report.pages import table_rows, texts

NAMES = ["undefended", "φ alone", *(f"DiffPure (solver {k})" for k in range(6))]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, made: Callable[..., Made]) -> RecordedStudy:
    """Eight runs, each under four attacks within two budgets."""
    folder = tmp_path_factory.mktemp("runs")
    combinations = [Combination(name, (), {}) for name in NAMES]
    for number, one in enumerate(combinations):
        run = made(n=12, seed=number).clean().attacked("pgd").attacked("apgd", 2.2).attacked("square", 0.5)
        run.attacked("far", 2.5, eps=0.1).write(folder / one.name)
    write_list(Study("defences", "Eight defences.", folder, combinations), folder)
    (found,) = read_studies(folder)
    return found


def test_runs_have_the_names_of_their_cases(study: RecordedStudy) -> None:
    assert [run.name for run in study.runs] == [one.case for one in study.outcomes] == NAMES
    assert Combination("a", (("t", 1), ("s", "x")), {}).title == "a, t=1, s=x"


def test_the_page_has_the_scores_first_and_long_tables_folded(study: RecordedStudy) -> None:
    scores = study_table(study.study, study.outcomes)
    shown = ET.fromstring(page(study.runs, [], [[], []], [], study=scores))
    assert texts(next(shown.iter("h1"))) == "Eight defences."
    (results,) = [section for section in shown.iter("section") if section.get("id") == "results"]
    captions = [texts(caption) for caption in results.iter("caption")]
    assert captions[0] == "Scores of the runs, %" and [row[0] for row in table_rows(shown, captions[0])] == NAMES
    assert [texts(one) for one in results.iter("summary")] == ["Accuracy, %: 56 rows"]


def test_bars_of_many_attacks_are_those_of_the_worst(study: RecordedStudy) -> None:
    def words(runs: list[Run]) -> set[str]:
        return {text.get_text() for text in accuracy_bars(runs, LIGHT).axes[0].texts}

    assert are_many(study.runs) and not are_many(study.runs[:4])
    worst = {"clean", "worst attack per image, L∞ ≤ 8/255", "far", "undefended"}
    assert worst <= words(study.runs) and not {"pgd", "apgd", "square"} & words(study.runs)
    assert {*worst, "pgd", "apgd", "square"} <= words(study.runs[:4])


def test_the_plane_of_many_runs_is_that_of_the_main_budget(study: RecordedStudy) -> None:
    assert [name for name, _, _ in plane_points(study.runs)] == NAMES
    assert len(plane_points(study.runs[:4])) == 8


def test_labels_of_close_values_are_left_out() -> None:
    values = [0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25]
    assert spaced(values, True, 44) == ["0.025", "0.05", "0.075", "0.1", "", "0.15", "", "0.25"]
    assert spaced([1, 2, 3], False, 40) == ["1", "2", "3"] and spaced([7], True, 40) == ["7"]
    assert spaced([1, 100, 101], False, 40) == ["1", "", "101"]


def test_long_words_stand_slanted_below_the_lowest_panels(study: RecordedStudy) -> None:
    figure = panels(study.outcomes, LIGHT)
    figure.canvas.draw()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    labelled = [any(label.get_visible() for label in axes.get_xticklabels()) for axes in shown]
    assert labelled == [False] * (len(shown) - 2) + [True, True]
    for axes in shown[-2:]:
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {40.0}
    plain = panels(study.outcomes[:2], LIGHT)
    assert all(axes.get_xticklabels()[0].get_rotation() == 0 for axes in plain.axes)
