"""Step sizes of gradient attacks, compared with their threat: those written in units of 0..255 are refused."""

import math
import warnings

from common.robustness.threats.norm_ball import LARGEST, ThreatModel


def check_step_size(size: float, ball: ThreatModel, steps: int, sign: bool = False) -> None:
    """Raise ``ValueError`` for a step beyond the pixel range, and warn of one that passes over the ball.

    ``size`` is in pixel units; ``sign``: the same in every pixel, whatever the norm. In L-inf and L2 a step of 2 eps
    leads across the ball, and one of eps, of several, from its centre to its surface. In L1 the largest coordinate
    alone moves by ``size``, and any length may pay.
    """
    largest = 1.0 if sign else LARGEST[ball.norm]
    if size > largest:
        raise ValueError(
            f"step_size must be in pixel units, at most {largest:g} in {ball.name}; got {size:g}. Write {size:g}/255"
        )
    if ball.norm == 1 or (sign and ball.norm != math.inf):
        return
    if size > 2 * ball.eps * (1 + 1e-6) or (steps > 1 and size > ball.eps * (1 + 1e-6)):
        warnings.warn(
            f"step_size {size:.4g} is larger than eps {ball.eps:.4g} in {ball.name}: each of {steps} steps ends at the "
            "surface of the ball, so the attack may be weak. Both are in pixel units, such as 2/255",
            stacklevel=4,
        )
