"""Memory of reading a file: the average alone."""

import json
import os
import subprocess
import sys

import pytest
import torch

from common.checkpoints.formats.bodies import build_body

# Memory ---------------------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys, json, torch
from common.checkpoints.loading import load_network
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
network = load_network(sys.argv[1], "score_sde", json.loads(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("zipped", [True, False])
def test_of_a_score_sde_file_only_the_average_is_read(zipped, tmp_path):
    """Optimiser state and raw weights are not read: memory holds at most two copies of the average, a quarter each."""
    config = {"image_size": 32, "nf": 96, "ch_mult": [1, 2], "num_res_blocks": 2, "attn_resolutions": [16]}
    network = build_body("score_sde", config)
    average = [torch.zeros(p.shape) for p in network.parameters()]
    moments = {i: {"exp_avg": torch.ones_like(v), "exp_avg_sq": torch.ones_like(v)} for i, v in enumerate(average)}
    model = {f"module.{name}": torch.ones(p.shape) for name, p in network.named_parameters()}
    path = tmp_path / "checkpoint_8.pth"
    content = {"optimizer": {"state": moments}, "model": model, "ema": {"shadow_params": average}, "step": 1}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    command = [sys.executable, "-c", MEASURE, str(path), json.dumps(config)]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=os.getcwd()).stdout)
    print(f"file {path.stat().st_size / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB")
    assert path.stat().st_size > 80e6
    assert peak < 0.75 * path.stat().st_size
