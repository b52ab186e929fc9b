"""Notes on the page: how to read its numbers."""

COMPARISONS = """<p class="note">Differences are in percentage points, with 95 % intervals. With one decision per image
the test is the exact McNemar test and the interval Tango's score interval. For averages over several decisions the
test is the exact sign-flip test on the differences per image, over all patterns of signs, and the interval Student's.
p is two-sided. "p, Holm" is corrected for all comparisons of its table; in bold where it is below 0.05. Several seeds
of one evaluator count together.</p>
"""

CONVERGENCE = """<p class="note">An attack has converged where its curve is flat: while it still falls, more iterations,
or more draws per step, would lower the robust accuracy. The loop of an attack chooses its points by the draws that
are shown, so a curve may end below the accuracy on fresh draws, the point beside its end with a 95 % interval.</p>
"""

CONTROLS = """<p class="note">A randomised defence errs on some of many queries without any attack, so each score stands
beside that of as many decisions on the clean image, and on the image with the values of the adversarial perturbation at
random places with random signs. "Any point of its loop" is the share of images that no query of the attack saw
misclassified: robust to an attacker who submits all of them. "Worst of M" is the accuracy when an image is submitted M
times, the protocol's resubmissions.</p>
"""

READING = """<p>A randomised defence draws new noise for every query. <b>Average</b> is the accuracy of one query.
<b>Worst draw</b> (Wor@K) counts an image only if all of its K draws are correct: robust to an attacker with K queries.
It falls even without an attack, so <b>Worst draw, no attack</b> stands beside it. <b>Majority</b> (MV@K) is the vote of
the K draws. A deterministic classifier is queried once, and all of these are one number.</p>
<p>Brackets and whiskers are 95 % Clopper-Pearson intervals over images. For an average over draws the images, not the
draws, count as independent, which makes its interval rather too wide than too narrow. The intervals measure the choice
of test images; they do not bound attacks stronger than the one that was run.</p>
<p><b>Certified accuracy</b> at radius r is the share of images that are classified correctly, and provably so for every
perturbation shorter than r in L2 (pixels in [0, 1]); each certificate is wrong with probability at most alpha. It is a
lower bound on robustness. Accuracy under an attack is an upper bound.</p>
<p>A failed check does not change a number; it states why the number may be too high.</p>
"""
