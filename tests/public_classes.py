"""Valid arguments of every public class, as small as it can be built, for the tests that walk through all of them."""

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import robust_diffusion as rd
import torch
from torch import nn

from common.diffusion.reverse_process import Sampler
from common.diffusion.steps import Levels
from common.naming import SHORT_NAMES, import_public
from common.noise import Noise
from common.numerics.finding import Finding
from common.records.schema import Record, Source
from common.report.runs import Run


class Body(nn.Module):
    """Network of a denoiser: any arguments, the image itself."""

    def forward(self, x: torch.Tensor, *others: object) -> torch.Tensor:
        return x


def classes() -> dict[str, type]:
    """Public classes by their short names, without interfaces, bases that hold nothing, and enumerations."""
    found = {name: import_public(public) for name, public in SHORT_NAMES.items()}
    made = {name: one for name, one in found.items() if inspect.isclass(one) and not inspect.isabstract(one)}
    return {name: one for name, one in made.items() if one is not Record and arguments_of(one)}


def arguments_of(one: type) -> list[str]:
    """Names of the arguments of a class, those that it hands on to a base included."""
    if getattr(one, "_is_protocol", False) or hasattr(one, "__members__") or one.__init__ is object.__init__:
        return []
    parameters = inspect.signature(one).parameters.values()
    own = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    handed_on = any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
    if not handed_on or (not own and issubclass(one, nn.Module) and one.__init__ is nn.Module.__init__):
        return own
    above = next(base for base in one.__mro__[1:] if "__init__" in vars(base))
    return [*own, *(name for name in arguments_of(above) if name not in own and name != "classifier")]


@cache
def examples(folder: Path) -> dict[str, dict[str, Any]]:
    """Arguments of each class by its short name. ``folder`` holds an index file ``indices.txt`` and ``names.txt``."""
    image, label, index = torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), torch.tensor([0, 1])
    noise, schedule, time = Noise.of(0, index), rd.VP(), torch.tensor(0.1, dtype=torch.float64)
    denoiser = rd.EDMDenoiser(Body(), num_classes=2)
    plain = rd.EDMDenoiser(Body())
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    classifier = rd.NetworkClassifier(network)
    purifier = rd.DiffPure(plain, 0.1, steps=2)
    phi = rd.GuidanceNetwork(1, 2, width=8, strides=(1,))
    guidance = rd.AdversarialGuidance(phi)
    guided = rd.AGDM(plain, guidance, 0.1, steps=2)
    threat, attack = rd.ThreatModel("inf", "8/255"), rd.PGD()
    sampler = Sampler(schedule, rd.EulerMaruyama(), rd.TimeGrid((0.1, 0.05)))
    levels = Levels.along(schedule, torch.tensor([0.1, 0.05], dtype=torch.float64), image)
    evaluator = {"name": "one", "seed": 0, "limit": None, "role": rd.Role.RESULT}
    smoothing = {"sigma": 0.25, "n0": 10, "n": 100, "alpha": 0.001, "num_classes": 2, "batch_size": 8}
    eps = {"network": Body(), "schedule": rd.DDPM(10)}
    diffusion = {"denoiser": plain, "t_star": 0.1, "steps": 2}
    row = {"evaluator": "clean", "index": 0, "label": 0}
    certified = {**row, "prediction": 0, "radius": 0.1, "radius_linf": 0.01, "p_lower": 0.9, "samples": 9}
    attacked = {**row, "predictions": [0], "clean_predictions": [0], "distance": 0.1, "norm": "Linf", "eps": 0.1}
    data = {"batch_size": 2, "size": 4}
    recipe, task = rd.Recipe(), {"records": "records", "masking": 0}
    unet = {"sample_size": 8, "block_out_channels": [32], "down_block_types": ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"], "layers_per_block": 1}  # fmt: skip
    folders = {"root": folder, **data}
    return {
        # methods
        "AGDM": {**diffusion, "guidance": guidance, "scale": 1.0},
        "AGDMTask": {"purifier": guided, "classifier": classifier, "evaluators": [rd.Clean()], **task},
        "AdaptedNetwork": {"network": nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 2)), "time": True},
        "AdversarialGuidance": {"network": phi},
        "ClassifierGuidance": {"classifier": classifier},
        "ContrastiveGuidance": {"network": phi, "negatives": image},
        "GuidanceClassifier": {"network": phi},
        "GuidanceNetwork": {"in_channels": 1, "num_classes": 2, "width": 8, "strides": (1,)},
        "GuidanceTask": {"network": phi, "objective": rd.Trades(threat), "num_classes": 2, "recipe": recipe},
        "PixelGuidance": {},
        "PlainGuidance": {"guidance": guidance},
        "Steering": {},
        "Trades": {"threat": threat},
        "TradesLoss": {"natural": image, "robust": image, "total": image},
        "AdamAscent": {"lr": 0.1},
        "Block": {"t_star": 0.1},
        "DiffPure": diffusion,
        "DiffPureTask": {"purifier": purifier, "classifier": classifier, "evaluators": [rd.Clean()], **task},
        "FixedLevel": {"schedule": schedule, "t_score": 0.1},
        "GradientAscent": {"lr": 0.1},
        "GradualNoise": {"denoiser": plain, "blocks": [rd.Block(0.1)], "schedule": schedule},
        "Langevin": {},
        "LangevinDiffPure": diffusion,
        "LikelihoodMaximisation": {"denoiser": plain, "steps": 2},
        "RandomisedDiffPure": diffusion,
        "BoundedDiffusionClassifier": {"denoiser": denoiser, "num_classes": 2, "nodes": 2},
        "Claimed": {},
        "DenoisedClassifier": {"denoiser": plain, "classifier": classifier, "sigma": 0.25},
        "Denoising": {"denoiser": plain, "sigma": 0.25},
        "ELBO": {},
        "Elimination": {},
        "Flat": {},
        "Lipschitz": {},
        "LogNormal": {},
        "NDCTask": {"classifier": rd.NoisedDiffusionClassifier(denoiser, 2, 0.25, nodes=2),
                    "evaluators": [rd.Clean()], **task},
        "Nodes": {},
        "NoisedDiffusionClassifier": {"denoiser": denoiser, "num_classes": 2, "sigma": 0.25, "nodes": 2},
        "Posterior": {},
        "Reduction": {"larger": 8, "smaller": 4},
        "ReferenceWeight": {},
        "Sifting": {},
        # interface
        "Predictions": {"classes": label, "p_values": time, "counts": label, "samples": 3},
        "Result": {"run": Run("run", "0", {}, [])},
        # data
        "Augmentation": {},
        "Balanced": {},
        "CIFAR10": data,
        "CIFAR100": data,
        "CelebAHQ": folders,
        "Crop": {},
        "Digits": data,
        "Every": {"step": 2},
        "Folder": folders,
        "ImageData": data,
        "ImageDataset": {"images": image, "labels": label},
        "ImageFileData": {"root": folder, "crop": rd.Crop(4), "batch_size": 2},
        "ImageFiles": {"path": folder, **data},
        "ImageNet": folders,
        "InMemory": {"images": image, "labels": label},
        "Jobs": {"jobs": 1, "images": 1},
        "Listed": {"file": folder / "indices.txt"},
        "SVHN": data,
        "Seeded": {},
        "Synthetic": {"num_classes": 2, "shape": (1, 4, 4), "batch_size": 2},
        # diffusion
        "Adjoint": {},
        "Ancestral": {},
        "BoundDenoiser": {"denoiser": plain},
        "Chain": {"purifiers": [purifier]},
        "Checkpoint": {},
        "ClassifierFree": {"denoiser": denoiser},
        "Clipped": {"denoiser": plain},
        "DDIM": {},
        "DDPM": {"num_steps": 10},
        "DiffusionPurifier": {**diffusion, "schedule": schedule},
        "EDM": {},
        "EDMDenoiser": {"network": Body()},
        "EpsDenoiser": eps,
        "FixedNoise": {"purifier": purifier},
        "Process": {"x0": image, "start": image, "noise": noise, "sampler": sampler,
                    "denoise": rd.BoundDenoiser(plain)},
        "Repeated": {"purifier": purifier, "rounds": 2},
        "Resized": {"purifier": purifier, "size": 8},
        "RowGrid": {"grid": rd.TimeGrid((0.1, 0.05)), "t_star": time[None]},
        "Sampler": {"schedule": schedule, "solver": rd.EulerMaruyama(), "grid": rd.TimeGrid((0.1, 0.05))},
        "ScoreDenoiser": {"network": Body()},
        "Step": {**vars(levels[0]), "k": 1, "next": levels[1], "schedule": schedule},
        "Surrogate": {},
        "TimeGrid": {"times": (0.1, 0.05)},
        "TorchSDE": {},
        "VDenoiser": eps,
        "VP": {},
        "X0Denoiser": eps,
        # bodies
        "ADM": {"image_size": 4, "in_channels": 1, "model_channels": 32, "out_channels": 1, "num_res_blocks": 1,
                "channel_mult": (1,)},
        "Blocked": {"network": Body()},
        "DDPMUNet": {"image_size": 4, "in_channels": 1, "out_ch": 1, "ch": 32, "ch_mult": (1,), "num_res_blocks": 1},
        "DDPMpp": {"img_resolution": 4, "img_channels": 1, "model_channels": 4, "channel_mult": (1,), "num_blocks": 1},
        "EDMADM": {"img_resolution": 4, "img_channels": 1, "model_channels": 64, "channel_mult": (1,),
                   "num_blocks": 1, "attn_resolutions": ()},
        "NCSNpp": {"image_size": 4, "num_channels": 1, "nf": 8, "ch_mult": (1,), "num_res_blocks": 1},
        "UNet2D": {"options": unet},
        # engine, noise, world, hub
        "Engine": {},
        "Meter": {"classifier": classifier},
        "ExactDenoiser": {"mixture": rd.GaussianMixture(torch.rand(2, 1, 4, 4), 0.1)},
        "GaussianMixture": {"means": torch.rand(2, 1, 4, 4), "stds": 0.1},
        "Noise": {"seed": 0, "index": index, "draw": index},
        "Card": {"use": "u", "url": "u", "page": "p", "filename": "f", "licence": "l", "format": "edm"},
        # classifiers' networks
        "CIFARResNet": {"num_classes": 2, "blocks": (1, 1, 1, 1), "in_channels": 1},
        "Mirrored": {"network": rd.SmallCNN(num_classes=2, in_channels=1, width=8)},
        "SmallCNN": {"num_classes": 2, "in_channels": 1, "width": 8},
        "TimmNetwork": {"name": "test_resnet", "num_classes": 2},
        "WhitenedConvNet": {"num_classes": 2, "in_channels": 1, "widths": (2,)},
        "WideResNet": {"depth": 10, "widen_factor": 1, "num_classes": 2, "in_channels": 1},
        # records
        "AttackedRecord": attacked,
        "CertifiedRecord": certified,
        "ClaimedRecord": certified,
        "CleanRecord": {**row, "predictions": [0], "cost": rd.Cost(1.0, 1.0, 1)},
        "Cost": {},
        "ForecastRecord": {**certified, "procedure": 10},
        "GradientCheckRecord": {**row, "verified": True, "findings": [Finding("f", True, 0.0, "s")]},
        "Records": {"path": folder / "records", "fingerprint": "0"},
        "Summary": {"source": Source("clean"), "n": 1, "metrics": {}},
        # robustness
        "APGD": {},
        "AttackResult": {"adv": image},
        "Attacked": {**evaluator, "attack": attack, "threat": threat},
        "AutoAttack": {},
        "Baseline": {**evaluator, "attacked": rd.Attacked(attack, threat), "role": rd.Role.BASELINE},
        "Certificate": {"prediction": 0, "radius": 0.1, "p_lower": 0.9, "samples": 9},
        "Certified": {**evaluator, "smoothing": rd.Smoothing(**smoothing)},
        "ClassifierWrapper": {"classifier": classifier},
        "Clean": evaluator,
        "DiffAttack": {"attack": attack},
        "DiffHammer": {"attack": rd.PGD(eot=2)},
        "EOTLoss": {"classifier": classifier, "label": label, "noise": noise, "draws": 1},
        "FAB": {},
        "Forecast": {**smoothing, "targets": (0.25,), "n0": 100},
        "FunctionAttack": {"function": lambda classifier, image, label, threat, noise: image},
        "GradientCheck": evaluator,
        "KnownNoise": {"classifier": classifier, "noise": noise},
        "LPIPS": {},
        "LowFrequency": {},
        "NetworkClassifier": {"network": network},
        "PGD": {},
        "PGDTraining": {"threat": threat},
        "Perceptual": {"metric": Body()},
        "Purified": {"purifier": purifier, "classifier": classifier},
        "ReferenceAutoAttack": {},
        "Sequential": {**smoothing, "targets": (0.25,)},
        "SmoothedPrediction": {"prediction": 0, "p_value": 0.1, "count": 3, "second": 1, "samples": 4},
        "Smoothing": smoothing,
        "SpatialThreat": {},
        "Square": {},
        "StAdv": {},
        "Staged": {},
        "ThreatModel": {"norm": "inf", "eps": "8/255"},
        "Through": {"attack": attack},
        "TorchAttacks": {"name": "FGSM"},
        "TradesTraining": {"threat": threat},
        "Transfer": {"source": classifier, "attack": attack},
        "Voting": {"classifier": classifier, "draws": 2},
        # training
        "ClassifierTask": {"classifier": classifier, "num_classes": 2},
        "DenoiserTask": {"denoiser": plain},
        "FastClassifierTask": {"classifier": classifier, "num_classes": 2},
        "Muon": {"parameters": list(network.parameters())},
        "MuonRecipe": {},
        "OpenEndedDenoiserTask": {"denoiser": plain},
        "OpenEndedRecipe": {},
        "PowerAveraging": {},
        "Recipe": {},
        "RobustTask": {"classifier": classifier, "evaluators": [rd.Clean()], **task},
        "TrainingTask": {"recipe": recipe, "export": None},
    }  # fmt: skip
