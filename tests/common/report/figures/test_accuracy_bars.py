"""The plane of accuracy and robustness, and who leads in it."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from common.records.intervals import interval
from common.report.figures.accuracy_bars import plane, plane_points
from common.report.figures.drawing import LIGHT
from common.report.page.page import page
from common.report.runs import read_runs
from tests.common.records.made import rows_of


def average(rows, key="predictions"):
    share = np.mean([[guess == row.label for guess in getattr(row, key)] for row in rows])
    return pytest.approx((share, *interval(share * len(rows), len(rows))))


@pytest.fixture(scope="module")
def runs(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plane")
    several = made(n=40).clean().attacked("pgd", 1.5).attacked("apgd", 2.0)
    single = made(n=40, seed=1, strength=2.0).attacked("pgd", 1.5)
    named = {"several": several, "single": single, "clean": made(n=9).clean()}
    return [run.write(folder / name) for name, run in named.items()]


def test_points_are_clean_against_the_worst_of_all_attacks(runs):
    several, single, _ = read = read_runs(runs)
    points = {name: pair for name, *pair in plane_points(read)}
    assert set(points) == {"several", "single"}
    assert points["several"][0] == average(rows_of(several, "clean"))
    assert points["several"][1] == average(rows_of(several, "worst of apgd, pgd"))
    assert points["single"][0] == average(rows_of(single, "pgd"), "clean_predictions")
    assert points["single"][1] == average(rows_of(single, "pgd"))


def test_points_and_intervals_are_drawn_in_place(runs):
    read = read_runs(runs)
    (axes,) = plane(read, LIGHT).axes
    drawn = [line.get_xydata() for line in axes.lines]
    for number, (_, clean, robust) in enumerate(plane_points(read)):
        horizontal, vertical, point = drawn[3 * number : 3 * number + 3]
        x, y = 100 * clean[0], 100 * robust[0]
        assert horizontal == pytest.approx(np.array([[100 * clean[1], y], [100 * clean[2], y]]))
        assert vertical == pytest.approx(np.array([[x, 100 * robust[1]], [x, 100 * robust[2]]]))
        assert point == pytest.approx(np.array([[x, y]]))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["several", "single"]


def test_budgets_have_points_of_their_own(made, tmp_path):
    run = made(n=10).clean().attacked("small").attacked("large", 2.5, eps=16 / 255).write(tmp_path / "run")
    names = [name for name, *_ in plane_points(read_runs([run]))]
    assert names == ["run, L∞ ≤ 16/255", "run, L∞ ≤ 8/255"]


def test_the_worst_attack_decides_the_headline(made, tmp_path):
    """The first run's weak attack leaves more than anything of the second: it must not count."""
    first = made(n=60).clean().attacked("weak", 1.0).attacked("strong", 2.5).write(tmp_path / "first")
    second = made(n=60, seed=1).clean().attacked("weak", 1.4).attacked("strong", 1.5).write(tmp_path / "second")
    parsed = ET.fromstring(page(read_runs([first, second]), [], [[], []], []))
    said = next(" ".join("".join(one.itertext()).split()) for one in parsed.iter("section"))
    assert "second has the highest robust accuracy" in said
    assert "worst of strong, weak" in said
