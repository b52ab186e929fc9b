"""Values that are nothing in float32 are refused by name where an attack or a threat would do nothing with them."""

import pytest

from common.diffusion.schedules import VP
from common.robustness import PGD, Perceptual, Smoothing, SpatialThreat, StAdv, ThreatModel
from common.robustness.adversarial_training import InnerMaximum

LINF = ThreatModel("inf", 0.1)
TINY = {
    "step_size of PGD": (lambda value: PGD(step_size=value), "step_size"),
    "step_size of a training": (lambda value: InnerMaximum(LINF, step_size=value), "step_size"),
    "eps in Linf": (lambda value: ThreatModel("inf", value), "eps"),
    "eps in L2": (lambda value: ThreatModel(2, value), "eps"),
    "eps of a flow": (lambda value: SpatialThreat(value), "eps"),
    "sigma": (lambda value: Smoothing(value), "sigma"),
}
SMALL = {
    "learning_rate": (lambda value: StAdv(learning_rate=value), "learning_rate"),
    "beta_min": (lambda value: VP(beta_min=value), "beta_min"),
    "eps of a metric": (lambda value: Perceptual(value, lambda a, b: a), "eps"),
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("value", [1e-320, 1e-45, 1e-30, 1e-12])
def test_lengths_that_change_no_pixel_are_refused(name, value):
    make, argument = TINY[name]
    with pytest.raises(ValueError, match=rf"{argument}.* must be at least 9.31e-10, else no pixel"):
        make(value)
    make(1e-6)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("value", [1e-320, 1e-45])
def test_numbers_that_are_zero_in_float32_are_refused(name, value):
    make, argument = SMALL[name]
    with pytest.raises(ValueError, match=rf"{argument}.* must be at least 1.18e-38, else it is 0 in float32"):
        make(value)


@pytest.mark.parametrize("value", [1e4, 1e30, 1e308])
def test_a_smoothness_beside_which_float32_loses_the_loss_is_refused(value):
    with pytest.raises(ValueError, match=r"smoothness must be a finite number <= 1000; got .*loses the loss"):
        StAdv(smoothness=value)
    StAdv(smoothness=1e3)
