"""The encoders of ReLICv2: timm's ResNet as Haiku pads it, up to four times as wide and 200 layers deep.

Where the released networks (Haiku's ResNet v1, in github.com/google-deepmind/relicv2 utils/networks.py) and timm's
ResNet differ, these are as released: convolutions and pooling of stride 2 are padded to half of the pixels, more at the
end than at the start, and all channels are multiplied by the width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.layers import Conv2dSame, create_pool2d
from timm.models._builder import build_model_with_cfg
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from common.errors import UserError, nearest
from papers.relicv2 import released
from papers.simclr.model import ProjectionHead, SimCLR

#: Blocks in each stage, by depth.
LAYERS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
#: Arguments of :class:`ReLIC` by timm's name: those with released weights.
VARIANTS: dict[str, dict[str, int]] = {
    "resnet50_relicv2": {"depth": 50, "width": 1},
    "resnet50x2_relicv2": {"depth": 50, "width": 2},
    "resnet50x4_relicv2": {"depth": 50, "width": 4},
    "resnet101_relicv2": {"depth": 101, "width": 1},
    "resnet152_relicv2": {"depth": 152, "width": 1},
    "resnet200_relicv2": {"depth": 200, "width": 1},
    "resnet200x2_relicv2": {"depth": 200, "width": 2},
}
#: Preprocessing of the release: utils/dataset.py.
PREPROCESSING = {
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "conv1",
    "classifier": "fc",
}


class ReLIC(SimCLR):
    """A ResNet with a classifier and a projection head, which behaves as SimCLR's: see there.

    Args:
        depth: a key of ``LAYERS``; or ``layers`` bottlenecks in each of four stages.
        width: multiple of all channel counts; ``channels`` of the stages before that, a quarter of what leaves them.
        kwargs: ``num_classes``, ``in_chans``, ``drop_rate``, ``drop_path_rate``, ... of timm's ResNet.
    """

    def __init__(
        self,
        depth: int = 50,
        width: int = 1,
        layers: tuple[int, ...] | None = None,
        channels: tuple[int, ...] = (64, 128, 256, 512),
        **kwargs: Any,
    ) -> None:
        stem = width * channels[0]
        # Not SimCLR's own construction, which pads otherwise.
        ResNet.__init__(
            self,
            Bottleneck,  # type: ignore[arg-type]  # timm's annotation asks for an instance
            layers or LAYERS[depth],
            channels=tuple(width * count for count in channels),
            stem_type="deep",  # the kind of stem whose width timm lets one choose
            stem_width=stem // 2,
            **kwargs,
        )
        self.conv1 = Conv2dSame(self.in_chans, stem, 7, stride=2, bias=False)  # type: ignore[assignment]
        self.maxpool = create_pool2d("max", 3, stride=2, padding="same")
        for stage in ("layer2", "layer3", "layer4"):
            first: Any = self.get_submodule(stage)[0]  # type: ignore[index]
            conv = first.conv2
            first.conv2 = Conv2dSame(conv.in_channels, conv.out_channels, 3, stride=2, bias=False)
        self.projection = ProjectionHead(self.num_features, layers=2)
        self.kept_layers = 0
        self.pretraining = self.frozen = False
        self._initialise()


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a network by its name.

    Args:
        name: a key of ``VARIANTS``.
        pretrained: must be False; weights are loaded with ``common.checkpoints.load_released``.
        kwargs: of :class:`ReLIC`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: the name is unknown, or pretrained weights are asked for.
    """
    if pretrained:
        raise UserError(f"{name} has no weights to fetch; load a checkpoint with common.checkpoints.load_released.")
    if name not in VARIANTS:
        raise UserError(f"ReLICv2 has no network {name!r}.{nearest(name, VARIANTS)}")
    if kwargs.get("drop_rate") is None:
        kwargs.pop("drop_rate", None)
    cfg = kwargs.pop("pretrained_cfg", None) or {**PREPROCESSING, "num_classes": 1000, "architecture": name}
    return build_model_with_cfg(ReLIC, name, False, pretrained_cfg=cfg, **{**VARIANTS[name], **kwargs})


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names and layouts to ours; see :mod:`papers.relicv2.released`."""
    return released.to_ours(state_dict, model)


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The inverse of :func:`checkpoint_filter_fn`."""
    return released.from_ours(state_dict, model)
