"""Invalid suites are refused before any network is loaded; the suites of configs layer over any defence."""

from pathlib import Path

import pytest
import yaml

import cli

SUITES = sorted((Path(__file__).parents[3] / "configs" / "suites").glob("*.yaml"))
THREAT = {"class_path": "common.robustness.ThreatModel", "init_args": {"norm": "inf", "eps": "8/255"}}


def loader(name):
    return {"class_path": f"common.checkpoints.load_{name}", "init_args": {"path": f"missing/{name}.safetensors"}}


def attacked(attack=None, **settings):
    attack = {"class_path": "common.robustness.PGD", "init_args": attack or {}}
    return {"class_path": "common.robustness.Attacked", "init_args": {"attack": attack, **settings}}


def config_of(evaluators, threat=THREAT):
    purifier = {
        "class_path": "diffpure.DiffPure",
        "init_args": {"denoiser": loader("denoiser"), "t_star": 0.1},
    }
    arguments = {"purifier": purifier, "classifier": loader("classifier"), "evaluators": evaluators, "threat": threat}
    model = {"class_path": "diffpure.DiffPureTask", "init_args": arguments}
    return {"model": model, "data": {"class_path": "common.data.Digits"}, "trainer": {"logger": False}}


def run(tmp_path, *configs):
    files = []
    for number, config in enumerate(configs):
        files += ["-c", str(tmp_path / f"{number}.yaml")]
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(config))
    cli.main(["test", *files])


@pytest.mark.parametrize(
    ("evaluators", "message"),
    [
        ([attacked({"loss": "hinge"})], "loss must be one of"),
        ([attacked({"eot": 0})], "eot must be an integer >= 1; got 0"),
        ([attacked(draws=5, resubmissions=10)], "resubmissions M must be in"),
        ([attacked(seed=[2, 2])], "seeds must be distinct"),
        ([attacked(), attacked()], "distinct names"),
        ([attacked(rule="majority")], "votes must be"),
    ],
)
def test_a_bad_suite_is_refused_before_a_network_is_loaded(tmp_path, evaluators, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, config_of(evaluators))


def test_an_attack_without_a_threat_is_refused(tmp_path):
    with pytest.raises(ValueError, match="attacks without a threat"):
        run(tmp_path, config_of([attacked()], threat=None))


def test_duplicate_indices_are_refused(tmp_path):
    (tmp_path / "list.txt").write_text("4 5 4")
    config = config_of([attacked()])
    subset = {"class_path": "common.data.Listed", "init_args": {"file": str(tmp_path / "list.txt")}}
    config["data"]["init_args"] = {"subset": subset}
    with pytest.raises(ValueError, match="must name each image once"):
        run(tmp_path, config)


def test_a_good_suite_gets_to_the_networks(tmp_path):
    transfer = {
        "class_path": "common.robustness.Transfer",
        "init_args": {"source": loader("classifier"), "attack": {"class_path": "common.robustness.PGD"}},
    }
    second = attacked(name="transfer")
    second["init_args"]["attack"] = transfer
    with pytest.raises(FileNotFoundError, match=r"missing/denoiser\.safetensors"):
        run(tmp_path, config_of([attacked(), second]))


def test_a_layered_suite_replaces_the_evaluators(tmp_path):
    layer = {"model": {"init_args": {"evaluators": [attacked({"eot": 0})]}}}
    with pytest.raises(ValueError, match="eot must be an integer >= 1"):
        run(tmp_path, config_of([attacked()]), layer)


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
@pytest.mark.parametrize("norm", ["inf", 2])
def test_the_suites_layer_over_any_defence(tmp_path, suite, norm):
    """Everything is built, names and threats included; only the network's file is missing."""
    threat = {"class_path": THREAT["class_path"], "init_args": {"norm": norm, "eps": 0.1}}
    with pytest.raises(FileNotFoundError, match=r"missing/denoiser\.safetensors"):
        run(tmp_path, config_of([attacked({"eot": 0})], threat), yaml.safe_load(suite.read_text()))
