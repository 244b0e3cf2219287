"""The CIFAR networks' former place; they live in `ghostify.models`."""

from ghostify.models.cifar import IMAGENET_MEAN, IMAGENET_STD, NETWORKS, VGG, BasicBlock, ResNet

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "NETWORKS", "VGG", "BasicBlock", "ResNet"]
