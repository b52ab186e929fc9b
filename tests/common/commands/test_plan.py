"""``plan``: a test's cost, printed and as JSON, without a trace on the disk."""

import json
from pathlib import Path

import pytest

import cli
from common.commands.errors import UsageError
from common.commands.plan import duration, number
from common.records.store import Records


def lines_with_cost(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for part in folder.glob("part*.jsonl") for line in part.read_text().splitlines()]
    return [line["cost"] for line in lines if "cost" in line]


@pytest.fixture(scope="module")
def tested(tmp_path_factory, weights):
    """A configuration, its records, and its plan."""
    from tests.tiny_test import write_tiny_test

    folder = tmp_path_factory.mktemp("plan")
    config = write_tiny_test(weights, folder)
    cli.main(["test", "-c", str(config)])
    return config, folder


def test_a_plan_has_the_evaluations_of_the_test(tested, capsys, tmp_path, monkeypatch):
    config, folder = tested
    monkeypatch.chdir(tmp_path)
    cli.main(["plan", "-c", str(config), "--seconds", "40", "--devices", "2", "--json", "--suites", "quick"])
    plan = json.loads(capsys.readouterr().out)
    costs = lines_with_cost(folder / "records")
    assert len(Records.read(folder / "records")) == len(costs) == 26
    assert sum(term["evaluations"] for term in plan["terms"]) == pytest.approx(
        sum(c["evaluations"] for c in costs), rel=0.05
    )  # the first gradient of a shape, which also measures its memory, may have come before
    assert [term["name"] for term in plan["terms"]] == ["clean", "attacked"]
    checks = {check["name"]: check["evaluations"] for check in plan["checks"]}
    recorded = sum(cost["evaluations"] for cost in lines_with_cost(folder / "records" / "diagnostics"))
    assert checks["gradient check"] == pytest.approx(recorded, rel=0.2)
    low, high = plan["interval"]
    assert low <= plan["seconds"] <= high
    assert plan["startup_seconds"] < plan["devices"]["seconds"] <= plan["seconds"]
    assert [(one["name"], one["images"]) for one in plan["suites"]] == [("quick", 64)]
    assert plan["peak_bytes"] > 2**20
    assert not [*tmp_path.iterdir()]


def test_a_plan_is_printed_in_words(tested, capsys):
    config, _ = tested
    cli.main(["plan", "-c", str(config), "--seconds", "0.5", "--devices", "2", "--suites"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "13 images in batches of 7 on cpu: " in shown
    assert "network evaluations; memory" in shown
    assert "on 2 such devices: " in shown
    assert "suites" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a test configuration"),
        (["-c", "tour/01-classifier"], "has no test_step|predicts the cost of a test"),
        (["-c", "tour/06-diffpure", "--devices", "0"], "--devices must be an integer >= 1; got 0"),
        (["-c", "tour/06-diffpure", "--devices", "x"], "--devices must be an integer; got 'x'"),
        (["-c", "tour/06-diffpur"], "Did you mean tour/06-diffpure"),
        (["-c", "tour/06-diffpure", "--suites", "golden"], "no suite is named 'golden': did you mean 'gold'"),
    ],
)
def test_mistakes_are_answered(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        cli.main(["plan", *arguments])


def test_usage_errors_name_the_command():
    with pytest.raises(UsageError, match="robust-diffusion plan --help"):
        cli.main(["plan"])


def test_durations_and_counts_are_short():
    assert [duration(x) for x in (0.25, 89, 91, 5399, 5400, 172800)] == [
        "0.2 s", "89.0 s", "1.5 min", "90.0 min", "1.5 hours", "2.0 days",
    ]  # fmt: skip
    assert [number(x) for x in (0, 7680.4, 999999, 12530000)] == ["0", "7,680", "999,999", "1.25e+07"]
