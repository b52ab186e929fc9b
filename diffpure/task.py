"""DiffPureTask: test a classifier behind DiffPure."""

from typing import Any

from common.diffusion.purifiers import Purifier
from common.robustness.classifiers import Classifier, Purified
from common.tasks.robust import RobustTask


class DiffPureTask(RobustTask):
    """Test ``classifier`` behind DiffPure (arXiv 2205.07460): ``robust-diffusion test -c configs/diffpure/….yaml``.

    Attacks differentiate the composition; the purifier's ``gradient`` is the mode of its differentiation.

    Parameters
    ----------
    purifier:
        A ``DiffPure``, one of its variants, or several in a chain.
    classifier:
        Classifier of purified images.
    args, kwargs:
        The other arguments of ``RobustTask``: evaluators, records, threat, verify, masking, engine.
    """

    def __init__(self, purifier: Purifier, classifier: Classifier, *args: Any, **kwargs: Any) -> None:
        super().__init__(Purified(purifier, classifier), *args, **kwargs)
