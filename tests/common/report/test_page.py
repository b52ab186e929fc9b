"""The page starts with headline and images, every section has an anchor, and every value is escaped."""

import re

import pytest

from common.numerics.finding import Finding
from common.records.schema import GradientCheckRecord
from common.report.build import build
from common.report.headline import read_headline
from common.report.page.environment import TEMPLATES, environment, printable
from tests.common.report.pages import attacked, certified, clean, page_of, shown, texts, write

HOSTILE = "</td></pre><script>alert(1)</script>\"'><b>&amp;"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write(folder / "one", clean(), attacked(), attacked("apgd", 4, 0.4), certified()),
        write(folder / "two", clean(seed=5), attacked(seed=6)),
    ]
    return runs, page_of(build(runs, folder / "out"))


def test_the_contents_name_every_section_and_their_anchors_exist_once(made):
    page = made[1]
    (nav,) = page.iter("nav")
    links = {link.get("href"): texts(link) for link in nav.iter("a")}
    identifiers = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(identifiers) == len(set(identifiers))
    assert {href.removeprefix("#") for href in links} <= set(identifiers)
    titles = {f"#{one.get('id')}": texts(one.find("h2")) for one in page.iter("section") if one.find("h2") is not None}
    assert titles == links
    wanted = ("Caveats", "Results", "Images", "By class", "Protocol", "How to read the numbers")
    assert [title for title in titles.values() if title in wanted] == list(wanted)


def test_headline_and_images_come_before_the_contents(made):
    runs, page = made
    main = page.find("body/main")
    assert [child.get("id") or child.tag for child in main][:4] == ["header", "headline", "nav", "caveats"]
    headline = main[1]
    rows = [[texts(cell) for cell in row] for row in headline.find("div/table/tbody")]
    expected = read_headline(runs)
    for row, known in zip(rows, expected.rows, strict=True):
        assert row[0] == f"{known.name} {known.attack}"
        for cell, score in zip(row[1:5], (known.clean, known.robust, known.worst_draw, known.certified), strict=True):
            value, bounds = shown((score.value, score.low, score.high)) if score else ("–", "")
            assert cell == f"{value} {bounds.strip('[]').replace(', ', '–')}".strip()
    assert [texts(item) for item in headline.iter("li")] == [
        " ".join(sentence.split()) for sentence in expected.sentences
    ]
    (figure,) = headline.iter("figure")
    stored = attacked("apgd", 4, 0.4)[0].images  # of the first run's first attack
    sources = [image.get("src").partition(",")[2] for image in figure.iter("img")]
    assert [sources[0], sources[1], sources[3]] == [stored[view] for view in ("clean", "adversarial", "purified")]
    assert len(sources) == 4
    assert texts(figure.find("figcaption")) == "one, apgd: image 0, class 1; perturbation × 15.9"


def test_no_value_becomes_markup(tmp_path):
    """Names of runs, evaluators, views and checks, sentences and settings come from files of strangers."""
    finding = Finding(HOSTILE, False, 0.5, HOSTILE)
    check = GradientCheckRecord(evaluator="verify", index=0, label=1, verified=False, findings=[finding])
    rows = attacked(f"attack {HOSTILE}", norm=HOSTILE)
    rows[0].images[HOSTILE] = rows[0].images["clean"]
    config = {"classifier": {"class": HOSTILE, HOSTILE: HOSTILE}, "evaluators": [{"name": HOSTILE, HOSTILE: HOSTILE}]}
    run = write(
        tmp_path / HOSTILE.replace("/", "∕"), clean(HOSTILE), rows, certified(f"c {HOSTILE}"), [check], config=config
    )
    path = build([run], tmp_path / "out")
    page = page_of(path)
    assert not list(page.iter("script"))
    assert "<script" not in path.read_text(encoding="utf-8")
    assert texts(page).count("<script>alert(1)</script>") > 10
    assert all("alert" not in "".join(element.attrib) for element in page.iter())  # no new attribute


def test_every_template_is_escaped_and_names_only_what_it_is_given():
    assert environment().autoescape is True
    for file in TEMPLATES.glob("*.html"):
        assert not re.search(r"\|\s*safe|autoescape|Markup", file.read_text(encoding="utf-8")), file
    with pytest.raises(Exception, match="is undefined"):
        environment().from_string("{{ missing }}").render()


def test_control_characters_and_bounds_are_written_as_a_page_may_hold_them():
    assert printable("a\x00b\x1b[c") == "a b [c"
    assert (
        printable("L2 ≤ 0.5, p < 0.0001 [1.0, 22.5] %") == "L2\u00a0≤\u00a00.5, p <\u00a00.0001 [1.0,\u00a022.5]\u00a0%"
    )
    assert printable(3) == 3
    assert environment().from_string("{{ a }}").render(a="<\x01>") == "&lt; &gt;"


def test_the_page_never_scrolls_sideways():
    """A table wider than a phone lies in a box of its own that scrolls."""
    text = (TEMPLATES / "macros.html").read_text(encoding="utf-8")
    tables = [match.start() for match in re.finditer("<table", text)]
    assert tables and all('<div class="wide"' in text[max(0, place - 150) : place] for place in tables)
    assert re.search(r"\.wide \{[^}]*overflow-x: auto", (TEMPLATES / "style.css").read_text(encoding="utf-8"))


def test_a_phone_shows_every_column_of_the_headline(made):
    """Below 40rem a name has a line of its own, and the numbers share the width: as many columns as the grid has."""
    table = made[1].find("body/main")[1].find("div/table")
    heads = table.findall("thead/tr/th")
    assert table.get("style") == f"--numbers: {len(heads) - 2}"  # beside the name and the number of images
    narrow = (TEMPLATES / "style.css").read_text(encoding="utf-8").partition("max-width: 40rem")[2]
    assert "grid-template-columns: repeat(var(--numbers), minmax(0, 1fr)) 3.2rem" in narrow
