"""A test continues records only if they are certainly its own."""

import json
from contextlib import closing
from dataclasses import dataclass
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from common.api import evaluate
from common.data.datasets import ImageDataset
from common.files.locking import lock
from common.processes.interrupts import INTERRUPTS, RankLost
from common.processes.ranks import CURRENT
from common.records.archiving import archive
from common.records.rows import sealed, unsealed
from common.records.schema import Cost, Source
from common.records.store import Records
from common.robustness import PGD, Attack, Attacked, Certified, Classifier, Clean, Smoothing, ThreatModel
from common.tasks import recorded_again
from common.tasks.resuming import recorded_example
from common.tasks.robust import RobustTask
from tests.common.files.test_locking import another_process
from tests.common.records.made import certified_record, clean_record

BALL = ThreatModel("inf", 0.1)
IMAGES = torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


class Own(Classifier):
    """A linear classifier of a user; ``sign`` stands for its code."""

    sign = 1

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            self.linear.weight.copy_(torch.arange(12.0).sin().view(3, 4))

    def forward(self, image, noise=None):
        return self.linear(image.flatten(1))


class Images(Dataset):
    def __init__(self, images=IMAGES, labels=LABELS):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index]), index


def rows(defence, path, evaluators=None, data=None, loader=None):
    """Rows of a test of ``defence``, in ``path``."""
    loader = loader or DataLoader(Images() if data is None else data, batch_size=5)
    task = RobustTask(defence, evaluators or [Clean()], str(path), BALL, verify="off", masking=0)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(**options, inference_mode=False, enable_model_summary=False).test(task, loader, verbose=False)
    return Records.read(path)


def test_other_code_is_found_by_a_recorded_image(tmp_path, monkeypatch):
    """Neither settings nor weights differ."""
    attacks = [Clean(), Attacked(PGD(steps=2), BALL)]
    expected = rows(Own(), tmp_path, attacks)
    assert rows(Own(), tmp_path, attacks) == expected
    monkeypatch.setattr(Own, "forward", lambda self, image, noise=None: -self.linear(image.flatten(1)))
    with pytest.raises(ValueError, match=r"other weights, data or code: image 0 of 'clean' evaluated anew gives \{"):
        rows(Own(), tmp_path, attacks)


def test_a_test_goes_on_beside_an_archive(tmp_path, monkeypatch):
    attacks = [Clean(), Attacked(PGD(steps=2), BALL, keep_images=0)]
    rows(Own(), tmp_path / "run", attacks, Subset(Images(), range(5)))
    (file,) = archive(tmp_path / "run", tmp_path / "kept")
    before = file.read_bytes()
    assert rows(Own(), tmp_path / "kept", attacks) == rows(Own(), tmp_path / "whole", attacks)
    assert file.read_bytes() == before
    (part,) = (tmp_path / "kept").glob("part-*.jsonl")
    assert {row.index for row in Records.read(part)} == {*range(5, 12)}
    monkeypatch.setattr(Own, "forward", lambda self, image, noise=None: -self.linear(image.flatten(1)))
    with pytest.raises(ValueError, match="other weights, data or code"):
        rows(Own(), tmp_path / "kept", attacks)


def certificate(index, evaluations, samples, count):
    cost = Cost(evaluations=evaluations) if evaluations else None
    return certified_record(index, -1, 0.0, samples=samples, count=count, p_lower=0.1, radius_linf=0.0, cost=cost)


@pytest.mark.parametrize(("rows", "chosen"), [
    ([certificate(0, 900, 100, 60), certificate(1, 400, 100, 70), certificate(2, 200, 100, 100)], 1),
    ([certificate(0, 900, 100, 100), certificate(1, 30, 0, 0), certificate(2, 200, 100, 100)], 2),  # 1 has no sample
    ([certificate(1, 40, 0, 0), certificate(2, 30, 0, 0)], 2),
    ([clean_record(3), clean_record(2)], 2),  # nothing is known of costs: the first one
    ([clean_record(3, cost=Cost(evaluations=2.0)), clean_record(2, cost=Cost(evaluations=3.0)), clean_record(9)], 3),
    ([clean_record(9)], None),  # no image of this test
])  # fmt: skip
def test_the_cheapest_image_that_tells_is_evaluated_anew(tmp_path, rows, chosen):
    with closing(Records(tmp_path, "print")) as store:
        store.append(rows)
    data = Subset(ImageDataset(IMAGES[:6], LABELS[:6]), range(6))
    with closing(Records(tmp_path, "print")) as store:
        found = recorded_example(store, rows[0].source, data)
    assert (found and (found[0].index, int(found[1][2]))) == (chosen and (chosen, chosen))


def test_one_rank_evaluates_anew_and_the_others_wait(tmp_path, monkeypatch):
    """They end if it does."""
    checked, looks = [], []
    board = SimpleNamespace(
        put=lambda *text: checked.append(text), get=lambda name: looks.append(name) or checked or None
    )
    monkeypatch.setattr(CURRENT, "counters", board)
    monkeypatch.setattr(recorded_again, "_check", lambda *parts: checked.append("anew"))

    def run(rank):
        recorded_again.check_recorded(
            None, None, SimpleNamespace(world_size=2, is_global_zero=rank == 0), "session", None
        )

    def check():
        if len(looks) > 2 and not checked:
            raise RankLost("rank 0 has died", 3)

    monkeypatch.setattr(INTERRUPTS, "check", check)
    with pytest.raises(RankLost):
        run(1)
    assert not checked and {*looks} == {"checked session"}
    run(0)
    run(1)
    assert checked == ["anew", ("checked session", b"")]


class Large(Own):
    """Has memory for 64 rows at once."""

    def forward(self, image, noise=None):
        if len(image) > 64:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(image, noise)


@pytest.mark.filterwarnings("ignore:memory ran out", "ignore:.*does not have many workers")
def test_a_test_that_survived_without_memory_is_resumed(tmp_path):
    """The image that is evaluated anew is evaluated as the others are, in smaller calls."""
    smoothing = Smoothing(0.25, n0=32, n=256, num_classes=3, batch_size=256, alpha=0.1)
    rows(Large(), tmp_path, [Certified(smoothing)], data=Subset(Images(), range(2)))
    assert len(rows(Large(), tmp_path, [Certified(smoothing)], data=Subset(Images(), range(4)))) == 4


@pytest.mark.parametrize("change", [{"predictions": [9]}, {"label": 2, "predictions": [2]}, {"index": 40}])
def test_a_forged_row_is_found_by_the_data(tmp_path, change):
    rows(Own(), tmp_path, data=Images(IMAGES[:1], LABELS[:1]))
    for file in tmp_path.glob("*.jsonl"):
        head, row = file.read_bytes().splitlines()
        row = unsealed(row)
        change = {
            name: [2 - row["predictions"][0]] if name == "predictions" else value for name, value in change.items()
        }
        file.write_bytes(head + b"\n" + sealed(json.dumps({**row, **change})))
    with pytest.raises(ValueError, match="was made with other"):
        rows(Own(), tmp_path, data=Images(IMAGES[:1], LABELS[:1]))


class Learning(Own):
    """Adapts to its test images."""

    def forward(self, image, noise=None):
        logits = super().forward(image, noise)
        with torch.no_grad():
            self.linear.bias.data += 1e-3
        return logits


class Rewriting(Attack):
    """Writes into the weights of the classifier, out of the sight of autograd."""

    def __call__(self, classifier, image, label, threat, noise):
        next(classifier.parameters()).detach().numpy()[:] *= 0.999
        return image


@pytest.mark.parametrize(
    ("defence", "evaluators"), [(Learning(), [Clean()]), (Own(), [Attacked(Rewriting(), BALL), Clean()])]
)
def test_weights_that_were_hashed_are_the_weights_in_use(tmp_path, defence, evaluators):
    with pytest.raises(
        ValueError, match=r"classifier no longer has the weights .* linear\.\w+ changed during the test"
    ):
        rows(defence, tmp_path, evaluators)
    assert Records.read(tmp_path) == []


class Scaled(Own):
    def __init__(self, factor):
        super().__init__()
        self.scaled = lambda x: factor * x


class Said(Scaled):
    def __init__(self, factor):
        super().__init__(factor)
        self.factor = factor

    def identity(self):
        return {"factor": self.factor}


def test_what_cannot_be_determined_runs_and_is_not_resumed(tmp_path, recwarn):
    with pytest.warns(UserWarning, match=r"cannot be resumed .* classifier\.scaled: a lambda.*identity\(\)"):
        assert len(rows(Scaled(2), tmp_path / "untold")) == 12
    with pytest.raises(ValueError, match=r"cannot be determined .* classifier\.scaled: a lambda.* identity\(\)"):
        rows(Scaled(2), tmp_path / "untold")
    recwarn.clear()
    expected = rows(Said(2), tmp_path / "told")
    assert rows(Said(2), tmp_path / "told") == expected
    with pytest.raises(ValueError, match=r"classifier\.factor: 2 -> 3"):
        rows(Said(3), tmp_path / "told")
    evaluate(Scaled(2), IMAGES, LABELS, suite=[Clean()], progress=False, accelerator="cpu")
    assert not [one for one in recwarn if "resumed" in str(one.message)]


def test_an_attack_of_the_user_that_cannot_be_determined(tmp_path):
    arguments = {"suite": [lambda *inputs: inputs[1]], "verify": "off", "progress": False, "accelerator": "cpu"}
    with pytest.warns(UserWarning, match="attack.function: a lambda"):
        evaluate(Own(), IMAGES, LABELS, records=tmp_path, **arguments)
    with pytest.raises(ValueError, match="cannot be determined"):
        evaluate(Own(), IMAGES, LABELS, records=tmp_path, **arguments)


def test_data_without_a_data_module_counts(tmp_path):
    rows(Own(), tmp_path, data=Subset(Images(), range(6)))
    assert len(rows(Own(), tmp_path)) == 12
    with pytest.raises(ValueError, match="holds records of another configuration"):
        rows(Own(), tmp_path, data=Images(IMAGES * 0.5))


@dataclass(frozen=True)
class Jointly(Attack):
    """Its result depends on the size of the batch."""

    by_image = False
    not_identifying = frozenset({"by_image"})

    def __call__(self, classifier, image, label, threat, noise):
        return (image + 0.001 * len(image)).clamp(0, 1)


def test_an_attack_that_depends_on_its_batch_is_compared_on_the_clean_image(tmp_path, monkeypatch):
    evaluators = [Attacked(Jointly(), BALL)]
    expected = rows(Own(), tmp_path, evaluators)
    assert rows(Own(), tmp_path, evaluators) == expected
    monkeypatch.setattr(Own, "forward", lambda self, image, noise=None: -self.linear(image.flatten(1)))
    with pytest.raises(ValueError, match="other weights, data or code"):
        rows(Own(), tmp_path, evaluators)
    monkeypatch.undo()
    monkeypatch.setattr(Jointly, "by_image", True)
    assert rows(Own(), tmp_path, evaluators) == expected  # finished: the attack is not repeated
    rows(Own(), tmp_path / "five", evaluators, Subset(Images(), range(5)))
    with pytest.raises(ValueError, match="other weights, data or code"):
        rows(Own(), tmp_path / "five", evaluators)


def test_rows_of_other_ranks_of_the_same_start_are_not_resumed(tmp_path):
    untold = {"undetermined": ["classifier: a lambda"]}
    first = Records(tmp_path, "f", untold, rank=0, session="s")
    first.append([clean_record(0)])
    second = Records(tmp_path, "f", untold, rank=1, session="s")
    assert second.resumed == [] and second.done(Source("clean")) == {0}
    second.append([clean_record(1)])
    merged = first.merge()
    assert b"session" not in merged.read_bytes()
    with pytest.raises(ValueError, match=r"cannot be determined .* classifier: a lambda"):
        Records(tmp_path, "f", untold, session="t")


def test_a_second_test_of_the_same_records_is_refused(tmp_path):
    with another_process(lambda: lock(tmp_path)) as first:
        with pytest.raises(ValueError, match=f"{tmp_path} is being written by process {first} on "):
            rows(Own(), tmp_path)
        assert not [*tmp_path.glob("part-*")]
    assert len(rows(Own(), tmp_path)) == 12
    assert {path.name[:5] for path in tmp_path.iterdir()} == {"part-", "recor"}


def diagnosed(path, count, masking, limit=None):
    """Rows and diagnostics of a test of the first ``count`` images."""
    images = torch.rand(240, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    data = Subset(Images(images, torch.arange(240) % 3), range(count))
    attacked = Attacked(PGD(steps=4, eot=2), limit=limit)
    task = RobustTask(Own(), [Clean(), attacked], str(path), BALL, masking=masking)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(**options, inference_mode=False, enable_model_summary=False)
    trainer.test(task, DataLoader(data, batch_size=16), verbose=False)
    return Records.read(path), Records.read(path / "diagnostics")


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"count": 32, "masking": 16}, {"count": 208, "masking": 16}),  # no masking checks, then on 13 images
        ({"count": 192, "masking": 12, "limit": 8}, {"count": 240, "masking": 15, "limit": 40}),  # on 8, then on 15
        ({"count": 1, "masking": 0}, {"count": 32, "masking": 16}),  # gradients at one image, then at two
    ],
)
def test_a_longer_test_goes_on_from_a_shorter_one(tmp_path, first, then):
    """Although masking checks come in, or see more images."""
    diagnosed(tmp_path / "grown", **first)
    assert diagnosed(tmp_path / "grown", **then) == diagnosed(tmp_path / "whole", **then)
