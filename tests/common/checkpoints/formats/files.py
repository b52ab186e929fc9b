"""Files in the publishers' layouts, and the arguments of their networks."""

import torch

NAMES = {
    "score_sde": "score_sde_small",
    "guided_diffusion": "guided_diffusion_small",
    "edm": "edm_ddpmpp_cond_small",
    "sdedit_ddpm": "sdedit_ddpm_small",
    "robustbench_wrn": "robustbench_wrn_small",
}


def score_sde_file(reference, path, drop=()):
    """``{optimizer, model, ema, step}``, with wrong numbers everywhere except in the average."""
    names = list(reference.spec["tensors"])
    wrong = {f"module.{name}": torch.full_like(value, 9.0) for name, value in reference.state.items()}
    average = [reference.state[name] for name in names]
    moments = {
        i: {"step": 7, "exp_avg": torch.ones_like(v), "exp_avg_sq": torch.ones_like(v)} for i, v in enumerate(average)
    }
    content = {
        "optimizer": {"state": moments, "param_groups": [{"lr": 2e-4, "params": list(range(len(average)))}]},
        "model": wrong,
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": average},
        "step": 7,
    }
    torch.save({key: value for key, value in content.items() if key not in drop}, path)
    return path


KEYWORDS = {
    "score_sde": {"x": "x", "time_cond": "t"},
    "guided_diffusion": {"x": "x", "timesteps": "t"},
    "edm": {"x": "x", "sigma": "sigma", "class_labels": "class_labels"},
    "sdedit_ddpm": {"x": "x", "t": "t"},
    "robustbench_wrn": {"image": "x"},
}
