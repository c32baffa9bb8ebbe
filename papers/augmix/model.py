"""The networks that AugMix was trained with: four small ones for CIFAR, and timm's ResNet-50.

The small ones are written from their publications, with the settings and tensor names of the released code:

- AllConv, Springenberg et al., arXiv 1412.6806: convolutions only, here with batch norm and GELU's sigmoid form;
- DenseNet-40 (growth rate 12, no bottleneck), Huang et al., arXiv 1608.06993;
- Wide ResNet-40-2, Zagoruyko and Komodakis, arXiv 1605.07146;
- ResNeXt-29 with 4 groups of 32 channels, Xie et al., arXiv 1611.05431.

All take images of any size that is a multiple of 4 and average over what the last stage leaves of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cifar_networks import CifarNet, WideResNet, create_variant, stages_of, without_weights
from common.errors import UserError


class SigmoidGELU(nn.Module):
    """``x * sigmoid(1.702 x)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to each value."""
        return x * torch.sigmoid(1.702 * x)


class AllConv(CifarNet):
    """Nine convolutions in three stages; a maximum over 2 x 2 and dropout end the first two."""

    head, first_conv, last_map = "classifier", "features.0", (10, 10)

    def __init__(self, num_classes: int, in_chans: int, drop_rate: float = 0.5, global_pool: str = "avg") -> None:
        super().__init__(192, num_classes, global_pool)
        layers: list[nn.Module] = []

        def convolution(before: int, after: int, kernel: int, padding: int) -> None:
            layers.extend((nn.Conv2d(before, after, kernel, padding=padding), nn.BatchNorm2d(after), SigmoidGELU()))

        for before, after in ((in_chans, 96), (96, 192)):
            for _ in range(3):
                convolution(before, after, 3, 1)
                before = after
            layers.extend((nn.MaxPool2d(2), nn.Dropout(drop_rate)))
        convolution(192, 192, 3, 0)
        # The padding around 1 x 1 kernels makes up for the border that the convolution before has lost.
        convolution(192, 192, 1, 1)
        convolution(192, 192, 1, 1)
        self.features = nn.Sequential(*layers)
        # Before the first two stages are halved, and where the last one has a fourth of the image's sides.
        self.feature_info = [
            {"module": f"features.{layer}", "num_chs": channels, "reduction": reduction}
            for layer, channels, reduction in ((8, 96, 1), (19, 192, 2), (27, 192, 4))
        ]
        self.init_weights()

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to feature maps, (B, 192, H / 4 + 2, W / 4 + 2)."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps to logits, or to pooled features."""
        # Of the 10 x 10 places that are left of 32 x 32 pixels, the release averages the first 8 x 8.
        return super().forward_head(x[:, :, :-2, :-2] if self.global_pool else x, pre_logits)


class DenseLayer(nn.Module):
    """Norm, ReLU and a convolution, whose output is added to the channels."""

    def __init__(self, before: int, growth: int, drop_rate: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, growth, 3, 1, 1, bias=False)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps to more feature maps."""
        return torch.cat((x, self.drop(self.conv1(F.relu(self.bn1(x))))), dim=1)


class Transition(nn.Module):
    """Norm, ReLU, a convolution over channels, and the average over 2 x 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve both sides."""
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet(CifarNet):
    """Three stages of ``(depth - 4) / 3`` layers with ``growth`` channels each, without bottleneck or compression."""

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        drop_rate: float = 0.0,
        depth: int = 40,
        growth: int = 12,
        global_pool: str = "avg",
    ) -> None:
        if depth < 7 or (depth - 4) % 3:
            raise UserError(f"The depth of this DenseNet is 7, 10, 13, ...: not {depth}.")
        layers = (depth - 4) // 3
        super().__init__((2 + 3 * layers) * growth, num_classes, global_pool)
        self.feature_info = stages_of("dense{}", [(2 + stage * layers) * growth for stage in (1, 2, 3)])
        channels = 2 * growth
        self.conv1 = nn.Conv2d(in_chans, channels, 3, 1, 1, bias=False)
        for stage in (1, 2, 3):
            stack = [DenseLayer(channels + i * growth, growth, drop_rate) for i in range(layers)]
            self.add_module(f"dense{stage}", nn.Sequential(*stack))
            channels += layers * growth
            if stage < 3:
                self.add_module(f"trans{stage}", Transition(channels))
        self.bn1 = nn.BatchNorm2d(channels)
        self.init_weights()

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to feature maps, (B, num_features, H / 4, W / 4)."""
        x = self.trans1(self.dense1(self.conv1(x)))
        return F.relu(self.bn1(self.dense3(self.trans2(self.dense2(x)))))


class GroupedBlock(nn.Module):
    """A bottleneck whose 3 x 3 convolution works in groups of channels."""

    def __init__(self, before: int, inner: int, after: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(before, inner, 1, bias=False)
        self.bn_reduce = nn.BatchNorm2d(inner)
        self.conv_conv = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(inner)
        self.conv_expand = nn.Conv2d(inner, after, 1, bias=False)
        self.bn_expand = nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps to feature maps."""
        shortcut = x if self.downsample is None else self.downsample(x)
        inside = F.relu(self.bn_reduce(self.conv_reduce(x)))
        inside = F.relu(self.bn(self.conv_conv(inside)))
        return F.relu(shortcut + self.bn_expand(self.conv_expand(inside)))


class ResNeXt(CifarNet):
    """Three stages of three blocks; the first stage has ``groups`` groups of ``group_width`` channels."""

    head, first_conv = "classifier", "conv_1_3x3"

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        drop_rate: float = 0.0,
        groups: int = 4,
        group_width: int = 32,
        global_pool: str = "avg",
    ) -> None:
        super().__init__(1024, num_classes, global_pool)
        self.feature_info = stages_of("stage_{}", [256, 512, 1024])
        self.conv_1_3x3 = nn.Conv2d(in_chans, 64, 3, 1, 1, bias=False)
        self.bn_1 = nn.BatchNorm2d(64)
        before = 64
        for stage, stride in enumerate((1, 2, 2)):
            inner, after = groups * group_width * 2**stage, 256 * 2**stage
            blocks = [
                GroupedBlock(before if i == 0 else after, inner, after, groups, stride if i == 0 else 1)
                for i in range(3)
            ]
            self.add_module(f"stage_{stage + 1}", nn.Sequential(*blocks))
            before = after
        self.drop = nn.Dropout(drop_rate)
        self.init_weights()
        if num_classes:
            nn.init.kaiming_normal_(self.classifier.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to feature maps, (B, 1024, H / 4, W / 4)."""
        x = F.relu(self.bn_1(self.conv_1_3x3(x)))
        return self.drop(self.stage_3(self.stage_2(self.stage_1(x))))


#: How the small networks' images are evaluated.
CIFAR = {
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
#: How images are evaluated with the released ResNet-50: resized to 256, cropped to 224.
IMAGENET = {
    "input_size": (3, 224, 224),
    "test_input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "test_crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
VARIANTS: dict[str, Callable[..., CifarNet]] = {
    "allconv_cifar": AllConv,
    "densenet40_cifar": DenseNet,
    "wideresnet40_2_cifar": WideResNet,
    "resnext29_cifar": ResNeXt,
}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a network by its name.

    Args:
        name: a key of ``VARIANTS``, or ``resnet50_augmix``: timm's ResNet-50 with the release's preprocessing.
        pretrained: must be False; weights are loaded with ``common.checkpoints.load_released``.
        kwargs: ``num_classes`` (1000), ``in_chans`` (3), ``drop_rate`` and the variant's own; for
            ``resnet50_augmix`` whatever timm's ``resnet50`` takes.

    Raises:
        UserError: the name is unknown, or pretrained weights are asked for.
    """
    if name == "resnet50_augmix":
        kwargs = without_weights(name, pretrained, kwargs)
        return timm.create_model("resnet50", pretrained_cfg_overlay=IMAGENET, **kwargs)
    return create_variant(name, VARIANTS, CIFAR, pretrained, **kwargs)
