"""The CIFAR networks' former place; they live in `ghostify.models`."""

from ghostify.models.cifar import NETWORKS, VGG, BasicBlock, ResNet

__all__ = ["NETWORKS", "VGG", "BasicBlock", "ResNet"]
