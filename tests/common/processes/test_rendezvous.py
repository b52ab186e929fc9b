"""A rank whose others do not come ends within the time that an option states, and says what to do."""

import os
import socket
from typing import Any

import pytest

from common.processes import interrupts
from common.processes.rendezvous import OPTION, check_launch, rendezvous_seconds
from tests.forked import fork


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("command", ["test", "predict"])
def test_a_rank_alone_does_not_wait_for_half_an_hour(tiny_test: Any, tmp_path: Any, command: str, rank: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def change() -> None:
        interrupts.LOST_GRACE = 0.2
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", OPTION: "0.5"}
        os.environ.update(shared, LOCAL_RANK=str(rank), RANK=str(rank), NODE_RANK="0")

    options = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
    out = ["--out", str(tmp_path / "out")] if command == "predict" else []
    run = fork([command, "-c", str(tiny_test()), *options, *out], tmp_path / "log", change)
    assert run.wait() == 3, run.output
    said = f"error: rank {rank} waited 0 s for 2 processes at 127.0.0.1:{port}, and not all of them came. Start"
    assert said in run.output and f"wait longer: {OPTION}=1" in run.output and "Traceback" not in run.output


def test_the_option_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendezvous_seconds() == 300
    monkeypatch.setenv(OPTION, "7.5")
    assert rendezvous_seconds() == 7.5
    for wrong in ("0", "-1", "soon", "nan", "inf", ""):
        monkeypatch.setenv(OPTION, wrong)
        with pytest.raises(ValueError, match="must be a number of seconds > 0; got"):
            rendezvous_seconds()


@pytest.mark.parametrize(("name", "wrong"), [
    ("LOCAL_RANK", "banana"), ("RANK", "-1"), ("WORLD_SIZE", "0"), ("WORLD_SIZE", ""), ("NODE_RANK", "1.0"),
    ("MASTER_PORT", "99999999"), ("SLURM_PROCID", "٣"), ("SLURM_NTASKS", "9" * 5000), ("SLURM_JOB_ID", "../../x"),
])  # fmt: skip
def test_variables_that_no_launcher_sets_are_refused_with_their_name(name: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"{name}, which .*Unset it"):
        check_launch({name: wrong})
    check_launch({"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "29500", "SLURM_JOB_ID": "123_4", "LOCAL_RANK": "7"})
