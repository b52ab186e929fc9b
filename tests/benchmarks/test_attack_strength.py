"""Accuracy that the staged attack leaves of the tour's AGDM, in its short and its long form; after the tour.

    robust-diffusion tour && pytest -n 0 -m bench tests/benchmarks/test_attack_strength.py

It reads ``runs/tour`` in the working directory. The long form takes 7 minutes of a processor, the short one 40 seconds.
"""

from pathlib import Path

import pytest

import cli
from common.records.schema import AttackedRecord
from common.records.store import Records
from common.records.summary import average

pytestmark = pytest.mark.bench
WEIGHTS = [Path("runs/tour") / f"{name}.safetensors" for name in ("classifier", "denoiser", "guidance")]


@pytest.mark.skipif(not all(path.exists() for path in WEIGHTS), reason="needs the networks of robust-diffusion tour")
@pytest.mark.parametrize(("preset", "most"), [("tour/07-agdm", 0.75), ("studies/agdm-gold", 0.71)])
def test_images_0_to_127_of_agdm(preset, most, tmp_path):
    """Mean over fresh draws: 73.8 % and 70.1 % were measured."""
    words = ["--data.init_args.test_images=128", f"--model.init_args.records={tmp_path}", "--model.init_args.masking=0"]
    cli.main(["test", "-c", preset, *words])
    rows = [row for row in Records.read(tmp_path) if isinstance(row, AttackedRecord) and row.evaluator == "staged"]
    assert [row.index for row in rows] == list(range(128))
    left = average(rows)[0]
    print(f"{preset}: {left:.1%}")
    assert left <= most
