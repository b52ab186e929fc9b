import pytest
import torch

from common.units import parse_number, sigma_to_model, sigma_to_pixel, to_model, to_pixel


def test_frames_are_inverse_and_noise_keeps_its_ratio():
    image, z = torch.rand(4, 3, 5, 5, dtype=torch.float64), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(to_pixel(to_model(image)), image)
    assert to_model(torch.tensor([0.0, 1.0])).tolist() == [-1.0, 1.0]
    torch.testing.assert_close(to_model(image + 0.25 * z), to_model(image) + sigma_to_model(0.25) * z)
    assert sigma_to_pixel(sigma_to_model(0.17)) == 0.17


def test_ratios_are_parsed():
    assert parse_number("8/255") == 8 / 255
    assert parse_number("0.5") == parse_number(0.5) == 0.5
    for bad in ("eight", "1/0", "8/255/3"):
        with pytest.raises(ValueError, match="ratio such as 8/255"):
            parse_number(bad)
