"""Records of a report and the parsed page, for the tests of the report."""

import xml.etree.ElementTree as ET

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import betainc

from common.records.schema import Cost
from common.records.store import Records
from common.robustness.evaluation.stored_images import encode
from tests.common.records.made import attacked_record, certified_record, clean_record

N, DRAWS = 40, 5
ACCURACY = "Accuracy, %"
CONFIG = {
    "classifier": {
        "class": "common.robustness.Purified",
        "purifier": {"class": "diffpure.DiffPure", "gradient": {"class": "x.Checkpoint"}, "t_star": 0.1},
        "randomised": True,
    },
    "evaluators": [
        {"class": "x.Clean", "name": "clean", "draws": DRAWS},
        {
            "class": "x.Attacked",
            "name": "pgd",
            "attack": {"class": "a.pgd.PGD", "steps": 20, "eot": 4, "restarts": 1, "random_start": True, "loss": "dlr"},
            "threat": {"class": "x.ThreatModel", "eps": 8 / 255, "norm": "inf"},
        },
        {"class": "x.Certified", "name": "certified", "smoothing": {"sigma": 0.25, "n0": 10, "n": 100, "alpha": 0.001}},
    ],
}


def guesses(seed, chance):
    random = np.random.default_rng(seed)
    return np.where(random.random((N, DRAWS)) < random.beta(8 * chance, 8 * (1 - chance), (N, 1)), 1, 2).tolist()


def clean(name="clean", seed=0):
    cost = Cost(seconds=0.5)
    return [clean_record(i, g, evaluator=name, cost=cost) for i, g in enumerate(guesses(seed, 0.95))]


def attacked(name="pgd", seed=1, chance=0.5, **values):
    flags = {"zero_gradient": False, "probabilities": False, "repeatable": True}
    control, rows = guesses(seed + 100, 0.95), []
    for i, g in enumerate(guesses(seed, chance)):
        entry = {"clean_predictions": control[i], "distance": 0.03, **flags, **values}
        if i < 3:
            image = torch.full((1 + 2 * (i == 2), 4, 4), i / 4)
            entry["images"] = {"clean": encode(image), "adversarial": encode(image + 0.1), "purified": encode(image)}
        rows.append(attacked_record(i, g, evaluator=name, **entry))
    return rows


def certified(name="certified", seed=2):
    random = np.random.default_rng(seed)
    outcomes = zip(random.choice([1, 1, 1, 2, -1], N).tolist(), random.gamma(4, 0.1, N).tolist(), strict=True)
    return [
        certified_record(i, guess, 0.0 if guess < 0 else radius, evaluator=name)
        for i, (guess, radius) in enumerate(outcomes)
    ]


def write(path, *groups, config=CONFIG):
    records = Records(path, "fingerprint", config)
    for group in groups:
        records.append(group)
    return path


def exact(k, n):
    """Clopper-Pearson by its definition, also between counts: the p at which a tail has 2.5 %."""
    low = brentq(lambda p: betainc(k, n - k + 1, p) - 0.025, 0, 1) if k else 0.0
    high = brentq(lambda p: betainc(k + 1, n - k, p) - 0.975, 0, 1) if k < n else 1.0
    return k / n, low, high


def shown(triple):
    return f"{100 * triple[0]:.1f}", f"[{100 * triple[1]:.1f}, {100 * triple[2]:.1f}]"


def texts(element):
    return " ".join("".join(element.itertext()).split())


def page_of(path):
    """The page as XML: fails unless every tag is closed."""
    return ET.fromstring(path.read_text(encoding="utf-8"))


def table_rows(page, title):
    (table,) = [table for table in page.iter("table") if texts(table.find("caption")).startswith(title)]
    return [[texts(cell) for cell in row] for row in table.find("tbody")]
