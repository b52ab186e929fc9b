"""Subsets: those of the papers, prefixes that continue each other, refusals of other data sets."""

import lightning as L
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

import cli
from common.data import published_subsets as papers
from common.data.digits import Digits
from common.data.image_data import ImageData
from common.data.subsets import Balanced, Every, Jobs, Listed, Seeded
from common.records.fingerprint import settings
from common.records.store import Records
from common.tasks.recording import data_settings

# the first 500 labels of CIFAR-10's test_batch; the rest only has the right number per class
CIFAR_STARTS = (
    "3880661631095798578670495240966545924195465609397698038877467363621237268802933881172527890386466007"
    "4563113687406213042783128083524189129729656387625289600529542166848450999899375005223863405801728878"
    "5187130579745980798276943964765158804055118903192253994030098157082470236385034390610910791269346006"
    "6632618216868040775535234175461936693807262585468991022732809581941381479427070669092872251262962303"
    "9878840182793619073745002934062537372531149957502229739435465614344378378057605486855999501081180220"
)
CIFAR = torch.tensor([int(digit) for digit in CIFAR_STARTS])
CIFAR = torch.cat([CIFAR, torch.arange(10).repeat_interleave(1000 - CIFAR.bincount())])
IMAGENET = torch.arange(50_000) // 50
SEED_0 = [9394, 898, 2398, 5906, 2343]  # how NumPy's legacy permutation of 10,000 with seed 0 begins


@pytest.mark.parametrize(
    ("subset", "labels", "images"),
    [
        (papers.DiffPureCIFAR10(), CIFAR, 504),
        (papers.DiffPureCIFAR10BPDA(), CIFAR, 960),
        (papers.DiffPureImageNet(), IMAGENET, 510),
        (papers.LeeKimCIFAR10(), CIFAR, 512),
        (papers.NDCCIFAR10(), CIFAR, 512),
        (papers.NDCImageNet(), IMAGENET, 512),
        (papers.DensePureCIFAR10(), CIFAR, 500),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int | torch.Tensor) else "",
)
def test_papers_subsets_have_the_stated_number_of_distinct_images(subset, labels, images):
    order = subset.order(labels)
    assert len(order) == len(set(order)) == images
    assert min(order) >= 0 and max(order) < len(labels)
    with pytest.raises(ValueError, match="this set has 9,999"):
        subset.order(labels[:9999])
    same_beginning = torch.cat([labels[:500], torch.zeros_like(labels[500:])])
    for other in (labels.sort().values, labels.flip(0), same_beginning):
        if not torch.equal(other, labels):  # such as CIFAR-10 in folders, sorted by class
            with pytest.raises(ValueError, match="in another order"):
                subset.order(other)


def test_papers_subsets_overlap():
    diffpure, lee_kim = papers.DiffPureCIFAR10().order(CIFAR), papers.LeeKimCIFAR10().order(CIFAR)
    assert diffpure[:5] == SEED_0
    assert diffpure[:64] == lee_kim[:64]
    assert len({*diffpure} & {*lee_kim}) == 81
    assert papers.NDCCIFAR10().order(CIFAR)[:3] == [0, 1, 2]
    assert papers.DensePureCIFAR10().order(CIFAR)[:3] == [0, 20, 40]


def test_jobs_are_the_union_of_single_draws():
    drawn = [np.random.RandomState(seed).choice(10_000, 64, replace=False).tolist() for seed in range(8)]
    assert {*papers.DiffPureCIFAR10().order(CIFAR)} == {index for draw in drawn for index in draw}
    assert Jobs(1, 64).order(CIFAR) == drawn[0]
    assert Jobs(8, 64).order(CIFAR) == papers.DiffPureCIFAR10().order(CIFAR)
    with pytest.raises(ValueError, match="at most the 3 test images"):
        Jobs(1, 4).order(CIFAR[:3])


def test_a_shorter_draw_of_one_seed_begins_a_longer_one():
    order = Seeded(3).order(CIFAR[:1000])
    assert sorted(order) == list(range(1000))
    for n in (1, 64, 512):
        assert np.random.RandomState(3).choice(1000, n, replace=False).tolist() == order[:n]
    assert Seeded(4).order(CIFAR[:1000]) != order


def test_balanced_prefixes_hold_each_class_equally_often():
    labels = torch.tensor([2] * 3 + [0] * 9 + [1] * 20)
    order = Balanced(1).order(labels)
    assert sorted(order) == list(range(32))
    for m in (1, 2, 3):
        assert labels[order[: 3 * m]].bincount().tolist() == [m, m, m]
    assert labels[order[:27]].bincount().tolist() == [9, 15, 3]  # class 2 and then 0 run out
    members = [index for index in order if labels[index] == 1]
    assert members != sorted(members) and Balanced(2).order(labels) != order


def test_every_begins_at_start():
    assert Every(4, start=1).order(CIFAR[:10]) == [1, 5, 9]


@pytest.mark.parametrize("text", ["7\n2 # a comment, with 5\n\n9", "[7, 2, 9]", "7, 2,\t9\r\n", "\ufeff7 2 9"])
def test_an_index_file_is_read_in_order(tmp_path, text):
    (tmp_path / "list.txt").write_text(text)
    listed = Listed(tmp_path / "list.txt")
    assert listed.order(CIFAR) == [7, 2, 9]
    (tmp_path / "elsewhere.txt").write_text("7 2 9")
    (tmp_path / "other.txt").write_text("7 9 2")
    assert settings(Listed(tmp_path / "elsewhere.txt")) == settings(listed)
    assert settings(Listed(tmp_path / "other.txt")) != settings(listed)
    with pytest.raises(ValueError, match="must be below 9"):
        listed.order(CIFAR[:9])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got none"),
        ("# 3", "got none"),
        ("1\n-2", "indices >= 0"),
        ("3 x", "'x'"),
        ("3 4 3", r"\[3\] more than once"),
        ("1.5", "1.5"),
        ("[1, 2,", r"'\[1'"),  # cut short
        ("\udcff\udcfe1", "indices >= 0"),  # not text
    ],
)
def test_a_bad_index_file_is_refused(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=rf"list\.txt.*{message}"):
        Listed(tmp_path / "list.txt")


def test_bad_settings_are_refused():
    with pytest.raises(FileNotFoundError, match="no index file"):
        Listed("nowhere.txt")
    for make in (lambda: Seeded(-1), lambda: Balanced(2**32), lambda: Every(0), lambda: Jobs(0, 4)):
        with pytest.raises(ValueError, match=r"seed.* 2\^32|step.* >= 1|jobs.* >= 1"):
            make()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.subset=Seeded", "--data.subset.seed=5"], Seeded(5)),
        (["--data.subset", '{"class_path": "common.data.Every", "init_args": {"step": 7}}'], Every(7)),
    ],
)
def test_subsets_are_named_on_the_command_line(words, expected):
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageData, "data")
    data = parser.instantiate(parser.parse_args(["--data=Digits", *words, "--data.test_images=20"])).data
    assert isinstance(data, Digits)
    assert data.subset == expected


def test_a_bad_list_is_reported_in_one_line(tiny_test, tmp_path):
    (tmp_path / "twice.txt").write_text("3 4 3")
    listed = {"class_path": "Listed", "init_args": {"file": str(tmp_path / "twice.txt")}}
    with pytest.raises(ValueError, match=r"^\S+twice.txt must name each image once; it names \[3\] more than once$"):
        cli.main(["test", "-c", str(tiny_test(data={"subset": listed}))])


def test_records_hold_indices_of_the_whole_set():
    data = Digits(subset=Seeded(2), test_images=20, batch_size=7)
    data.setup("test")
    index = torch.cat([batch[2] for batch in data.test_dataloader()])
    image = torch.cat([batch[0] for batch in data.test_dataloader()])
    assert index.tolist() == np.random.RandomState(2).permutation(512)[:20].tolist()
    assert torch.equal(image, data.held_out.images[index])
    short = Digits(subset=Every(20), test_images=27)
    short.setup("test")
    with pytest.raises(ValueError, match="at most 26, the images of Every"):
        short.test_dataloader()


def test_the_subset_is_part_of_a_runs_identity_and_its_length_is_not():
    plain = Digits(batch_size=4).identity()
    assert plain == {"hold_out_validation": True} == Digits(test_images=3, workers=1).identity()
    assert Digits(subset=Seeded(1)).identity() == {**plain, "subset": Seeded(1)}
    assert Digits(subset=Seeded(1), test_images=9).identity() == Digits(subset=Seeded(1)).identity()
    assert settings(Digits(subset=Seeded(1)).identity()) != settings(Digits(subset=Seeded(2)).identity())


def test_arguments_of_a_subclass_count_whatever_their_name():
    class Own(ImageData):
        def __init__(self, size: int = 20, path: str = "a", chunk: int = 1, batch_size: int = 4) -> None:
            super().__init__(batch_size)
            self.size, self.path, self.chunk = size, path, chunk

    assert Own().identity() == {"size": 20, "path": "a", "chunk": 1}
    described = [data_settings(Own(**changes)) for changes in ({}, {"size": 21}, {"path": "b"}, {"chunk": 2})]
    assert all(described[0] != other for other in described[1:])
    assert data_settings(Own(batch_size=9)) == described[0]


def test_an_argument_that_is_not_kept_is_refused():
    class Forgetful(Digits):
        def __init__(self, contrast: float = 1.0) -> None:
            super().__init__()

    with pytest.raises(ValueError, match="contrast"):
        Forgetful().identity()


def test_records_name_their_subset_grow_with_it_and_refuse_another(tiny_test, rows, tmp_path):
    records = tmp_path / "records"

    def run(images, seed):
        subset = {"class_path": "Seeded", "init_args": {"seed": seed}}
        cli.main(["test", "-c", str(tiny_test(records, data={"subset": subset, "test_images": images}))])
        return [(row["evaluator"], row["index"]) for row in rows(records)]

    order = np.random.RandomState(6).permutation(512).tolist()
    assert {index for _, index in run(2, seed=6)} == {*order[:2]}
    assert run(4, seed=6) == [(name, index) for name in ("attacked", "clean") for index in sorted(order[:4])]
    stated = Records.describe(records).config["data"]
    assert stated["subset"] == {"class": "common.data.Seeded", "seed": 6}
    with pytest.raises(ValueError, match=r"data\.subset\.seed: 6 -> 7"):
        run(4, seed=7)


@pytest.mark.parametrize("keeps", ["attributes", "hyper-parameters"])
def test_a_plain_data_module_is_identified_by_its_arguments(keeps):
    """Lightning's own way of keeping arguments, ``save_hyperparameters``, counts as well."""

    class Plain(L.LightningDataModule):
        def __init__(self, path="a", batch_size=4):
            super().__init__()
            if keeps == "attributes":
                self.path = path
            else:
                self.save_hyperparameters()

    assert data_settings(Plain("a")) != data_settings(Plain("b"))
    assert data_settings(Plain("a", batch_size=9)) == data_settings(Plain("a"))
