"""Curves of a study: in the list of its runs, and in the figure with its scores over one axis."""

import json
import re

import pytest
import yaml

from common.experiments.curves import Curves
from common.experiments.study import Study
from common.experiments.study_list import LIST, read_list, write_list
from common.records.store import Records
from common.report.build import build
from common.report.figures.drawing import DARK, LIGHT, darkened, to_svg
from common.report.figures.study_curves import curve_figures, curve_panels
from common.report.runs import read_runs
from common.report.tables.study_table import outcomes
from tests.common.records.made import clean_record

CURVES = Curves(
    "depth",
    [1.0, 1.5, 2.0],
    {"nats": {"bound: any": [300.0, 20.0, 2.0], "random": [3.0, 0.5, 0.125]}, "length": {"measured": [0.1, None, 0.3]}},
)


def study(folder, curves: Curves | None = CURVES, values=(1, 2)) -> Study:
    """A study that varies ``depth``, with records of 20 images."""
    (folder / "a.test.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"n": 0, "records": "x"}}}))
    entries = {"base": "a.test.yaml", "records": str(folder / "out")}
    entries["vary"] = {"depth": {"model.init_args.n": list(values)}}
    if curves is not None:
        curves.write(folder / "deep.csv")
        entries["curves"] = "deep.csv"
    (folder / "deep.study.yaml").write_text(f"# By depth.\n{yaml.safe_dump(entries, sort_keys=False)}")
    read = Study.read(folder / "deep.study.yaml")
    for right, one in enumerate(read.combinations, 8):
        records = Records(read.records / one.name, one.name, {"evaluators": []})
        records.append([clean_record(i, [int(i < right)]) for i in range(20)])
        records.merge()
        records.close()
    return read


def found(read: Study):
    return outcomes(read, read_runs([read.records / one.name for one in read.combinations]))


def test_the_list_of_runs_has_the_curves_and_the_report_draws_them(tmp_path):
    read = study(tmp_path)
    write_list(read, read.records)
    assert read_list(read.records).curves == read.curves == CURVES
    page = build([read.records], tmp_path / "report", figures=True, quiet=True)
    assert (page.parent / "deep-curves.svg").is_file()
    assert "curves over depth" in page.read_text()


@pytest.mark.parametrize(
    "damage",
    [
        {"axis": "width"},
        {"axis": 3},
        {"places": [2.0, 1.0, 3.0]},
        {"places": "123"},
        {"panels": {}},
        {"panels": {"a": {"b": [1]}}},
        {"panels": {"a": {"b": "123"}}},
    ],
)
def test_a_list_with_damaged_curves_is_refused(tmp_path, damage):
    read = study(tmp_path)
    path = write_list(read, read.records)
    entries = json.loads(path.read_text())
    entries["curves"] |= damage
    (read.records / LIST).write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"study\.json is not the list of a study"):
        read_list(read.records)


def test_the_panels_share_the_axis_and_hold_every_number(tmp_path):
    canvas = curve_panels(found(study(tmp_path)), CURVES, LIGHT)
    scores, nats, length = canvas.axes
    assert [axes.get_title(loc="left") for axes in canvas.axes] == ["accuracy, %", "nats", "length"]
    assert {tuple(axes.get_xlim()) for axes in canvas.axes} == {tuple(scores.get_xlim())}
    assert {axes.get_xlabel() for axes in canvas.axes} == {"depth"}
    assert [line.get_xydata().tolist() for line in scores.lines] == [[[1, 40], [2, 45]]]
    assert [line.get_ydata().tolist() for line in nats.lines] == [[300, 20, 2], [3, 0.5, 0.125]]
    assert [line.get_xydata().tolist() for line in length.lines] == [[[1, 0.1], [2, 0.3]]]
    assert (nats.get_yscale(), length.get_yscale()) == ("log", "linear")
    assert [text.get_text() for text in nats.get_legend().get_texts()] == ["bound: any", "random"]


def test_the_figure_is_the_same_again_and_has_dark_colours(tmp_path):
    read = study(tmp_path)
    (figure,) = curve_figures(read, found(read))
    assert figure.light == to_svg(figure.draw, LIGHT)
    colours = set(re.findall(rb"#[0-9a-f]{6}", darkened(figure.light)))
    assert {DARK.colour(0).encode(), DARK.ink.encode()} <= colours
    assert not colours & {LIGHT.ink.encode(), LIGHT.colour(0).encode()}


def test_curves_need_the_axis_of_the_study_with_numbers_and_a_file(tmp_path):
    read = study(tmp_path, None)
    assert curve_figures(read, found(read)) == []
    with pytest.raises(ValueError, match=r"over 'width', a number; the study varies depth = 1, 2 first"):
        study(tmp_path, Curves("width", [1.0], {"a": {"b": [1.0]}}))
    with pytest.raises(ValueError, match="over 'depth', a number; the study varies depth = few, many first"):
        study(tmp_path, values=("few", "many"))
    (tmp_path / "deep.csv").unlink()
    with pytest.raises(ValueError, match="curves must be a CSV file beside the study"):
        Study.read(tmp_path / "deep.study.yaml")
