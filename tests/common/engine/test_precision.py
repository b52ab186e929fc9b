"""Detection of processors with bfloat16 units, and the settings of TF32."""

import pytest
import torch

from common.engine.precision import float32_products, has_bf16_units, shortcoming


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_the_processors_capabilities_decide_without_a_gpu(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bf16_units() is expected


def tf32_settings():
    """All that a program may read, by either set of names."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    new = [part.fp32_precision for part in (matmul, cudnn.conv, cudnn.rnn)]
    return [*new, matmul.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision()]


@pytest.mark.parametrize("products", ["highest", "high", "medium"])
@pytest.mark.parametrize("precision", ["32", "tf32"])
def test_a_program_may_read_its_tf32_settings_at_any_time(products, precision):
    """PyTorch refuses to read ``allow_tf32`` where the newer names were set alone."""
    original = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(products)
    try:
        before = tf32_settings()
        with float32_products(precision):
            inside = tf32_settings()
        assert tf32_settings() == before
    finally:
        torch.set_float32_matmul_precision(original)
    assert inside[3:5] == [precision == "tf32"] * 2
    assert all((part == "tf32") == (precision == "tf32") for part in inside[:3])


def test_a_program_that_uses_the_newer_names_keeps_them():
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    conv.fp32_precision = "ieee"  # ``allow_tf32`` cannot be read from here on
    try:
        with float32_products("tf32"):
            assert conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert conv.fp32_precision == "ieee"
    finally:
        conv.fp32_precision = before


@pytest.mark.parametrize(("unit", "lacking"), [("avx2", True), ("avx512_bf16", True), ("avx512_fp16", False)])
def test_a_cpu_without_units_for_float16_is_reported(monkeypatch, unit, lacking):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True})
    assert ("emulates it, many times slower" in shortcoming("16", torch.device("cpu"))) is lacking
