"""FCViT: a pyramid of convolutions, with a context of the whole image that every position takes by similarity.

Ma et al., "A Close Look at Spatial Modeling: From Attention to Convolution", 2022, arXiv 2212.12552. In deep layers of
vision transformers all queries attend to nearly the same few places, so their attention is a context of the whole image
rather than a relation of two positions. FCViT computes this context once: the mean position, passed through a
bottleneck of competing channels, is added to each position in the measure of how similar this one is to the mean.
Everything else that mixes positions is a depth-wise convolution.

Shapes: B images, C channels of H x W positions, h heads (groups of channels).

Names of modules and parameters are those of the released checkpoints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, GroupNorm1, calculate_drop_path_rates, trunc_normal_
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from common.classifier import HasClassifier
from common.errors import UserError, nearest

#: One row a variant, with the share of an image that is evaluated.
VARIANTS: dict[str, dict[str, Any]] = {
    "fcvit_tiny": {"depths": (3, 3, 5, 2), "dims": (32, 64, 160, 320)},
    "fcvit_b12": {"depths": (2, 2, 6, 2)},
    "fcvit_b24": {"depths": (4, 4, 12, 4)},
    "fcvit_b48": {"depths": (8, 8, 24, 8)},
}
CROP = {"fcvit_tiny": 0.9, "fcvit_b12": 0.9, "fcvit_b24": 0.95, "fcvit_b48": 0.95}


class Pointwise(nn.Conv2d):
    """A 1x1 convolution: (B, C, H, W) to (B, out, H, W)."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out, 1)


class DepthwiseConv(nn.Conv2d):
    """A depth-wise convolution with zero padding: (B, C, H, W) to the same."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)


class GlobalContext(nn.Module):
    r"""One context of the whole map for every position, in the measure of its similarity: (B, C, H, W) to the same.

    With the mean position g, the context c = W_2 max(W_a g, W_b g) of two competing halves, and for head i

    .. math:: y_i(p) = \left(w_i \, \hat s_i(p) + b_i\right) c_i, \qquad s_i(p) = x_i(p) \cdot g_i / \sqrt{C / h},

    where the similarities s are standardised over all heads and positions of an image together.

    Args:
        dim: C, a multiple of the heads and of the reduction.
        num_heads: h.
        reduction: of the channels in the bottleneck.
    """

    def __init__(self, dim: int, num_heads: int = 8, reduction: int = 8) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.fc1 = nn.Linear(dim, 2 * dim // reduction)
        self.fc2 = nn.Linear(dim // reduction, dim)
        self.rescale_weight = nn.Parameter(torch.ones(num_heads))
        self.rescale_bias = nn.Parameter(torch.zeros(num_heads))

    def similarity(self, x: Tensor) -> Tensor:
        """How much of the context each position of ``x`` takes: (B, h, H, W)."""
        return self._similarity(x, x.mean(dim=(2, 3)))

    def _similarity(self, x: Tensor, mean: Tensor) -> Tensor:
        x, mean = x.unflatten(1, (self.num_heads, -1)), mean.unflatten(1, (self.num_heads, -1))
        scores = (x * mean[..., None, None]).sum(dim=2) * self.scale
        std, centre = torch.std_mean(scores, dim=(1, 2, 3), keepdim=True)
        scores = (scores - centre) / (std + 1e-5)
        return scores * self.rescale_weight[:, None, None] + self.rescale_bias[:, None, None]

    def context(self, mean: Tensor) -> Tensor:
        """The context (B, C) of a mean position (B, C)."""
        first, second = self.fc1(mean).chunk(2, dim=-1)
        return self.fc2(torch.maximum(first, second))

    def forward(self, x: Tensor) -> Tensor:
        """What is added to ``x``."""
        mean = x.mean(dim=(2, 3))
        context = self.context(mean).unflatten(1, (self.num_heads, -1))
        return (self._similarity(x, mean)[:, :, None] * context[..., None, None]).flatten(1, 2)


class TokenMixer(nn.Module):
    """Twice: add the context, convolve depth-wise, and pass through a bottleneck: (B, C, H, W) to the same.

    Args:
        dim: C.
        kernel_size: of the convolutions.
        num_heads: see :class:`GlobalContext`.
        context: whether there is a global context.
    """

    def __init__(self, dim: int, kernel_size: int = 11, num_heads: int = 8, context: bool = True) -> None:
        super().__init__()
        hidden = max(dim // 8, 16)
        self.gc1 = GlobalContext(dim, num_heads) if context else None
        self.dw1 = DepthwiseConv(dim, kernel_size)
        self.fc1 = nn.Sequential(Pointwise(dim, hidden), nn.GELU(), Pointwise(hidden, dim))
        self.gc2 = GlobalContext(dim, num_heads) if context else None
        self.dw2 = DepthwiseConv(dim, kernel_size)
        self.fc2 = nn.Sequential(Pointwise(dim, hidden), nn.GELU(), Pointwise(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions of ``x``."""
        if self.gc1 is not None:
            x = x + self.gc1(x)
        x = F.gelu(self.fc1(self.dw1(x)))
        if self.gc2 is not None:
            x = x + self.gc2(x)
        return F.gelu(self.fc2(self.dw2(x)))


class ChannelMixer(nn.Module):
    """An MLP of every position with a depth-wise 3x3 convolution before its activation: (B, C, H, W) to the same."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Pointwise(dim, hidden)
        self.dwconv = DepthwiseConv(hidden, 3)
        self.fc2 = Pointwise(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform features ``x``."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class Block(nn.Module):
    """Token mixer and channel mixer, each normalised, scaled and residual: (B, C, H, W) to the same.

    Args:
        dim: C.
        mlp_ratio: hidden channels of the channel mixer over C.
        drop_path: stochastic depth.
        ls_init_value: start of the scales.
        kernel_size, num_heads, context: see :class:`TokenMixer`.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        ls_init_value: float = 1e-5,
        kernel_size: int = 11,
        num_heads: int = 8,
        context: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm1(dim)
        self.token_mixer = TokenMixer(dim, kernel_size, num_heads, context)
        self.norm2 = GroupNorm1(dim)
        self.channel_mixer = ChannelMixer(dim, int(dim * mlp_ratio))
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), ls_init_value))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), ls_init_value))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform features ``x``."""
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * self.token_mixer(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2[:, None, None] * self.channel_mixer(self.norm2(x)))


class PatchEmbed(nn.Module):
    """A convolution of stride s, and batch norm: (B, C, H, W) to (B, out, H / s, W / s)."""

    def __init__(self, dim: int, out: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, out, patch_size, stride=stride, padding=patch_size // 2)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Embed the patches of ``x``."""
        return self.norm(self.proj(x))


class FCViT(HasClassifier):
    """The hierarchy: stages at strides 4, 8, 16 and 32 and, between them, strided convolutions; then a classifier.

    ``network`` holds stages at even places and what is between them at odd ones.

    Args:
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for features as they are.
        dims: C of each stage.
        depths: blocks of each stage.
        mlp_ratios: hidden channels of each stage's channel mixers over C.
        kernel_size, num_heads, context: see :class:`TokenMixer`.
        map_norms: whether maps that :meth:`forward_intermediates` gives are normed (``norm0``, ``norm2``, ...), as in
            released detectors; the next stage gets them as they are.
        stem: what brings images to the first stage; None for the publication's 7x7 convolution of stride 4.
        stem_stride: by how much the stem makes images smaller.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0.
        ls_init_value: see :class:`Block`.

    Raises:
        UserError: channels of a stage that heads or the bottleneck do not divide.
    """

    architecture = "FCViT"

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        kernel_size: int = 11,
        num_heads: int = 8,
        context: bool = True,
        map_norms: bool = False,
        stem: nn.Module | None = None,
        stem_stride: int = 4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        ls_init_value: float = 1e-5,
    ) -> None:
        super().__init__()
        if any(dim % math.lcm(8, num_heads) for dim in dims):
            raise UserError(f"dims are {tuple(dims)}; use multiples of 8 and of {num_heads} heads.")
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = dims[-1]
        self.feature_info = [
            {"module": f"network.{2 * stage}", "num_chs": dim, "reduction": stem_stride * 2**stage}
            for stage, dim in enumerate(dims)
        ]
        self.grad_checkpointing = False

        self.patch_embed = stem if stem is not None else PatchEmbed(in_chans, dims[0], 7, stem_stride)
        rates_of_stages: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        network: list[nn.Module] = []
        for stage, (dim, rates) in enumerate(zip(dims, rates_of_stages, strict=True)):
            if stage:
                network.append(PatchEmbed(dims[stage - 1], dim, 3, 2))
            blocks = (
                Block(dim, mlp_ratios[stage], rate, ls_init_value, kernel_size, num_heads, context) for rate in rates
            )
            network.append(nn.Sequential(*blocks))
        self.network = nn.ModuleList(network)
        self.map_norms = map_norms
        for stage, dim in enumerate(dims if map_norms else ()):
            self.add_module(f"norm{2 * stage}", GroupNorm1(dim))
        self.norm: nn.Module = GroupNorm1(dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes > 0 else nn.Identity()
        self.apply(_initialise)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Any:
        """Layers for layer-wise learning rates; coarsely, a stage goes with the convolution before it."""
        if not coarse:
            return {"stem": r"^patch_embed", "blocks": [(r"^network\.(\d+)\.(\d+)", None), (r"^network\.(\d+)", (0,))]}

        def stage(name: str) -> int:
            kind, *place = name.split(".")
            return 0 if kind == "patch_embed" else 1 + (int(place[0]) + 1) // 2 if kind == "network" else 99

        return stage

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to features (B, C, H, W)."""
        x = self.patch_embed(x)
        for part in self.network:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_seq(part, x) if isinstance(part, nn.Sequential) else part(x)
            else:
                x = part(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C, H, W) to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        if self.global_pool:
            x = self.head_drop(x.mean(dim=(2, 3)))
            return x if pre_logits else self.head(x)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features (B, C, H, W) of chosen stages, as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: stages; the last n for an int, all for None.
            norm: whether the final norm is applied to the last stage's, where it has none of its own (``map_norms``).
            stop_early: whether to stop after the last chosen stage.
            output_fmt: NCHW.
            intermediates_only: whether the final features are left out.
        """
        if output_fmt != "NCHW":
            raise UserError(f"FCViT gives features as NCHW, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.feature_info), indices)
        features = []
        x = self.patch_embed(x)
        for place, part in enumerate(self.network):
            if stop_early and place > 2 * last:
                break
            if self.grad_checkpointing and isinstance(part, nn.Sequential):
                x = checkpoint_seq(part, x)
            else:
                x = part(x)
            if place % 2 == 0 and place // 2 in take:
                if self.map_norms:
                    features.append(self.get_submodule(f"norm{place}")(x))
                else:
                    features.append(self.norm(x) if norm and place == len(self.network) - 1 else x)
        return features if intermediates_only else (self.norm(x), features)


def _initialise(module: nn.Module) -> None:
    """Linear layers 0.02 large, convolutions of token and channel mixers and of patches by their fan-out."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released tensors to ours. A classifier's file has no norms of maps, with which a detector begins: they stay."""
    norms = {name: value for name, value in model.state_dict().items() if re.match(r"norm\d+\.", name)}
    return {**({} if any(name in state_dict for name in norms) else norms), **state_dict}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: as released.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`FCViT`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no FCViT called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": False,
        "pool_size": (7, 7), "crop_pct": CROP[name], "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD, "first_conv": "patch_embed.proj", "classifier": "head",
    }  # fmt: skip
    features = {"out_indices": kwargs.pop("out_indices", (0, 1, 2, 3)), "feature_cls": "getter"}
    return build_model_with_cfg(
        FCViT, name, False, pretrained_cfg=cfg, feature_cfg=features, **{**VARIANTS[name], **kwargs}
    )
