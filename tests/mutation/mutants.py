"""Hand-chosen faults of the mathematics, one change each, and the tests of their room that should fail with it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change of a file: ``old``, which occurs exactly once, becomes ``new``; ``tests`` are files below ``tests/``.

    ``survives``: the reason why no test fails with it, empty for a mutant that must be killed.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()[:50]} -> {self.new.strip()[:50]}"


def _mutants(file: str, tests: str, *changes: tuple[str, str]) -> tuple[Mutant, ...]:
    return tuple(Mutant(file, old, new, tuple(tests.split())) for old, new in changes)


DIFFUSION = "common/diffusion"
ATTACKS, CERTIFICATION = "common/robustness/attacks", "common/robustness/certification"

MUTANTS = (
    # noise
    *_mutants(
        "common/noise.py",
        "common/test_noise.py common/diffusion/test_steps.py",
        ('int.from_bytes(digest[:8], "big") >> 1', 'int.from_bytes(digest[:2], "big")'),
        ('f"{self.seed}/{name}".encode()', 'f"{name}".encode()'),
        ("(self.seed & _MASK, self.seed >> 32)", "(self.seed & _MASK, 0)"),
        ("self.draw[:, None] * n + block", "self.draw[:, None] + block"),
    ),
    *_mutants(
        "common/philox.py",
        "common/test_noise.py",
        ("\n_ROUNDS = 10", "\n_ROUNDS = 6"),
        (".mul_(2).sqrt_()", ".sqrt_()"),
    ),
    *_mutants(
        f"{DIFFUSION}/steps.py",
        "common/diffusion/test_steps.py common/diffusion/test_solvers.py",
        ("else self.kept[k - 1]", "else self.kept[max(1, k - 1) - 1]"),
        ("self.noise.normal(k, self.like.shape[1:])", "self.noise.normal(max(1, k - 1), self.like.shape[1:])"),
        ("noise.normals(range(1, steps + 1)", "noise.normals(range(steps)"),
        ("last=k == len(ends)", "last=k == len(ends) - 1"),
        ("return self.t - self.next.t", "return self.t + self.next.t"),
    ),
    # solvers and schedules
    *_mutants(
        f"{DIFFUSION}/solvers.py",
        "common/diffusion/test_solvers.py",
        ("step.diffusion * h.sqrt()", "step.diffusion * h"),
        ("return x - h / 2 * (drift + drift_next)", "return x - h * drift_next"),
        ("(step.sigma_next**2 - c**2).sqrt() / step.sigma", "(step.sigma_next**2 + c**2).sqrt() / step.sigma"),
        (
            "(step.sigma_next / step.sigma) ** 2)\n\n    def deviation",
            "step.sigma_next / step.sigma)\n\n    def deviation",
        ),
        ("z = None if step.last else step.z", "z = step.z"),
        ("per_row(s_next * (1 - keep), x) * x0_hat", "per_row(s_next * (1 + keep), x) * x0_hat"),
    ),
    *_mutants(
        f"{DIFFUSION}/reverse_sde.py",
        "common/diffusion/test_solvers.py",
        ("return f * x - g**2 * score(", "return f * x + g**2 * score("),
        ("return f * x - g**2 / 2 * score(", "return f * x - g**2 * score("),
        ("/ (s * sigma) ** 2", "/ sigma**2"),
    ),
    *_mutants(
        f"{DIFFUSION}/schedules.py",
        "common/diffusion/test_schedules.py common/diffusion/test_denoisers.py",
        ("return torch.exp(-self._integral(t) / 2)", "return torch.exp(-self._integral(t))"),
        ("return -self._beta(t) / 2", "return -self._beta(t)"),
        ("((self.beta_max - self.beta_min) / 2))", "(self.beta_max - self.beta_min))"),
        ("rate = -torch.log1p(-beta)", "rate = beta"),
        ("return (2 * t).sqrt()", "return t.sqrt()"),
        ("(sigmas[1:] + sigmas[:-1]) / 2", "sigmas[1:]"),
    ),
    *_mutants(
        f"{DIFFUSION}/denoisers.py",
        "common/diffusion/test_denoisers.py",
        ("sigma_data**2 / total, level * sigma_data", "sigma_data / total, level * sigma_data"),
        ("return x - level * prediction", "return x + level * prediction"),
        ("scaled = x * (1 + level**2).rsqrt()", "scaled = x * (1 + level).rsqrt()"),
    ),
    # gradients
    *_mutants(
        f"{DIFFUSION}/differentiation.py",
        "common/diffusion/test_differentiation.py",
        ("return cotangent, None", "return 2 * cotangent, None"),
        ("recomputed = ctx.process.step(ctx.step, x, tensors)", "recomputed = ctx.process.step(ctx.step, x)"),
        ("not torch.equal(recomputed, results[0])", "recomputed is results[0]"),
    ),
    *_mutants(
        "agdm/potential.py",
        "agdm/test_guidance.py",
        (
            "torch.autograd.grad(potential.sum(), x, create_graph=recording)",
            "torch.autograd.grad(potential.mean(), x, create_graph=recording)",
        ),
        (
            "potential = self.log_potential(*copied(x, sigma, *embedding))\n",
            "potential = self.log_potential(*copied(x, sigma, *(e.detach() for e in embedding)))\n",
        ),
    ),
    *_mutants(
        "agdm/guidance.py",
        "agdm/test_guidance.py",
        ("potential = -self.latent_scale * distance", "potential = self.latent_scale * distance"),
        ("potential + self.label_scale * agreement(", "potential - self.label_scale * agreement("),
    ),
    *_mutants(
        "agdm/guided.py",
        "agdm/test_purifier.py agdm/test_steering.py",
        ("denoised + self.scale * per_row(sigma, x) ** 2 * g", "denoised + self.scale * per_row(sigma, x) * g"),
        ("per_row(std**2 / scale, x) * g", "per_row(std / scale, x) * g"),
    ),
    *_mutants(
        "agdm/objective.py",
        "agdm/test_objective.py",
        ("natural + self.weight * robust", "natural - self.weight * robust"),
        (
            "robust = kl(network(to_model(adv) + other, sigma)[1], logits)",
            "robust = kl(network(to_model(image) + other, sigma)[1], logits)",
        ),
    ),
    # likelihood maximisation
    *_mutants(
        "diffpure/likelihood_bound.py",
        "diffpure/test_likelihood_maximisation.py",
        ("value = -(share", "value = (share"),
        ("create_graph=True", "create_graph=recording"),
        ("centre + (x - centre)", "centre.detach() + (x - centre.detach())"),
        ("self.weight](sigma) / n", "self.weight](sigma)"),
        ("sigma**-3", "sigma**-2"),
        ("torch.enable_grad(), twice_differentiable()", "torch.enable_grad()"),
    ),
    *_mutants(
        "diffpure/ascent.py",
        "diffpure/test_likelihood_maximisation.py",
        ("denoise.project(x + self.lr * moved)", "x + self.lr * moved"),
        ("second**0.5 * root", "second * root"),
        ("m / (1 - first**k)", "m"),
        ("x.clamp(-1, 1) if step.last else x", "x"),
    ),
    *_mutants(
        "diffpure/likelihood_maximisation.py",
        "diffpure/test_likelihood_maximisation.py",
        ("low + (high - low) * share", "(low + high) / 2 + 0 * share"),
        ("() if self.distilled else (self.denoiser,)", "()"),
        ("eta=sigma_to_model(self.eta)", "eta=self.eta"),
    ),
    # attacks and threats
    *_mutants(
        f"{ATTACKS}/pgd.py",
        f"{ATTACKS}/test_pgd.py",
        ('eot(adv, loss, f"restart {restart} step {step}"', 'eot(adv, loss, f"restart {restart}"'),
        ("ball.project(image[rows], self._ascend(", "ball.project(adv, self._ascend("),
        ("PATHS[ball.norm] * ball.eps / self.steps", "PATHS[ball.norm] * ball.eps"),
    ),
    *_mutants(
        f"{ATTACKS}/apgd_steps.py",
        f"{ATTACKS}/test_apgd_steps.py {ATTACKS}/test_strong_attacks.py",
        ("_RISING = 0.75", "_RISING = 0.6"),
        ("_MOMENTUM = 0.75", "_MOMENTUM = 0.5"),
        ("period = max(period - 3, 6)", "period = max(period - 6, 6)"),
        (
            "stuck = ~self.changed & (self.best_loss <= self.marked_loss)",
            "stuck = ~self.changed & (self.best_loss < self.marked_loss)",
        ),
    ),
    *_mutants(
        f"{ATTACKS}/climb.py",
        f"{ATTACKS}/test_staged.py",
        ("_MOMENTUM = 0.75", "_MOMENTUM = 0.0"),
        ("(1 + math.cos(math.pi * step / self.steps)) / 2", "1.0"),
        ('f"{starts.name} step {step}"', "starts.name"),
        ("ball.eps / (self.steps + 1)", "ball.eps / self.steps"),
    ),
    *_mutants(
        f"{ATTACKS}/staged.py",
        f"{ATTACKS}/test_staged.py",
        ("_FAR, _NEAR, _NEARER = 2.0, 0.4, 0.2", "_FAR, _NEAR, _NEARER = 0.2, 4.0, 2.0"),
        ("_FAR, _NEAR, _NEARER = 2.0, 0.4, 0.2", "_FAR, _NEAR, _NEARER = 2.0, 0.2, 0.4"),
        ("self.refine_eot, starts", "self.eot, starts"),
    ),
    Mutant(
        f"{ATTACKS}/staged.py",
        'noise.stream("held out")',
        "noise",
        (f"{ATTACKS}/test_staged.py",),
        survives="`Candidates` names its stream too: no climb has that name, so that the draws are still its own",
    ),
    *_mutants(
        f"{ATTACKS}/candidates.py",
        f"{ATTACKS}/test_staged.py",
        ("(1 + _squashed(estimate.margin)) / (4 * estimate.draws)", "(1 + _squashed(estimate.margin)) * 4"),
        ('margin, "held out", rows', 'margin, f"held out {len(self.points)}", rows'),
        ("descending=True", "descending=False"),
        ("|= estimate.accuracy == 0", "|= estimate.accuracy < 1"),
    ),
    *_mutants(
        f"{ATTACKS}/ensemble.py",
        f"{ATTACKS}/test_ensemble.py",
        (".max(0)", ".min(0)"),
        ("for _, estimate in runs]).any(0)", "for _, estimate in runs]).all(0)"),
        ("rows = best.active", "rows = torch.arange(len(self.image))"),
    ),
    *_mutants(
        f"{ATTACKS}/fab.py",
        f"{ATTACKS}/test_fab.py",
        ("_OVERSHOOT = 1.05", "_OVERSHOOT = 1.5"),
        ("_BIAS = 0.1 ", "_BIAS = 0.01 "),
        ("_BACK = 0.9", "_BACK = 0.5"),
    ),
    *_mutants(
        f"{ATTACKS}/square.py",
        f"{ATTACKS}/test_square.py",
        ("_HALVINGS = (10, 50, 200,", "_HALVINGS = (1000, 5000, 6000,"),
        ("query * 10_000 > after", "query * 10_000 >= 2 * after"),
        ("math.sqrt(self.window /", "(self.window /"),
    ),
    *_mutants(
        f"{ATTACKS}/eot.py",
        f"{ATTACKS}/test_pgd.py",
        (
            "noise.stream(stream)).draws(self.draws)\n",
            "noise.stream(stream)).draws(1).rows(torch.arange(len(noise)).repeat_interleave(self.draws))\n",
        ),
        ("losses.view(-1, n).mean(1)", "losses.view(-1, n).amax(1)"),
    ),
    *_mutants(
        "common/robustness/losses.py",
        f"{ATTACKS}/test_pgd.py {ATTACKS}/test_strong_attacks.py common/robustness/test_losses.py",
        ("_positive(top[:, 0] - top[:, 2])", "_positive(top[:, 0] - top[:, 1])"),
        (
            "return _best_other(logits, label) - _at(logits, label)",
            "return _at(logits, label) - _best_other(logits, label)",
        ),
        ("(log_q - logits.log_softmax(1))).sum(1)", "(logits.log_softmax(1) - log_q)).sum(1)"),
    ),
    *_mutants(
        "common/robustness/threats/projection.py",
        "common/robustness/threats/test_norm_ball.py",
        ("(d.abs() - multiplier).clamp(min=0)", "(d.abs() - multiplier / 2).clamp(min=0)"),
        ("image - eps), image + eps).clamp(0, 1)", "image - eps), image + eps)"),
    ),
    Mutant(
        "common/robustness/threats/projection.py",
        "return (centre + shrunk(high))",
        "return (centre + shrunk(low))",
        ("common/robustness/threats/test_norm_ball.py",),
        survives="after 60 halvings both ends of the interval round to the same image",
    ),
    # certificates
    *_mutants(
        f"{CERTIFICATION}/binomial.py",
        f"{CERTIFICATION}/test_smoothing.py {CERTIFICATION}/test_sequential.py",
        ("beta.ppf(alpha, k, n - k + 1)", "beta.ppf(alpha, k, n - k)"),
        ("norm.cdf(radius / sigma)", "norm.cdf(radius)"),
    ),
    *_mutants(
        f"{CERTIFICATION}/smoothing.py",
        f"{CERTIFICATION}/test_smoothing.py",
        ("if p_lower <= 0.5:", "if p_lower <= 0.4:"),
        ("self.level * float(norm.ppf(p_lower))", "float(norm.ppf(p_lower))"),
        ('noise.stream("select"), self.n0', 'noise.stream("estimate"), self.n0'),
        (
            'return image + self.level * rows.stream("gaussian").normal(0, image.shape[1:], image.dtype)',
            'return (image + self.level * rows.stream("gaussian").normal(0, image.shape[1:], image.dtype)).clamp(0, 1)',
        ),
    ),
    *_mutants(
        f"{CERTIFICATION}/preconditions.py",
        f"{CERTIFICATION}/test_preconditions.py",
        ("_TOLERANCE = 0.02", "_TOLERANCE = 0.5"),
    ),
    *_mutants(
        f"{CERTIFICATION}/forecast.py",
        f"{CERTIFICATION}/test_forecast.py",
        ("error = self.error / len(self.stages)", "error = self.error"),
    ),
    *_mutants(
        f"{CERTIFICATION}/forecast.py",
        f"{CERTIFICATION}/test_exact_forecasts.py",
        ("size - count > n - needed", "size - count >= n - needed"),
        ("hypergeom.sf(count - 1, n, needed - 1, size)", "hypergeom.sf(count, n, needed - 1, size)"),
        ("hypergeom.cdf(count, n, needed, size)", "hypergeom.cdf(count, n, needed - 1, size)"),
        ("count * self.n >= needed * size", "count * self.n > needed * size"),
        ("self.n0 // 2, self.n0", "self.n0 // 2 - 1, self.n0"),
    ),
    *_mutants(
        f"{CERTIFICATION}/sequential.py",
        f"{CERTIFICATION}/test_exact_stops.py",
        ("count + self.n - size >= needed and ", ""),
        ("needed_probability(self.level, r) > p_lower", "needed_probability(self.level, r) >= p_lower"),
        ("self.n, self._alpha_per_stage) > self.n", "self.n, self.alpha) > self.n"),
    ),
    *_mutants(
        f"{CERTIFICATION}/sequential.py",
        f"{CERTIFICATION}/test_sequential.py",
        ("return self.alpha / len(self.stages)", "return self.alpha"),
        (
            "1.0 - clopper_pearson_lower(size - count, size, self.futility)",
            "1.0 - clopper_pearson_lower(count, size, self.futility)",
        ),
    ),
    *_mutants(
        "common/report/tables/verdicts.py",
        "common/report/tables/test_verdicts.py",
        ("comparable(run, one) == comparable(other, forecast)", "True"),
        (" if radius in (targets(one) or [radius])", ""),
    ),
    # NDC's likelihood
    *_mutants(
        "ndc/likelihood.py",
        "ndc/test_likelihood.py ndc/test_classifier.py",
        ("((sigma - sigma_tau) * (sigma + sigma_tau)).sqrt()", "sigma - sigma_tau"),
        ("sigma_tau**2 / spread, w,", "sigma_tau / spread, w,"),
        ("return 2 * pull.view(-1, 1, 1)", "return pull.view(-1, 1, 1)"),
        ("(sigma_t + sigma) / (2 * sigma)", "(sigma_t + sigma) / sigma"),
        ("1.0 - 2 * (i % 2) for i in nodes", "1.0 for i in nodes"),
    ),
    *_mutants(
        "ndc/noise_weights.py",
        "ndc/test_noise_weights.py ndc/test_likelihood.py",
        ("/ (2 * self.std**2)", "/ self.std**2"),
        ("edm_weight(sigma, self.sigma_data) * self.density(sigma)", "self.density(sigma)"),
    ),
    *_mutants(
        "ndc/lipschitz_bounds.py",
        "ndc/test_lipschitz.py ndc/test_lipschitz_bounds.py",
        ("7 * width * log / (3 * (n - 1))", "0 * width * log / (3 * (n - 1))"),
        ("worst = (a / 2).clamp(low, high)", "worst = low"),
        ("return 2 * weight * (2 * dc", "return weight * (2 * dc"),
    ),
    *_mutants(
        "ndc/elimination.py",
        "ndc/test_elimination.py ndc/test_elimination_logits.py",
        ("estimate = (total * values.mean(0) + prior)", "estimate = (values.sum(0) + prior)"),
        ("share = total / visited.to(prior)", "share = torch.ones_like(visited).to(prior)"),
    ),
    # training
    *_mutants(
        "common/tasks/muon.py",
        "common/tasks/test_muon.py",
        ('gradient + group["momentum"] * momentum', "momentum"),
        ("square.sqrt().add_(1e-8)", "square.sqrt().add_(1e-6)"),
    ),
    # fingerprints and intervals
    *_mutants(
        "common/records/description.py",
        "common/records/test_hidden_values.py common/records/test_description.py",
        ('return {"unsaved weights": hashed} if unsaved else {}', "return {}"),
        ("self.cheap or sorted(part) == [*part]", "True"),
    ),
    *_mutants(
        "common/records/methods.py",
        "common/records/test_hidden_values.py",
        ("found[name] = cell.cell_contents", "cell.cell_contents"),
    ),
    *_mutants(
        "common/records/checksums.py",
        "common/records/test_checksums.py common/tasks/test_drift.py",
        ("return (values * (factor | 1)).sum()", "return values.sum()"),
    ),
    *_mutants(
        "common/tasks/weights_in_use.py",
        "common/tasks/test_drift.py",
        ("if refused := [name for name, integer in moved.items() if not integer]:", "if refused := []:"),
    ),
    *_mutants(
        "common/records/intervals.py",
        "common/records/test_store.py common/records/test_paired.py common/report/test_report.py",
        ("tail = (1 - level) / 2", "tail = 1 - level"),
        ("betaincinv(successes + 1, n - successes", "betaincinv(successes, n - successes"),
    ),
    *_mutants(
        "common/records/paired.py",
        "common/records/test_paired.py",
        ("2 * float(share[(sum(sizes) + total) // 2 :].sum())", "float(share[(sum(sizes) + total) // 2 :].sum())"),
        ("b * b + 8 * n * lost * delta", "b * b + 4 * n * lost * delta"),
        ("(len(p) - rank) * p[place]", "len(p) * p[place]"),
    ),
    *_mutants(
        "common/records/worst_case.py",
        "common/records/test_store.py common/records/test_schema.py",
        ("for chosen, scored in (halves, halves[::-1])", "for chosen, scored in (halves[:1] * 2, halves)"),
    ),
)
