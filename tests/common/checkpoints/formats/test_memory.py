"""Memory of reading a file: the average alone."""

import json
import subprocess
import sys

import torch

from common.checkpoints.formats.bodies import build_body

MEASURE = """
import json, multiprocessing, re, sys
from common.checkpoints.formats import published_files
from common.checkpoints.loading import load_network

def anonymous():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

def measure(path):
    before, assign_state, held = anonymous(), published_files.assign_state, []

    def assign(*arguments):  # the network and all that was read are in memory
        held.append(anonymous() - before)
        return assign_state(*arguments)

    published_files.assign_state = assign
    load_network(path, "score_sde", json.loads(sys.argv[1]))
    return held[0]

with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:  # each file in a process of its own
    print(*pool.imap(measure, sys.argv[2:]))
"""


def test_of_a_score_sde_file_only_the_average_is_read(tmp_path):
    """Optimiser state and raw weights are not read, three quarters of the file.

    Memory holds the average twice at most, in the network and in a copy; pages of the file are not counted.
    """
    config = {"image_size": 32, "nf": 96, "ch_mult": [1, 2], "num_res_blocks": 2, "attn_resolutions": [16]}
    network = build_body("score_sde", config)
    average = [torch.zeros(p.shape) for p in network.parameters()]
    moments = {i: {"exp_avg": torch.ones_like(v), "exp_avg_sq": torch.ones_like(v)} for i, v in enumerate(average)}
    model = {f"module.{name}": torch.ones(p.shape) for name, p in network.named_parameters()}
    content = {"optimizer": {"state": moments}, "model": model, "ema": {"shadow_params": average}, "step": 1}
    paths = [tmp_path / "zipped.pth", tmp_path / "legacy.pth"]
    for path in paths:
        torch.save(content, path, _use_new_zipfile_serialization=path.stem == "zipped")
    command = [sys.executable, "-c", MEASURE, json.dumps(config), *map(str, paths)]
    peaks = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    for path, peak in zip(paths, map(int, peaks), strict=True):
        print(f"{path.stem} file {path.stat().st_size / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB")
        assert path.stat().st_size > 80e6
        assert 0.1 * path.stat().st_size < peak < 0.75 * path.stat().st_size
