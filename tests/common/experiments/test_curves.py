"""Curves over a setting: the file that holds them, and refused ones."""

import pytest

from common.experiments.curves import Curves

CURVES = Curves(
    "depth",
    [1.0, 1.5, 2.0],
    {"nats": {"bound: any": [300.0, 20.0, 2.0], "random": [3.0, 0.5, 0.125]}, "length": {"measured": [0.1, None, 0.3]}},
)


def test_the_file_holds_the_curves(tmp_path):
    CURVES.write(tmp_path / "c.csv")
    text = (tmp_path / "c.csv").read_text()
    assert text.splitlines() == [
        "depth,nats: bound: any,nats: random,length: measured", "1,300,3,0.1", "1.5,20,0.5,", "2,2,0.125,0.3",
    ]  # fmt: skip
    assert Curves.read(tmp_path / "c.csv") == CURVES
    Curves("t", [1 / 3], {"a": {"b": [2e5 / 3]}}).write(tmp_path / "d.csv")
    assert (tmp_path / "d.csv").read_text() == "t,a: b\n0.3333,6.667e+04\n"


@pytest.mark.parametrize(
    "text",
    ["", "t\n1\n", "t,a: b\n", "t,a\n1,2\n", "t,a: b\n1\n", "t,a: b\n1,x\n", "t,a: b\n2,1\n1,1\n", "t,a: b\n1,inf\n"],
)
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(ValueError, match=r"c\.csv must have a first row"):
        Curves.read(tmp_path / "c.csv")


@pytest.mark.parametrize("places", [[], [1.0, 1.0], [2.0, 1.0], [1.0, float("nan")], ["a"]])
def test_places_ascend(places):
    with pytest.raises(ValueError, match="finite numbers at ascending places"):
        Curves("t", places, {"a": {"b": [None] * len(places)}})


@pytest.mark.parametrize("panels", [{}, {"a": {}}, {"a": {"b": [1.0]}}, {"a: c": {"b": [1.0, 2.0]}}])
def test_panels_have_a_number_for_each_place(panels):
    with pytest.raises(ValueError, match="panels with a number or None for each of 2 places"):
        Curves("t", [1.0, 2.0], panels)
