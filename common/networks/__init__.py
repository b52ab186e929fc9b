"""Classifier bodies: image -> logits; all of timm by name."""

from common.networks.cifar_resnet import CIFARResNet
from common.networks.mirrored import Mirrored
from common.networks.small_cnn import SmallCNN
from common.networks.timm_network import TimmNetwork
from common.networks.whitened_conv_net import WhitenedConvNet
from common.networks.wide_resnet import WideResNet

__all__ = ["CIFARResNet", "Mirrored", "SmallCNN", "TimmNetwork", "WhitenedConvNet", "WideResNet"]
