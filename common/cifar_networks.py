"""Networks for images of 32 pixels that several papers train: Wide ResNet and ResNet.

- Wide ResNet, Zagoruyko and Komodakis, arXiv 1605.07146;
- ResNet, He et al., arXiv 1512.03385: timm's, with a stem that keeps the 32 pixels.

All take images of any size that their strides divide, and average over what the last stage leaves of it. A paper says
in its ``model.py`` which variants it has and how their images are normalised.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from timm.models import resnet
from timm.models._builder import build_model_with_cfg
from torch import Tensor, nn

from common.errors import UserError, nearest


class CifarNet(nn.Module):
    """Base of the small networks: a classifier on averaged features, with timm's methods.

    Args:
        num_features: channels of the last stage.
        num_classes: 0: no classifier, the pooled features are returned.
        global_pool: see `reset_classifier`.

    Attributes:
        feature_info: what ``features_only`` gives: the maps of the three stages, as timm describes them.
    """

    #: Names of the classifier and of the first convolution, as released, and what is left of 32 x 32 pixels.
    head, first_conv, last_map = "fc", "conv1", (8, 8)

    feature_info: list[dict[str, Any]]
    global_pool: str

    def __init__(self, num_features: int, num_classes: int, global_pool: str = "avg") -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = num_features
        self.reset_classifier(num_classes, global_pool)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new classifier (0: none).

        Args:
            num_classes: its outputs.
            global_pool: ``avg``, or empty for features as they are; None: as before.

        Raises:
            UserError: there is no such pooling.
        """
        if global_pool not in (None, "avg", ""):
            raise UserError(
                f"{type(self).__name__} averages its features, or leaves them ('') as they are; it has no pooling "
                f"{global_pool!r}."
            )
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.num_classes = num_classes
        classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        setattr(self, self.head, classifier)

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return getattr(self, self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to feature maps (B, num_features, height, width)."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        x = x.mean(dim=(2, 3)) if self.global_pool else x.permute(0, 2, 3, 1)
        x = x if pre_logits else self.get_classifier()(x)
        return x if self.global_pool else x.permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse: networks for images of 32 pixels have no need to compute activations twice."""
        if enable:
            raise UserError(f"{type(self).__name__} has no gradient checkpointing.")

    def init_weights(self) -> None:
        """He's initialisation by the number of outputs; zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.out_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)


def stages_of(module: str, channels: Sequence[int]) -> list[dict[str, Any]]:
    """Timm's description of stages whose maps are halved from one to the next, called by their number from 1 on."""
    return [
        {"module": module.format(stage + 1), "num_chs": count, "reduction": 2**stage}
        for stage, count in enumerate(channels)
    ]


class WideBlock(nn.Module):
    """Two convolutions after norm and ReLU; where the width changes, the shortcut starts after the first of those."""

    def __init__(self, before: int, after: int, stride: int, drop_rate: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.conv_shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps to feature maps."""
        inside = F.relu(self.bn1(x))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(inside)
        inside = F.relu(self.bn2(self.conv1(inside)))
        return shortcut + self.conv2(self.drop(inside))


class WideResNet(CifarNet):
    """Three stages of ``(depth - 4) / 6`` blocks, 16, 32 and 64 times ``widen`` channels wide."""

    block1: nn.Module
    block2: nn.Module
    block3: nn.Module

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        drop_rate: float = 0.0,
        depth: int = 40,
        widen: int = 2,
        global_pool: str = "avg",
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise UserError(f"The depth of a Wide ResNet is 10, 16, 22, ...: not {depth}.")
        super().__init__(64 * widen, num_classes, global_pool)
        self.feature_info = stages_of("block{}", [16 * widen, 32 * widen, 64 * widen])
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        before = 16
        for stage, stride in enumerate((1, 2, 2)):
            after = 16 * 2**stage * widen
            blocks = [
                WideBlock(before if i == 0 else after, after, stride if i == 0 else 1, drop_rate)
                for i in range((depth - 4) // 6)
            ]
            self.add_module(f"block{stage + 1}", nn.Sequential(OrderedDict(layer=nn.Sequential(*blocks))))
            before = after
        self.bn1 = nn.BatchNorm2d(before)
        self.init_weights()

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to feature maps, (B, 64 * widen, H / 4, W / 4)."""
        return F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))


class ResNet(resnet.ResNet):
    """timm's ResNet whose stem is a 3 x 3 convolution alone: no stride and no pooling.

    Args:
        layers: blocks of each of the four stages.
        bottleneck: of three convolutions a block, else of two.
        global_pool: as of timm's.
    """

    head, first_conv, last_map = "fc", "conv1", (4, 4)

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        drop_rate: float = 0.0,
        *,
        layers: Sequence[int],
        bottleneck: bool = False,
        global_pool: str = "avg",
    ) -> None:
        block: Any = resnet.Bottleneck if bottleneck else resnet.BasicBlock
        super().__init__(
            block, tuple(layers), num_classes, in_chans, global_pool=global_pool, drop_rate=drop_rate,
            zero_init_last=False,
        )  # fmt: skip
        stem = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.conv1, self.maxpool = stem, nn.Identity()  # type: ignore[assignment]  # timm has longer stems
        self.feature_info = [  # the stem's half and the pooling's are left out
            {**info, "reduction": max(1, int(str(info["reduction"])) // 4)} for info in self.feature_info
        ]


#: Parts of names in released ResNets for such images, and timm's for them.
_RESNET_NAMES = {"shortcut": "downsample", "linear": "fc"}


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to ours: those of ResNets, other networks keep theirs."""
    return _renamed(state_dict, _RESNET_NAMES if isinstance(model, ResNet) else {})


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The inverse of `checkpoint_filter_fn`."""
    names = {ours: released for released, ours in _RESNET_NAMES.items()}
    return _renamed(state_dict, names if isinstance(model, ResNet) else {})


def _renamed(state_dict: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {".".join(names.get(part, part) for part in name.split(".")): value for name, value in state_dict.items()}


def create_variant(
    name: str,
    variants: Mapping[str, Callable[..., nn.Module]],
    preprocessing: Mapping[str, Any],
    pretrained: bool = False,
    **kwargs: Any,
) -> Any:
    """Build one of a paper's networks by its name, as timm asks for it.

    Args:
        name: a key of ``variants``.
        variants: each network's class here, or a partial of it.
        preprocessing: of images in evaluation, as timm's configurations have it.
        pretrained: must be False; weights are loaded with ``common.checkpoints.load_released``.
        kwargs: ``num_classes`` (1000), ``in_chans`` (3), ``drop_rate``, ``global_pool`` and the variant's own, and
            timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: the name is unknown, or pretrained weights or dropped paths are asked for.
    """
    if name not in variants:
        raise UserError(f"There is no network {name!r}.{nearest(name, variants)}")
    kwargs = without_weights(name, pretrained, kwargs)
    if kwargs.pop("drop_path_rate", 0.0):
        raise UserError(f"{name} drops no paths; set drop_path_rate=0.")
    if kwargs.get("drop_rate") is None:
        kwargs.pop("drop_rate", None)
    kind: Any = variants[name]
    network: Any = kind.func if isinstance(kind, partial) else kind
    cfg = {
        **preprocessing, "architecture": name, "num_classes": 1000, "pool_size": network.last_map,
        "first_conv": network.first_conv, "classifier": network.head,
    }  # fmt: skip
    # By hooks, since these networks are no sequence of their parts.
    features = {"out_indices": kwargs.pop("out_indices", (-3, -2, -1)), "feature_cls": "hook", "no_rewrite": True}
    features["flatten_sequential"] = False
    return build_model_with_cfg(kind, name, False, pretrained_cfg=cfg, feature_cfg=features, **kwargs)


def without_weights(name: str, pretrained: bool, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a network without timm's for weights that it fetches.

    Raises:
        UserError: such weights are asked for.
    """
    if pretrained:
        raise UserError(f"{name} has no weights to fetch; load a checkpoint with common.checkpoints.load_released.")
    unused = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return {key: value for key, value in kwargs.items() if key not in unused}
