"""Scripts of configs/cluster: valid bash, whose commands our parsers accept."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import cli
from common.commands import lightning_commands

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted(path for path in (ROOT / "configs" / "cluster").iterdir() if path.suffix != ".md")
CONFIGS = {"fit": "configs/tour/04-guidance.fit.yaml", "test": "configs/tour/06-diffpure.test.yaml"}
STAND_IN = '#!/bin/bash\nprintf "%q " "$@" >> "$CALLS"\n'
JOB = {"SLURM_CPUS_PER_TASK": "4", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": "3"}  # --array=3, one again


def command_of(script, folder):
    """The arguments that a script hands to our program, by stand-ins for srun and torchrun."""
    for name in ("srun", "torchrun"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    name = "fit" if "fit" in script.name else "test"
    config = str(ROOT / CONFIGS[name])
    arguments = [name, "-c", config] if script.suffix == ".sh" else [config]
    arguments += ["--model.init_args.verify=off"] if name == "test" else []
    environment = {**os.environ, **JOB, "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls")}
    subprocess.run(["bash", str(script), *arguments], env=environment, check=True, timeout=30)
    words = shlex.split((folder / "calls").read_text())
    start = next(place for place, word in enumerate(words) if word in ("robust-diffusion", str(ROOT / "cli.py")))
    return words[start + 1 :]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_and_its_options_are_ours(script, tmp_path, monkeypatch):
    """Parsed as the command line is, up to the first part that would be built."""
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    found = []

    def stop(self):
        found.append(self.config[str(self.subcommand)])
        raise ValueError("parsed")

    monkeypatch.setattr(lightning_commands.CLI, "before_instantiate_classes", stop)
    with pytest.raises(ValueError, match=r"^parsed$"):
        cli.main(command_of(script, tmp_path))
    trainer = found[0].trainer
    assert trainer.devices in ("1", "4", 1, 4)
    if script.name == "slurm-array.sbatch":
        assert found[0].part == "3/8" and trainer.num_nodes == 1
    else:
        assert (trainer.num_nodes, trainer.strategy) == (2, "ddp")
    if script.suffix == ".sbatch":
        settings = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script.read_text(), re.MULTILINE))
        assert settings["signal"] == "SIGUSR1@120" and "#SBATCH --requeue\n" in script.read_text()
        assert int(settings.get("ntasks-per-node", 1)) == int(trainer.devices)
