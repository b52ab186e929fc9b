"""A rank without images helps the other with its certificate or attack; the records are those of one process."""

import pytest

from tests.faults.runs import Command
from tests.forked import fork_ranks


def eager(rank):
    """Share all samples and draws, and tell how many slices of the other's image a rank has evaluated."""
    from common.robustness.certification import crew

    crew.WORTH, crew.LEAST = 0.0, 8
    take = crew.Crew._take

    def told(self, name):
        took = take(self, name)
        if took:
            print("helped", flush=True)
        return took

    crew.Crew._take = told


@pytest.mark.parametrize(
    ("images", "options"), [(1, []), pytest.param(6, ["--trainer.limit_test_batches=1"], marks=pytest.mark.faults)]
)
def test_one_image_on_two_ranks(weights, tmp_path, images, options):
    command = Command("certification", 2, weights, tmp_path / "two", images=images)
    ranks = fork_ranks([*command.arguments, *options], tmp_path, eager)
    assert [one.wait() for one in ranks] == [0, 0], [one.output for one in ranks]
    if options:  # the limit ends ranks that have not come to their last image, and the others do not wait for them
        assert len(command.result()) == 2
        return
    assert sum(one.output.count("helped") for one in ranks) > 0
    alone = Command("certification", 1, weights, tmp_path / "one", images=images)
    assert [one.wait() for one in alone.start()] == [0]
    assert command.result() == alone.result()


def test_one_attack_on_two_ranks(weights, tmp_path):
    """EOT draws of one image: three slices a step."""
    attack = {"steps": 8, "eot": 40}
    command = Command("attack", 2, weights, tmp_path / "two", images=1, attack=attack)
    ranks = fork_ranks(command.arguments, tmp_path, eager)
    assert [one.wait() for one in ranks] == [0, 0], [one.output for one in ranks]
    assert sum(one.output.count("helped") for one in ranks) > 0
    alone = Command("attack", 1, weights, tmp_path / "one", images=1, attack=attack)
    assert [one.wait() for one in alone.start()] == [0]
    assert command.result() == alone.result()
