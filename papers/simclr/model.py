"""The networks of SimCLR and SimCLRv2: timm's ResNet, wider, with selective kernels, with a projection head.

Where the released code and timm's ResNet differ, these are as released: borders of stride-2 pooling are padded at the
end alone, a shortcut at the start of each stage is always a convolution, and averages over 2 x 2 pixels come before
the shortcuts of networks with selective kernels at stride 1 too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from timm.layers import create_pool2d
from timm.models._builder import build_model_with_cfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet, downsample_conv
from torch import Tensor, nn

from common.errors import UserError, nearest
from papers.simclr import released

#: Blocks in each stage, by depth.
LAYERS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
#: Preprocessing of the release: pixels in [0, 1], no statistics.
PREPROCESSING = {
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "first_conv": "conv1",
    "classifier": "fc",
}


def _variants() -> dict[str, dict[str, Any]]:
    """Arguments of :class:`SimCLR` by timm's name."""
    table: dict[str, dict[str, Any]] = {
        "resnet18_cifar_simclr": {"depth": 18, "cifar_stem": True, "projection_layers": 3}
    }
    for width in (1, 2, 4):
        table[f"resnet50{_times(width)}_simclr"] = {"depth": 50, "width": width, "projection_layers": 2}
    sizes = [(depth, width, sk) for depth in (50, 101, 152) for width in (1, 2) for sk in (False, True)]
    for depth, width, sk in [*sizes, (152, 3, True)]:
        name = f"resnet{depth}{_times(width)}{'_sk' if sk else ''}_simclrv2"
        table[name] = {"depth": depth, "width": width, "selective_kernels": sk, "projection_layers": 3}
        table[f"{name}_finetuned"] = {**table[name], "kept_layers": 1}
    return table


def _times(width: int) -> str:
    return "" if width == 1 else f"x{width}"


class ProjectionHead(nn.Module):
    """Linear layers with batch norm: biases (of the norm) and ReLU in all but the last.

    Args:
        dim: channels of the features and of the hidden layers.
        layers: at least 1; 2 in SimCLR, 3 in SimCLRv2.
        out_dim: channels of the embedding.
        normalise: whether layers have batch norm; without it the hidden ones have a bias.
    """

    def __init__(self, dim: int, layers: int, out_dim: int = 128, normalise: bool = True) -> None:
        super().__init__()
        sizes = [dim] * layers + [out_dim]
        hidden = [True] * (layers - 1) + [False]
        self.linear = nn.ModuleList(
            nn.Linear(a, b, bias=h and not normalise) for a, b, h in zip(sizes, sizes[1:], hidden, strict=False)
        )
        self.norm = nn.ModuleList(nn.BatchNorm1d(size) if normalise else nn.Identity() for size in sizes[1:])
        for linear in self.linear:
            nn.init.normal_(linear.weight, std=0.01)
        if normalise:
            # The release has no such parameter; a bias that is 0 and not trained is the same.
            self.norm[-1].bias.requires_grad_(False)

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Features (B, dim) to embeddings (B, out_dim), or through the layers from ``start`` to before ``stop``."""
        for index in range(len(self.linear))[start:stop]:
            x = self.norm[index](self.linear[index](x))
            x = x if index == len(self.linear) - 1 else F.relu(x)
        return x


class SelectiveKernel(nn.Module):
    """Two 3 x 3 convolutions, mixed channel by channel by weights from their pooled sum (Li et al., arXiv 1903.06586).

    Args:
        in_channels, channels: of the input and of the output.
        stride: of the convolutions.
        ratio: channels of the bottleneck in which weights are computed, relative to ``channels``; 32 at least.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, ratio: float = 0.0625) -> None:
        super().__init__()
        middle = max(int(channels * ratio), 32)
        self.conv = nn.Conv2d(in_channels, 2 * channels, 3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)
        self.reduce = nn.Conv2d(channels, middle, 1, bias=False)
        self.reduce_bn = nn.BatchNorm2d(middle)
        self.mix = nn.Conv2d(middle, 2 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        streams = F.relu(self.bn(self.conv(x))).unflatten(1, (2, -1))
        pooled = streams.sum(dim=1).mean(dim=(2, 3), keepdim=True)
        weights = self.mix(F.relu(self.reduce_bn(self.reduce(pooled)))).unflatten(1, (2, -1)).softmax(dim=1)
        return (streams * weights).sum(dim=1)


class SelectiveBottleneck(Bottleneck):
    """timm's bottleneck with selective kernels in place of its 3 x 3 convolution."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1, *args: Any, **kwargs: Any) -> None:
        super().__init__(inplanes, planes, stride, *args, **kwargs)
        self.conv2 = SelectiveKernel(planes, planes, stride)
        self.bn2, self.act2 = nn.Identity(), nn.Identity()  # parts of the selective kernels


class SameAverage(nn.Module):
    """Mean of 2 x 2 pixels at stride 1, of as many as there are at the lower and right border."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, stride=1)


class SimCLR(ResNet):
    """A ResNet with a classifier and a projection head.

    It is a classifier unless ``pretraining`` is set; then it returns logits, whose gradient stops at the features, and
    embeddings in training mode. ``frozen`` keeps everything but the classifier as it is, statistics included.

    Args:
        depth: 18, 50, 101 or 152; or ``layers`` blocks of the kind of ResNet-18 in each of four stages.
        width: multiple of all channel counts; ``channels`` of the stages before that.
        selective_kernels: with them, and with the stem and shortcuts of ResNet-D.
        cifar_stem: a 3 x 3 convolution at stride ``stem_stride`` and no pooling, for small images.
        projection_layers: of the projection head.
        kept_layers: of the projection head, which the classifier stands on (SimCLRv2); 0: on the features.
        normalise: whether the projection head has batch norm.
        kwargs: ``num_classes``, ``in_chans``, ``drop_rate``, ``drop_path_rate``, ... of timm's ResNet.
    """

    def __init__(
        self,
        depth: int = 50,
        width: int = 1,
        selective_kernels: bool = False,
        cifar_stem: bool = False,
        stem_stride: int = 1,
        projection_layers: int = 2,
        kept_layers: int = 0,
        layers: tuple[int, ...] | None = None,
        channels: tuple[int, ...] = (64, 128, 256, 512),
        normalise: bool = True,
        **kwargs: Any,
    ) -> None:
        if projection_layers < 1:
            raise UserError(f"A projection head has at least one layer, not {projection_layers}.")
        if not 0 <= kept_layers < projection_layers:
            raise UserError(
                f"A classifier stands on 0 to {projection_layers - 1} layers of the head, not {kept_layers}."
            )
        basic = depth < 50 or layers is not None
        block = BasicBlock if basic else SelectiveBottleneck if selective_kernels else Bottleneck
        super().__init__(
            block,
            layers or LAYERS[depth],
            channels=tuple(width * count for count in channels),
            stem_type="deep",  # the kind of stem whose width timm lets one choose
            stem_width=width * channels[0] // 2,
            avg_down=selective_kernels,
            **kwargs,
        )
        first, stem = self.layer1[0], width * channels[0]
        if cifar_stem:
            self.conv1 = nn.Conv2d(self.in_chans, stem, 3, stride=stem_stride, padding=1, bias=False)
            self.maxpool = nn.Identity()
            for info in self.feature_info:
                info["reduction"] = max(1, int(str(info["reduction"])) // 4) * stem_stride
        else:
            self.maxpool = create_pool2d("max", 3, stride=2, padding="same")
            if not selective_kernels:
                self.conv1 = nn.Conv2d(self.in_chans, stem, 7, stride=2, padding=3, bias=False)
        if first.downsample is None:
            first.downsample = downsample_conv(stem, stem, 1, norm_layer=kwargs.get("norm_layer"))
        elif selective_kernels:
            first.downsample[0] = SameAverage()
        self.projection = ProjectionHead(self.num_features, projection_layers, normalise=normalise)
        self.kept_layers = kept_layers
        self.pretraining = self.frozen = False
        self._initialise()

    def _initialise(self) -> None:
        """Convolutions as TensorFlow's default draws them for the release; a classifier of deviation 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
                deviation = fan_in**-0.5 / 0.87962566103423978  # that of a normal distribution cut at two deviations
                nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, num_features), which the publication calls h."""
        return self.global_pool(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps to logits, or to what the classifier takes: layers of the projection head are of pooled ones."""
        hidden = self.global_pool(x)
        if not self.global_pool.is_identity():
            hidden = self.projection(hidden, stop=self.kept_layers)
        if self.drop_rate:
            hidden = F.dropout(hidden, p=self.drop_rate, training=self.training)
        return hidden if pre_logits else self.fc(hidden)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, C, H, W) to logits (B, num_classes); in pre-training to logits and embeddings (B, 128)."""
        if not (self.pretraining and self.training):
            return super().forward(x)
        kept = self.projection(self.encode(x), stop=self.kept_layers)
        return self.fc(kept.detach()), self.projection(kept, start=self.kept_layers)

    def train(self, mode: bool = True) -> SimCLR:
        """Set the mode; where all but the classifier is frozen, its statistics are too."""
        super().train(mode)
        if self.frozen:
            for name, module in self.named_children():
                module.train(mode and name == "fc")
        return self

    def freeze(self) -> None:
        """Train nothing but the classifier."""
        self.frozen = True
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.fc.requires_grad_(True)
        self.train(self.training)

    def no_layer_adaptation(self) -> set[str]:
        """The classifier: LARS leaves its rate alone."""
        return {"fc.weight"}


VARIANTS = _variants()


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a network by its name.

    Args:
        name: a key of ``VARIANTS``.
        pretrained: must be False; weights are loaded with ``common.checkpoints.load_released``.
        kwargs: of :class:`SimCLR`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: the name is unknown, or pretrained weights are asked for.
    """
    if pretrained:
        raise UserError(f"{name} has no weights to fetch; load a checkpoint with common.checkpoints.load_released.")
    if name not in VARIANTS:
        raise UserError(f"SimCLR has no network {name!r}.{nearest(name, VARIANTS)}")
    if kwargs.get("drop_rate") is None:
        kwargs.pop("drop_rate", None)
    cfg = {**PREPROCESSING, "num_classes": 1000, "architecture": name}
    if VARIANTS[name].get("cifar_stem"):
        cfg |= {"input_size": (3, 32, 32), "pool_size": (4, 4), "crop_pct": 1.0}
    elif VARIANTS[name].get("selective_kernels"):
        cfg["first_conv"] = "conv1.0"
    arguments = {**VARIANTS[name], **kwargs, "pretrained_cfg": kwargs.get("pretrained_cfg") or cfg}
    return build_model_with_cfg(SimCLR, name, False, **arguments)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names and layouts to ours; see :mod:`papers.simclr.released`."""
    return released.to_ours(state_dict, model)


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The inverse of :func:`checkpoint_filter_fn`."""
    return released.from_ours(state_dict, model)
