"""DDPM++ and NCSN++ under EDM's published tensor names: from 8x8 digits to CIFAR-10."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checks.settings import check_number, check_one_of, check_sequence
from common.diffusion.networks import layers
from common.diffusion.networks.edm_blocks import BlockStyle, Resample, ResampledConv, UNetBlock, embed_class


class FourierNoise(nn.Module):
    """Fixed random Fourier features of the noise level, frequencies ``f ~ N(0, 16^2)``: (B,) -> (B, channels)."""

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))

    def forward(self, c_noise: Tensor) -> Tensor:
        return layers.fourier(c_noise, self.freqs.to(c_noise))


class DDPMpp(nn.Module):
    """The U-Net of DDPM++ and NCSN++ (Song et al., arXiv 2011.13456) as EDM publishes it (Karras et al., 2206.00364).

    ``network(x, c_noise, class_labels=None)``: ``x`` (B,C,H,W), a noisy image of the model frame scaled by EDM's
    ``c_in``; ``c_noise`` (B,) or (), for EDM ``ln(sigma)/4``; ``class_labels`` (B, label_dim) one-hot, zero rows or
    None for no class. Returns (B,C,H,W). ``config`` holds the constructor's arguments.

    DDPM++ is the default. NCSN++ is ``embedding_type="fourier", channel_mult_noise=2, encoder_type="residual",
    resample_filter=(1, 3, 3, 1)``. 8x8 digits run with ``img_resolution=8, img_channels=1, model_channels=16,
    channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,)``.

    Args:
        img_resolution: side H = W of the images; a multiple of ``2**(levels - 1)``.
        img_channels: channels C of the images, in and out.
        label_dim: number of classes, 0 for an unconditional network.
        augment_dim: width of the augmentation labels seen in training, 0 for none; not given, they count as zero.
        model_channels: base width, a multiple of 4.
        channel_mult: width of each level in units of the base width, finest first.
        channel_mult_emb: width of the embedding in the same units.
        num_blocks: residual blocks per level (one more on the way up).
        attn_resolutions: sides at which blocks attend over positions.
        dropout: rate inside the residual blocks, in training only.
        label_dropout: probability to hide the class, in training only.
        embedding_type: of the noise level, "positional" or "fourier".
        channel_mult_noise: width of that embedding in units of the base width.
        encoder_type: "standard"; "skip": each level also sees the low-passed image; "residual": through learned layers.
        decoder_type: "standard"; "skip": the output is a sum over levels.
        resample_filter: taps of the low-pass filter, symmetric and even in number.

    Raises ``ValueError`` for sizes that do not fit and for unknown types.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Literal["standard", "skip", "residual"] = "standard",
        decoder_type: Literal["standard", "skip"] = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        arguments = layers.constructor_arguments(locals())
        super().__init__()
        self.config = arguments
        layers.check_body(
            arguments,
            counts="img_resolution img_channels model_channels channel_mult_emb num_blocks channel_mult_noise",
            sizes="label_dim augment_dim",
            rates="dropout label_dropout",
            lists="attn_resolutions",
            multipliers="channel_mult",
        )
        check_sequence("resample_filter", resample_filter, check_number)
        check_one_of("embedding_type", embedding_type, ("positional", "fourier"))
        check_one_of("encoder_type", encoder_type, ("standard", "skip", "residual"))
        check_one_of("decoder_type", decoder_type, ("standard", "skip"))
        if model_channels < 4 or model_channels % 4:
            raise ValueError(f"model_channels must be a positive multiple of 4; got {model_channels}.")
        self.levels = layers.levels_of(img_resolution, channel_mult)
        self.label_dropout = label_dropout
        self.noise_channels = model_channels * channel_mult_noise
        emb_channels = model_channels * channel_mult_emb
        self.style = BlockStyle(
            emb_channels,
            adaptive=False,
            channels_per_head=None,
            project=True,
            skip_scale=math.sqrt(0.5),
            eps=1e-6,
            taps=tuple(resample_filter),
            dropout=dropout,
        )
        self.map_noise = FourierNoise(self.noise_channels) if embedding_type == "fourier" else None
        self.map_label = nn.Linear(label_dim, self.noise_channels) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, self.noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(self.noise_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)

        widths = [model_channels * mult for mult in channel_mult]
        attends = [side in set(attn_resolutions) for side in self.levels]
        self.enc, stored = self._encoder(img_channels, model_channels, widths, attends, num_blocks, encoder_type)
        self.dec = self._decoder(img_channels, stored, widths, attends, num_blocks, decoder_type)
        self._initialise()

    def _encoder(
        self, img_channels: int, stem: int, widths: list[int], attends: list[bool], num_blocks: int, encoder_type: str
    ) -> tuple[nn.ModuleDict, list[int]]:
        """Layers of the way down, and the widths of the activations stored for the way up."""
        style, enc = self.style, nn.ModuleDict()
        width, pyramid, stored = stem, img_channels, [stem]
        for level, side in enumerate(self.levels):
            at = f"{side}x{side}"
            if level == 0:
                enc[f"{at}_conv"] = ResampledConv(img_channels, stem, 3)
            else:
                enc[f"{at}_down"] = UNetBlock(width, width, style, resampling="down")
                if encoder_type == "skip":
                    enc[f"{at}_aux_down"] = Resample("down", style.taps)
                    enc[f"{at}_aux_skip"] = ResampledConv(pyramid, width, 1)
                if encoder_type == "residual":
                    enc[f"{at}_aux_residual"] = ResampledConv(pyramid, width, 3, "down", style.taps, fused=True)
                    pyramid = width
                stored.append(width)
            for block in range(num_blocks):
                enc[f"{at}_block{block}"] = UNetBlock(width, widths[level], style, attention=attends[level])
                width = widths[level]
                stored.append(width)
        return enc, stored

    def _decoder(
        self,
        img_channels: int,
        stored: list[int],
        widths: list[int],
        attends: list[bool],
        num_blocks: int,
        decoder_type: str,
    ) -> nn.ModuleDict:
        """Layers of the way up; each block takes one stored activation beside its input."""
        style, dec, stored = self.style, nn.ModuleDict(), list(stored)
        width, bottom = stored[-1], len(self.levels) - 1
        for level in range(bottom, -1, -1):
            at = f"{self.levels[level]}x{self.levels[level]}"
            if level == bottom:
                dec[f"{at}_in0"] = UNetBlock(width, width, style, attention=True)
                dec[f"{at}_in1"] = UNetBlock(width, width, style)
            else:
                dec[f"{at}_up"] = UNetBlock(width, width, style, resampling="up")
            for block in range(num_blocks + 1):
                attention = attends[level] and block == num_blocks  # once per level on the way up
                dec[f"{at}_block{block}"] = UNetBlock(width + stored.pop(), widths[level], style, attention=attention)
                width = widths[level]
            if decoder_type == "skip" or level == 0:
                if decoder_type == "skip" and level != bottom:
                    dec[f"{at}_aux_up"] = Resample("up", style.taps)
                dec[f"{at}_aux_norm"] = layers.group_norm(width, style.eps)
                dec[f"{at}_aux_conv"] = ResampledConv(width, img_channels, 3)
        return dec

    def _initialise(self) -> None:
        """Xavier-uniform weights and zero biases; the last layer of each branch starts near zero."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                last = name.endswith(("conv1", "proj", "aux_conv"))
                gain = 1e-5 if last else math.sqrt(0.2) if name.endswith("qkv") else 1.0
                nn.init.xavier_uniform_(module.weight, gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, c_noise: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """Noise level, class and augmentation as one vector, activated, (B, E) or, if all rows agree, (1, E)."""
        c_noise = c_noise.reshape(-1)
        emb = layers.sinusoidal(c_noise, self.noise_channels) if self.map_noise is None else self.map_noise(c_noise)
        emb = emb.to(self.map_layer0.weight.dtype)
        gain = 1.0 if self.map_label is None else math.sqrt(self.map_label.in_features)
        emb = embed_class(self.map_label, class_labels, emb, gain, self.label_dropout if self.training else 0.0)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def forward(
        self, x: Tensor, c_noise: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        emb = self.embed(c_noise, class_labels, augment_labels)
        stored: list[Tensor] = []
        pyramid = x
        for name, layer in self.enc.items():
            if "aux_down" in name:
                pyramid = layer(pyramid)
            elif "aux_skip" in name:
                x = stored[-1] = x + layer(pyramid)
            elif "aux_residual" in name:
                x = stored[-1] = pyramid = (x + layer(pyramid)) * math.sqrt(0.5)
            else:
                x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
                stored.append(x)

        out: Tensor | None = None
        share = x
        for name, layer in self.dec.items():
            if "aux_up" in name:
                out = layer(out)
            elif "aux_norm" in name:
                share = F.silu(layer(x))
            elif "aux_conv" in name:
                out = layer(share) if out is None else out + layer(share)
            else:
                x = layer(torch.cat([x, stored.pop()], dim=1) if "_block" in name else x, emb)
        if out is None:
            raise RuntimeError("the decoder has no output layer")
        return out
