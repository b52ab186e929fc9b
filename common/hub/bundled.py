"""Cards of the weights that come with the package: no download. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from common.checks.settings import check_text
from common.naming.configs_folder import presets_root

LISTED = "It is that of a card: robust-diffusion fetch lists them"  # where a name is no text


@dataclass(frozen=True)
class Bundled:
    """File among the presets: network and role (``use``), path below the presets' folder, size in bytes and sha256."""

    use: str
    file: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        for name in ("use", "file", "sha256"):
            check_text(name, getattr(self, name))

    @property
    def path(self) -> Path:
        return presets_root() / self.file


BUNDLED: dict[str, Bundled] = {
    "cifar10_jpeg_classifier": Bundled(
        use="small convolutional network, CIFAR-10 (JPEG), undefended: 90.5 % of the test images",
        file="studies/cifar10/weights/classifier.safetensors",
        size=3_954_696,
        sha256="afcfb7f8035d2adf08eb673ca42ee22bb1da545ffe991b361d924c429c71638d",
    ),
    "cifar10_jpeg_adversarial": Bundled(
        use="small convolutional network, CIFAR-10 (JPEG), adversarially trained (PGD-AT, L-infinity 8/255)",
        file="studies/cifar10/weights/adversarial.safetensors",
        size=2_330_240,
        sha256="4566c6880458c56933138ce6f330b08d585452b100c7bafee1bb6aedb8d6d197",
    ),
    "cifar10_jpeg_denoiser": Bundled(
        use="DDPM++ on 2x2 blocks, class-conditional, CIFAR-10 (JPEG): small denoiser for all three methods",
        file="studies/cifar10/weights/denoiser.safetensors",
        size=6_920_096,
        sha256="1e3ef3d1b3351893dce8fa435135414866c1f04c54119b9d65e1053db05d3cb2",
    ),
    "cifar10_jpeg_guidance": Bundled(
        use="AGDM's guidance network, CIFAR-10 (JPEG), TRADES at L-infinity 8/255 on diffused images",
        file="studies/cifar10/weights/guidance.safetensors",
        size=2_831_272,
        sha256="5979e7f8afd1acbc400dee13a0c7bd6879b32c9cda806038742d25d14c73d415",
    ),
}
