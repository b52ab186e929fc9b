"""Names of attacks in the table of protocols, from the description of a run."""

from common.records.fingerprint import identify
from common.report.tables.protocol import attack_name
from common.robustness.attacks.auto_attack import AutoAttack
from common.robustness.attacks.pgd import PGD
from common.robustness.attacks.staged import Staged
from common.robustness.attacks.through import Through


def test_the_name_of_an_attack_says_which_version_ran():
    named = {
        "AutoAttack standard, assembled": AutoAttack(implementation="assembled"),
        "AutoAttack rand, assembled": AutoAttack("rand", implementation="assembled"),
        "reduced AutoAttack standard, assembled": AutoAttack(steps=10),
        "Through(PGD)": Through(PGD()),
        "Staged": Staged(),
    }
    for name, attack in named.items():
        assert attack_name(identify({"attack": attack})[1]["attack"]) == name
