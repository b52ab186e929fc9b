"""Names of the layouts of checkpoint files: ours, and those of the published files that can be read."""

from typing import Literal, get_args

Format = Literal["safetensors", "score_sde", "guided_diffusion", "edm", "sdedit_ddpm", "robustbench_wrn", "diffusers"]
PUBLISHED = tuple(name for name in get_args(Format) if name != "safetensors")
"""Layouts of published files."""
