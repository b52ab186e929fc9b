"""Short names of public classes and functions: ``PGD`` for ``common.robustness.PGD``.

They are the names in ``import robust_diffusion as rd; rd.PGD``, in YAML (``class_path: PGD``) and on the command line.
The table is written out, so that reading it imports neither torch nor a room; a test compares it with the rooms.
"""

from common.naming.nearest import nearest

_EXPORTS = {
    "agdm": """
        AGDM AGDMTask AdaptedNetwork AdversarialGuidance ClassifierGuidance ContrastiveGuidance Guidance
        GuidanceClassifier GuidanceNetwork GuidanceTask PixelGuidance PlainGuidance Potential Steering Trades TradesLoss
        gdmp_scale""",
    "diffpure": """
        AdamAscent Block DiffPure DiffPureTask FixedLevel GradientAscent GradualNoise Langevin LangevinDiffPure
        LikelihoodMaximisation RandomisedDiffPure contraction_rate drift_integral fisher_divergence kl_divergence
        mean_reconstruction_bound noise_radius paired_kl_bound random_sign_kl_bound reconstruction_bound
        theory_curves""",
    "ndc": """
        BoundedDiffusionClassifier Claimed DenoisedClassifier Denoising ELBO Elimination Flat Lipschitz LogNormal
        NDCTask Nodes NoisedDiffusionClassifier Posterior Reduction ReferenceWeight
        Sifting Weight""",
    "common.api": "Predictions Result certify compare evaluate predict",
    "common.checkpoints": "load_classifier load_denoiser load_network save",
    "common.data": """
        Augmentation Balanced CIFAR10 CIFAR100 CelebAHQ Crop DensePureCIFAR10 DiffPureCIFAR10 DiffPureCIFAR10BPDA
        DiffPureImageNet Digits Every Folder ImageData ImageDataset ImageFileData ImageFiles ImageNet InMemory Jobs
        LeeKimCIFAR10 Listed NDCCIFAR10 NDCImageNet SVHN Seeded Subset Synthetic""",
    "common.diffusion": """
        Adjoint Ancestral BPDA BoundDenoiser Chain Checkpoint ClassifierFree Clipped DDIM DDPM Denoiser Differentiation
        DiffusionPurifier EDM EDMDenoiser EpsDenoiser EulerMaruyama FixedNoise Full ProbabilityFlowEuler
        ProbabilityFlowHeun Process Purifier Repeated Resized RowGrid Sampler Schedule ScoreDenoiser Solver Step
        Surrogate TimeGrid TorchSDE VDenoiser VP X0Denoiser""",
    "common.diffusion.networks": "ADM Blocked DDPMUNet DDPMpp EDMADM NCSNpp UNet2D",
    "common.engine": "Engine Meter",
    "common.exact": "ExactDenoiser GaussianMixture",
    "common.hub": "Card fetch get_card load_weights published_classifier published_denoiser published_network",
    "common.networks": "CIFARResNet Mirrored SmallCNN TimmNetwork WhitenedConvNet WideResNet",
    "common.noise": "Noise",
    "common.records": """
        AttackedRecord CertifiedRecord ClaimedRecord CleanRecord Cost ForecastRecord GradientCheckRecord Kind Record
        Records Role Source Summary""",
    "common.robustness": """
        APGD Attack AttackResult Attacked AutoAttack Baseline Certificate Certified Certifier Classifier
        ClassifierWrapper Clean DiffAttack DiffHammer EOTLoss Evaluator FAB Forecast FunctionAttack GradientCheck
        KnownNoise LPIPS LowFrequency NetworkClassifier Objective PGD PGDTraining Perceptual Purified
        ReferenceAutoAttack Sequential SmoothedPrediction Smoothing SpatialThreat Square StAdv Staged Threat ThreatModel
        Through TorchAttacks TradesTraining Transfer Voting attacking cross_entropy require_norm_ball""",
    "common.tasks": """
        ClassifierTask DenoiserTask FastClassifierTask Muon MuonRecipe OpenEndedDenoiserTask OpenEndedRecipe
        PowerAveraging Recipe RobustTask TrainingTask""",
}
"""Names that each room offers to users."""

SHORT_NAMES: dict[str, str] = {name: f"{room}.{name}" for room, names in _EXPORTS.items() for name in names.split()}
"""Public name of each short name."""


def resolve_short_name(name: str) -> str:
    """The public name of a short name. Raises ``ValueError`` for an unknown one, with the nearest names."""
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    found = nearest_short_names(name)
    advice = f"Did you mean {' or '.join(found)}?" if found else "A class of your own needs its module: file.Name."
    raise ValueError(f"no class or function of this project is named {name!r}. {advice}")


def nearest_short_names(name: str, count: int = 3) -> list[str]:
    """At most ``count`` short names that resemble ``name``, the nearest first; upper and lower case count as equal."""
    return nearest(name, SHORT_NAMES, count)
