"""Table of verdicts, of records with known ones."""

import pytest

from common.report.tables.verdicts import verdicts_table
from tests.common.report.certificates import three_runs


@pytest.fixture
def runs(tmp_path):
    return three_runs(tmp_path)


def test_verdicts_agree_where_the_forecast_decided(runs):
    """At 0.25 the forecast has 3 certified, 1 open and guessed not; at 0.5 one certified, one open, two not."""
    table = verdicts_table(runs)
    fast, half, *fixed = table.rows
    assert fast == ["fast / published", "curve", "0.25", 4, 3, 2, 1, 1]  # its third image has radius 0.1 only
    assert half == ["fast / published", "curve", "0.5", 4, 3, 3, 1, 1]
    # 0.4, 0.7 and, of another class, 0.1 without targets of its own: at 0.25 and 0.5
    assert fixed == [["fixed / published", "curve", r, 4, 3, n, 1, k] for r, n, k in (("0.25", 2, 1), ("0.5", 2, 0))]
    assert not verdicts_table(runs[1:]).rows
