"""Reports of single evaluators, empty runs, odd names and small images."""

import base64

import pytest
import torch

from common.records.store import Records
from common.report.build import build
from common.report.runs import read_runs
from common.robustness.evaluation.stored_images import encode
from tests.common.report.pages import ACCURACY, attacked, certified, clean, page_of, table_rows, texts, write

# Odd input


@pytest.mark.parametrize("group", [clean, attacked, certified])
def test_a_single_evaluator_is_enough(tmp_path, group):
    page = page_of(build([write(tmp_path / "run", group())], tmp_path / "out"))
    titles = [texts(table.find("caption")) for table in page.iter("table")]
    assert sum(title.startswith(("Accuracy", "Certified")) for title in titles) == 1
    assert not any("compared" in title for title in titles)


def test_an_empty_run_is_reported_as_empty(tmp_path, capsys):
    page = build([write(tmp_path / "empty")], tmp_path / "out")
    assert "has not recorded any image yet" in texts(page_of(page))
    assert "No image recorded yet: empty." in capsys.readouterr().out


def test_names_are_shown_as_they_are(tmp_path, capsys):
    name, evaluator = "_a<b>&\"c'$x$ [red]", "</td><script>alert(1)</script>$\\frac{1}{2}$"
    config = {"note": "</pre><script>alert(2)</script>\u0000"}
    groups = [clean(evaluator), attacked(f"{evaluator} 2"), certified(f"{evaluator} 3")]
    page = build([write(tmp_path / name, *groups, config=config)], tmp_path / "out")
    parsed = page_of(page)
    assert not list(parsed.iter("script"))
    assert [row[0] for row in table_rows(parsed, ACCURACY)] == [name, name]
    assert table_rows(parsed, ACCURACY)[0][1] == evaluator
    assert "[red]" in capsys.readouterr().out


def test_folders_stand_for_the_runs_in_them_and_equal_names_are_told_apart(tmp_path):
    for parent in ("a", "b"):
        write(tmp_path / parent / "run", clean())
    write(tmp_path / "a" / "other", clean())
    (tmp_path / "a" / "weights").mkdir()
    assert [run.name for run in read_runs([tmp_path / "a"])] == ["other", "run"]
    assert [run.name for run in read_runs([tmp_path / "a", tmp_path / "b" / "run"])] == ["other", "a/run", "b/run"]
    merged = Records(tmp_path / "a" / "run", "fingerprint").merge()
    assert [run.name for run in read_runs([merged])] == ["run"]


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no records in"):
        build([tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="at least one records directory"):
        build([], tmp_path / "out")
    with pytest.raises(ValueError, match="needs a list of directories"):
        build(str(tmp_path), tmp_path / "out")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match="cannot write the report"):
        build([write(tmp_path / "run", clean())], file / "out")


def test_small_thumbnails_show_their_pixels(tmp_path):
    rows = attacked()[:2]
    large = encode(torch.zeros(3, 100, 100))
    assert int.from_bytes(base64.b64decode(large)[16:20], "big") == 100
    rows[1].images["clean"] = large
    page = page_of(build([write(tmp_path / "run", rows)], tmp_path / "out"))
    images = [image for table in page.iter("table") for image in table.iter("img")]
    looks = [image.get("class") for image in images if image.get("src").startswith("data:image/png")]
    assert looks == ["coarse", None, *["coarse"] * 5]  # the image of another size has no perturbation


def test_classes_named_in_a_header_are_not_imported(tmp_path, monkeypatch):
    """A report is made of the records alone."""
    (tmp_path / "planted_part.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    part = {"class": "planted_part.Attack", "class_path": "planted_part.Attack", "settings": {"norm": "planted_part.x"}}
    config = {"classifier": part, "evaluators": [part, {**part, "attack": part, "name": "a"}], "data": part}
    build([write(tmp_path / "run", clean("a"), attacked("b"), config=config)], tmp_path / "out")
    assert not (tmp_path / "ran").exists()
