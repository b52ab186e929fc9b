"""The report shows the numbers of the records, all of them and nothing else, on a page that stands alone."""

import base64
import csv
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from common.records.schema import ClaimedRecord
from common.records.store import Records
from common.report.build import build
from common.report.ending import end_of_test
from common.report.figures import accuracy_bars, drawing
from common.report.figures import certified as certified_figure
from common.report.figures.drawing import DARK, LIGHT
from common.report.figures.image_grids import grid
from common.report.header import budget, expression, ratio
from common.report.runs import read_runs
from common.report.tables import protocol
from common.robustness.evaluation.stored_images import encode
from tests.common.records.made import attacked_record, certified_record
from tests.common.report.pages import (
    ACCURACY,
    DRAWS,
    N,
    attacked,
    certified,
    clean,
    exact,
    page_of,
    shown,
    table_rows,
    texts,
    write,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write(folder / "diffpure", clean(), attacked(), certified()),
        write(folder / "agdm", clean(seed=5), attacked(seed=6, chance=0.8)),
    ]
    return runs, build(runs, folder / "out", figures=True)


def test_the_table_holds_the_numbers_computed_from_the_rows(built):
    runs, page = built
    rows = table_rows(page_of(page), ACCURACY)
    assert [row[:4] for row in rows] == [
        [name, evaluator, str(N), str(DRAWS)] for name in ("diffpure", "agdm") for evaluator in ("clean", "pgd")
    ]
    for row in rows:
        records = [r for r in Records.read(runs[row[0] == "agdm"]) if r.evaluator == row[1]]
        right = np.array([r.predictions for r in records]) == 1
        exactly = binomtest(int(right.all(1).sum()), N).proportion_ci(0.95, "exact")
        worst = (right.all(1).mean(), exactly.low, exactly.high)
        majority = exact(int((right.mean(1) > 0.5).sum()), N)
        expected = [shown(exact(right.mean() * N, N)), shown(worst), shown(majority)]
        assert row[4:7] == [" ".join(pair) for pair in expected]
        if row[1] == "pgd":
            control = np.array([r.clean_predictions for r in records]) == 1
            assert row[7] == " ".join(shown(exact(int(control.all(1).sum()), N)))
        else:
            assert row[7] == "–"


def test_the_certified_table_holds_the_numbers_computed_from_the_rows(built):
    runs, page = built
    (row,) = table_rows(page_of(page), "Certified")
    records = [r for r in Records.read(runs[0]) if r.evaluator == "certified"]
    reached = [sum(v.prediction == 1 and v.radius >= r / 4 for v in records) for r in range(5)]
    assert row[:3] == ["diffpure", "certified", str(N)]
    assert row[3:8] == [" ".join(shown(exact(k, N))) for k in reached]
    assert row[8:] == [" ".join(shown(exact(sum(v.prediction == -1 for v in records), N))), "110"]  # and n0 = 10


def test_claims_have_a_table_of_their_own_and_no_certified_accuracy(tmp_path):
    """Claimed radii are no bounds: a table of their own, no certified accuracy, no curve; the protocol names them."""
    settings = {"kind": ClaimedRecord, "evaluator": "published", "samples": 1}
    claims = [certified_record(i, 1 if i else 2, 2.0 + i, **settings) for i in range(4)]
    names = {"published": "ndc.Claimed", "certified": "ndc.Lipschitz"}
    config = {"evaluators": [{"name": name, "smoothing": {"class": kind}} for name, kind in names.items()]}
    run = write(tmp_path / "both", certified(), claims, config=config)
    html = page_of(build([run], tmp_path / "report"))
    sound = [r for r in certified() if r.prediction == 1]
    radii = sorted(v.radius for v in sound)
    certificate, claim = table_rows(html, "Certified radii and claimed ones")
    assert certificate[1:5] == ["certified", "certificate", str(N), str(len(sound))]
    assert certificate[5:] == [f"{np.median(radii):.3g}", f"{radii[-1]:.3g}"]
    assert claim[1:] == ["published", "claimed, not certified", "4", "3", "4", "5"]
    (row,) = table_rows(html, "Certified accuracy")
    assert row[1] == "certified"
    protocol_rows = {row[0]: row[1:] for row in table_rows(html, "both: protocol")}
    assert protocol_rows["Attack"] == ["Lipschitz, no smoothing", "published formula, no certificate"]
    (axes,) = certified_figure.certified_curves(read_runs([run]), LIGHT).axes
    assert len(axes.lines) == 1
    assert axes.get_xlim()[1] < 2
    alone = build([write(tmp_path / "sound", certified())], tmp_path / "other")
    assert "claimed ones" not in texts(page_of(alone))


def test_the_spreadsheet_and_the_console_hold_the_same_numbers(built, capsys):
    runs, page = built
    with page.with_suffix(".csv").open(encoding="utf-8") as file:
        rows = {(row["defence"], row["evaluator"], row["metric"]): row for row in csv.DictReader(file)}
    right = np.array([r.predictions for r in Records.read(runs[0]) if r.evaluator == "pgd"]) == 1
    row = rows["diffpure", "pgd", f"Wor@{DRAWS}"]
    triple = exact(int(right.all(1).sum()), N)
    assert [float(row[name]) for name in ("value", "low", "high")] == pytest.approx(triple, abs=1e-9)
    assert row["images"] == str(N)
    capsys.readouterr()
    end_of_test(runs[0])
    printed = capsys.readouterr().out
    for value, bounds in (shown(triple), shown(exact(right.mean() * N, N))):
        assert value in printed and bounds.strip("[]").replace(", ", "–") in printed
    assert printed.endswith(f"All tables: robust-diffusion report {runs[0]}\n")
    assert len(printed.splitlines()) < 20


class Outside(HTMLParser):
    """Collects what a browser would fetch or run."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        links = [value for name, value in attributes if name in ("src", "srcset", "href", "data", "action", "poster")]
        self.found += [link for link in links if not link.startswith(("data:image/", "#"))]
        if tag in ("script", "link", "iframe", "object", "embed", "base"):
            self.found.append(tag)


def test_the_page_stands_alone(built):
    text = built[1].read_text(encoding="utf-8")
    outside = Outside()
    outside.feed(text)
    assert outside.found == []
    without_data = re.sub(r"data:image/[^\"]*", "", text)
    assert not re.search(r"url\(|@import|https?:", without_data)


def test_the_page_is_accessible(built):
    page = page_of(built[1])
    assert page.get("lang") == "en"
    assert all(image.get("alt") for image in page.iter("img"))
    assert all(head.get("scope") in ("col", "row") for head in page.iter("th"))
    levels = [int(element.tag[1]) for element in page.iter() if re.fullmatch("h[1-6]", str(element.tag))]
    assert levels[0] == 1
    assert max(b - a for a, b in pairwise(levels)) <= 1
    assert all(table.find("caption") is not None for table in page.iter("table"))


def test_images_are_those_of_the_records(built):
    runs, page = built
    tables = page_of(page).iter("table")
    sources = [image.get("src") for table in tables for image in table.iter("img")]
    held = [[r for r in Records.read(run) if r.evaluator == "pgd" and r.images] for run in runs]
    stored = [r.images[name] for rows in held for name in ("clean", "adversarial", "purified") for r in rows]
    assert [source.split(",")[1] for source in sources if source.split(",")[1] in stored] == stored
    assert len(sources) == len(stored) * 4 / 3  # the perturbation besides
    strip = next(table for table in page_of(page).iter("table") if table.get("class") == "strip")
    rows = {texts(row.find("th")): [texts(cell) for cell in row.iter("td")] for row in strip.find("tbody")}
    for view, key in {"clean": "clean_predictions", "adversarial": "predictions", "purified": "predictions"}.items():
        guesses = [getattr(r, key)[0] for r in held[0]]
        assert rows[view] == ["1 ✓" if guess == 1 else f"{guess} ✗ not 1" for guess in guesses]
    assert rows["perturbation × 15.9"] == ["L∞ 0.03"] * 3
    assert rows["correct decisions"] == [f"{r.predictions.count(1)} of {DRAWS}" for r in held[0]]


def test_a_perturbation_is_magnified_until_its_radius_fills_half_the_range():
    image = torch.full((1, 1, 3), 0.5)
    adv = image + torch.tensor([[[8 / 255, -8 / 255, 0.0]]])
    images = {"clean": encode(image), "adversarial": encode(adv)}
    for norm, eps, factor in (("Linf", 8 / 255, 255 / 16), ("Linf", 16 / 255, 255 / 32), ("L2", 0.5, 255 / 16)):
        found = grid([attacked_record(images=images, norm=norm, eps=eps)])
        assert found.views == ["clean", "adversarial", "perturbation"]
        assert found.factor == pytest.approx(factor, rel=1e-5)
        shown = Image.open(io.BytesIO(base64.b64decode(found.png(found.records[0], "perturbation"))))
        size = round(255 * 0.5 * (1 + factor * 16 / 255)) - round(255 * 0.5)
        assert np.abs(np.asarray(shown).astype(int)[0] - [128 + size, 127 - size, 128]).max() <= 1  # of 255 levels
    assert grid([attacked_record(images={"clean": encode(image)})]).views == ["clean"]


def test_figures_lie_beside_the_page_and_do_not_change(built, tmp_path):
    runs, page = built
    files = {file.name: file.read_bytes() for file in page.parent.iterdir()}
    assert {"accuracy.png", "accuracy.svg", "certified.png", "certified.svg"} <= set(files)
    assert {"plane.png", "plane.svg", "compared.csv"} <= set(files)
    assert sum(name.startswith("images-") for name in files) == 4
    assert all(data.startswith(b"\x89PNG") for name, data in files.items() if name.endswith(".png"))
    assert all(ET.fromstring(data) is not None for name, data in files.items() if name.endswith(".svg"))
    again = build(runs, tmp_path / "again.html", figures=True)
    assert again == tmp_path / "again.html"
    assert again.read_bytes() == page.read_bytes()
    assert (tmp_path / "again.accuracy.svg").read_bytes() == files["accuracy.svg"]


def test_matplotlib_settings_are_not_changed(built):
    before = dict(matplotlib.rcParams)
    drawing.to_svg(lambda style: accuracy_bars.accuracy_bars(read_runs(built[0]), style), LIGHT)
    assert dict(matplotlib.rcParams) == before


def test_bars_and_whiskers_have_the_length_of_the_numbers(built):
    runs = read_runs(built[0][:1])
    (axes,) = accuracy_bars.accuracy_bars(runs, LIGHT).axes
    clean, pgd = runs[0].clean[0].summary.metrics, runs[0].attacks[0].summary.metrics
    metrics = [clean["Avg"], pgd["Avg"], pgd[f"Wor@{DRAWS}"]]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([100 * value for value, _, _ in metrics])
    whiskers = [line.get_xdata() for line in axes.lines]
    assert np.array(whiskers) == pytest.approx(100 * np.array([bounds for _, *bounds in metrics]))


@pytest.mark.parametrize("finest", [400, 7])
def test_the_curve_is_the_certified_accuracy_at_every_radius(built, finest, monkeypatch):
    monkeypatch.setattr(certified_figure, "FINEST", finest)
    runs = read_runs(built[0][:1])
    (axes,) = certified_figure.certified_curves(runs, LIGHT).axes
    x, y = axes.lines[0].get_data()
    assert axes.lines[0].get_drawstyle() == "steps-post"
    rows = runs[0].certified[0].rows
    edges = np.sort(x)
    for radius in edges[1:] if finest == 7 else np.linspace(0, edges[-1], 200):
        at = y[np.searchsorted(x, radius, side="left") - 1] if radius > 0 else y[0]
        share = np.mean([row.prediction == 1 and row.radius >= radius for row in rows])
        assert at == pytest.approx(100 * share)
    assert len(x) == (8 if finest == 7 else len(x))


# Protocol


def test_the_protocol_lists_the_settings(built):
    page = page_of(built[1])
    rows = {row[0]: row[1:] for row in table_rows(page, "diffpure: protocol")}
    assert rows["Attack"] == ["none", "PGD, white box", "randomised smoothing"]
    assert rows["Threat"] == ["–", "L∞ ≤ 8/255", "–"]
    wanted = {
        "Steps": "20",
        "EOT draws per step": "4",
        "Restarts": "1",
        "Loss": "dlr",
        "Other settings": "random start",
    }
    assert {name: rows[name][1] for name in wanted} == wanted
    assert rows["Gradient of the defence"][1] == "Checkpoint"
    assert rows["Sampler in the attack"][1] == "as deployed"
    assert rows["Sampler in the defence"][1] == "DiffPure, t* = 0.1"
    assert rows["Other settings"][2] == "alpha 0.001, n 100, n0 10, sigma 0.25"
    assert rows["Fresh decisions N"] == [str(DRAWS), str(DRAWS), "–"]
    assert rows["Images"] == [str(N)] * 3
    assert "Purified(purifier=DiffPure(gradient=Checkpoint, t_star=0.1))" in texts(page)


@pytest.mark.parametrize(
    ("eps", "said"), [(8 / 255, "8/255"), (1 / 255, "1/255"), (0.2, "0.2"), (0.031, "0.031"), (0.5, "0.5"), (0.0, "0")]
)
def test_radii_are_written_in_grey_levels_where_small(eps, said):
    assert ratio(eps) == said


def test_budgets_name_their_norm():
    assert budget("Linf", 8 / 255) == "L∞ ≤ 8/255"
    assert budget("L2", 0.5) == "L2 ≤ 0.5"
    assert budget("LPIPS", 0.05) == "LPIPS ≤ 0.05"
    assert budget("Linf", None) == ""


def test_dark_figures_are_the_light_ones_in_other_colours(built):
    light = drawing.to_svg(lambda style: accuracy_bars.accuracy_bars(read_runs(built[0]), style), LIGHT)
    dark = drawing.darkened(light)
    colours = [set(re.findall(rb"#[0-9a-f]{6}", svg)) for svg in (light, dark)]
    assert LIGHT.colour(0).encode() in colours[0]
    assert DARK.colour(0).encode() in colours[1]
    assert not colours[1] & {LIGHT.ink.encode(), LIGHT.neutral.encode(), LIGHT.colour(0).encode()}
    assert re.sub(rb"#[0-9a-f]{6}", b"", light) == re.sub(rb"#[0-9a-f]{6}", b"", dark)


def test_expressions_of_described_and_configured_parts():
    described = {"class": "a.b.C", "size": 3, "off": None, "inner": {"class": "d.E"}}
    described["times"] = [0.5, 0.25, 0.1, 0.05, 0]
    configured = {"class_path": "a.b.C", "init_args": {"size": 3, "inner": {"class_path": "d.E"}}}
    assert expression(described) == "C(size=3, inner=E, times=0.5 … 0 (5))"
    assert expression(configured) == "C(size=3, inner=E)"
    assert expression({"class": "A", "b": {"class": "B", "c": 1}}, depth=1) == "A(b=B(…))"


def test_a_run_without_a_configuration_is_reported(tmp_path):
    page = build([write(tmp_path / "run", attacked(), config={})], tmp_path / "out")
    rows = {row[0]: row[1] for row in table_rows(page_of(page), "run: protocol")}
    assert rows["Attack"] == "not recorded, white box"
    assert rows["Threat"] == "L∞ ≤ 8/255"
    assert protocol.defence(read_runs([tmp_path / "run"])[0]) == ""


# Checks and lead


def test_a_failed_check_has_a_banner_and_no_headline(tmp_path, capsys):
    runs = [
        write(tmp_path / "masked", attacked(chance=0.9, zero_gradient=True)),
        write(tmp_path / "sound", attacked(chance=0.5)),
        write(tmp_path / "weak", attacked(chance=0.2)),
    ]
    page = page_of(build(runs, tmp_path / "out"))
    aside = next(aside for aside in page.iter("aside") if "failed" in aside.get("aria-label"))
    sentence = "The loss gradient is zero or not finite for 100.0 % of the images"
    assert sentence in texts(aside)
    assert sentence in " ".join(capsys.readouterr().out.split())
    assert "sound has the highest robust accuracy" in texts(next(page.iter("section")))


def test_a_single_run_has_no_headline(built, tmp_path):
    page = page_of(build(built[0][:1], tmp_path))
    assert "highest robust accuracy" not in texts(page)
    assert [aside.get("aria-label") for aside in page.iter("aside")] == ["The gradients were not verified"]
