"""Residual networks and vision transformers with evolving attention, see `papers.evolving_attention.maps`.

The residual network is an attention-augmented ResNet (Bello et al., "Attention Augmented Convolutional Networks", ICCV
2019): from the second stage on, a part of the channels of each 3x3 convolution comes from self-attention over the map,
with relative positions. Each such layer hands its evolved map to the next one whose map has the same size. The vision
transformer is timm's with maps that evolve from block to block.

Shapes: B images, C channels, H x W positions or N = H W of them, h heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import to_2tuple
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_module
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.classifier import HasClassifier
from common.errors import UserError, nearest
from papers.evolving_attention.maps import Evolution, relative_terms
from papers.evolving_attention.released import checkpoint_filter_fn, released_state_dict  # noqa: F401  (found here)

#: One row a variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "ea_resnet50": {"depths": (3, 4, 6, 3)},
    "ea_resnet101": {"depths": (3, 4, 23, 3)},
}
VIT_VARIANTS: dict[str, dict[str, Any]] = {
    "ea_vit_small_patch16_224": {"embed_dim": 384, "depth": 12, "num_heads": 6},
}
#: Statistics of the residual networks' images, in [0, 1]: the release subtracts means from pixels and divides nothing.
MEAN, STD = (123.68 / 255, 116.78 / 255, 103.94 / 255), (1 / 255, 1 / 255, 1 / 255)
#: Shares of a 3x3 convolution's output that are channels of all keys, and of all values, and heads.
KEYS, VALUES, HEADS = 0.25, 0.125, 8


def pooled(x: Tensor) -> Tensor:
    """Means over 3x3 positions 2 apart, (B, C, H, W) to (B, C, ceil(H / 2), ceil(W / 2)), edges as in TensorFlow."""
    padding = (x.shape[2] % 2, x.shape[3] % 2)
    return F.avg_pool2d(x, 3, 2, padding, ceil_mode=True, count_include_pad=False)


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """A map (B, C, H, W) of a larger ``size``, linearly along both axes, with place i at place i H / size of ``x``."""
    for axis, length in zip((2, 3), size, strict=True):
        places = torch.arange(length, device=x.device) * (x.shape[axis] / length)
        before = places.long()
        after = (before + 1).clamp(max=x.shape[axis] - 1)
        share = (places - before).to(x.dtype).unsqueeze(-1) if axis == 2 else (places - before).to(x.dtype)
        x = torch.lerp(x.index_select(axis, before), x.index_select(axis, after), share)
    return x


@register_notrace_module
class AugmentedConvolution(nn.Module):
    """A 3x3 convolution, a part of whose output comes from attention that evolves.

    Args:
        in_chans: channels of the map.
        out: channels of the output; those from attention are the last.
        grid: rows and columns of the map that attention sees.
        stride: of the output; attention sees means over 3x3 positions where it is 2.
        coarse: whether attention sees means over 3x3 positions 2 apart, once more; its output is enlarged.
        evolves: whether there is a previous map of the same size.
        alpha, beta: see :class:`Evolution`.
    """

    def __init__(
        self,
        in_chans: int,
        out: int,
        grid: tuple[int, int],
        stride: int = 1,
        coarse: bool = False,
        evolves: bool = True,
        alpha: float = 1.0,
        beta: float = 0.5,
    ) -> None:
        super().__init__()
        keys, values = int(out * KEYS), int(out * VALUES)
        self.sizes, self.grid, self.stride, self.coarse = (keys, keys, values), grid, stride, coarse
        self.conv = nn.Conv2d(in_chans, out - values, 3, stride, padding=1, bias=False)
        self.kqv = nn.Conv2d(in_chans, 2 * keys + values, 1)
        self.head_dim = keys // HEADS
        self.rows = nn.Parameter(self.head_dim**-0.5 * torch.randn(2 * grid[0] - 1, self.head_dim))
        self.columns = nn.Parameter(self.head_dim**-0.5 * torch.randn(2 * grid[1] - 1, self.head_dim))
        self.evolution = Evolution(HEADS, alpha, beta) if evolves else None
        self.proj = nn.Conv2d(values, values, 1)

    def forward(self, x: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve and attend.

        Args:
            x: (B, C, H, W).
            previous: the map of the layer before, (B, h, N, N); ignored where this layer does not evolve it.

        Returns:
            The output (B, out, H / stride, W / stride), and this layer's map for the next, before softmax.

        Raises:
            UserError: attention would see another grid than the layer was built for.
        """
        convolved = self.conv(x)
        x = pooled(x) if self.stride == 2 else x
        size = x.shape[2:]
        x = pooled(x) if self.coarse else x
        if x.shape[2:] != self.grid:
            raise UserError(
                f"Attention over {x.shape[2]}x{x.shape[3]} positions has no relative positions for them; build the "
                "model with img_size=<the size you use>."
            )
        k, q, v = (part.unflatten(1, (HEADS, -1)).mT for part in self.kqv(x).flatten(2).split(self.sizes, dim=1))
        q = q * self.head_dim**-0.5
        logits = q @ k.mT + self._positions(q)
        if self.evolution is not None and previous is not None:
            logits = self.evolution(logits, previous)
        attended = (logits.softmax(dim=-1) @ v).mT.flatten(1, 2).unflatten(2, self.grid)
        attended = self.proj(attended)
        attended = enlarged(attended, size) if self.coarse else attended
        return torch.cat((convolved, attended), dim=1), logits

    def _positions(self, q: Tensor) -> Tensor:
        """What relative rows and columns add to logits: queries (B, h, N, d) to (B, h, N, N)."""
        q = q.unflatten(2, self.grid)
        columns = relative_terms(q, self.columns)  # (B, h, H, W, W)
        rows = relative_terms(q.transpose(2, 3), self.rows).transpose(2, 3)  # (B, h, H, W, H)
        return (rows[..., None] + columns[..., None, :]).flatten(4).flatten(2, 3)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """As the release has it: an average over about 333 batches."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.003)


class Bottleneck(nn.Module):
    """A residual block: 1x1, 3x3 (augmented or not) and 1x1 convolutions.

    Args:
        in_chans: channels of the map.
        width: channels inside; four times as many come out.
        stride: of the 3x3 convolution.
        attention: arguments of :class:`AugmentedConvolution`; None for a plain convolution.
    """

    def __init__(self, in_chans: int, width: int, stride: int, attention: dict[str, Any] | None) -> None:
        super().__init__()
        self.shortcut = None
        if stride > 1 or in_chans != 4 * width:
            conv = nn.Conv2d(in_chans, 4 * width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, batch_norm(4 * width))
        self.conv1, self.bn1 = nn.Conv2d(in_chans, width, 1, bias=False), batch_norm(width)
        self.conv2: nn.Module
        if attention is None:
            self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        else:
            self.conv2 = AugmentedConvolution(width, width, stride=stride, **attention)
        self.bn2 = batch_norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), batch_norm(4 * width)

    def forward(self, x: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Features (B, C, H, W) and the previous map to features and this block's map, None where it has none."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        attention = None
        if isinstance(self.conv2, AugmentedConvolution):
            x, attention = self.conv2(x, previous)
        else:
            x = self.conv2(x)
        x = self.bn3(self.conv3(torch.relu(self.bn2(x))))
        return torch.relu(x + shortcut), attention


class EAResNet(HasClassifier):
    """A ResNet with evolving attention in all stages but the first.

    Args:
        img_size: height and width in pixels, which relative positions are tied to.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for features as they are.
        depths: blocks of each stage.
        width: channels inside the blocks of the first stage; each stage doubles them.
        alpha, beta: see :class:`Evolution`.
        drop_rate: dropout before the classifier.
    """

    architecture = "EA-ResNet"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        alpha: float = 1.0,
        beta: float = 0.5,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.img_size, self.grad_checkpointing = to_2tuple(img_size), False
        self.conv1 = nn.Conv2d(in_chans, width, 7, 2, padding=3, bias=False)
        self.bn1 = batch_norm(width)
        self.stages, self.feature_info = nn.ModuleList(), []
        height, columns = (-(-side // 4) for side in self.img_size)
        channels, previous = width, (0, 0)
        for stage, depth in enumerate(depths):
            inner, blocks = width * 2**stage, nn.ModuleList()
            if stage:
                height, columns = -(-height // 2), -(-columns // 2)
            coarse = stage == 1
            grid = (-(-height // 2), -(-columns // 2)) if coarse else (height, columns)
            for index in range(depth):
                attention = None
                if stage:
                    attention = {"grid": grid, "coarse": coarse, "evolves": grid == previous}
                    attention |= {"alpha": alpha, "beta": beta}
                    previous = grid
                blocks.append(Bottleneck(channels, inner, 2 if stage and not index else 1, attention))
                channels = 4 * inner
            self.stages.append(blocks)
            self.feature_info.append({"module": f"stages.{stage}", "num_chs": channels, "reduction": 4 * 2**stage})
        self.num_features = self.head_hidden_size = channels
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(channels, num_classes) if num_classes > 0 else nn.Identity()
        for part in self.modules():
            if isinstance(part, nn.Conv2d):  # TensorFlow's variance scaling
                nn.init.trunc_normal_(part.weight, std=part.weight[0].numel() ** -0.5 / 0.87962566)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise learning rates: stages where ``coarse``, else blocks."""
        return {"stem": r"^conv1|^bn1", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def _stages(self, x: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Each stage's features (B, C, H, W), and its layers' evolved maps."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, padding=(x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True)
        previous = None
        for stage in self.stages:
            maps = []
            for block in stage:  # type: ignore[attr-defined]
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    x, attention = checkpoint(block, x, previous, use_reentrant=False)
                else:
                    x, attention = block(x, previous)
                if attention is not None:
                    previous = attention
                    maps.append(attention)
            yield x, maps

    def features_and_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (B, in_chans, height, width) to features (B, C, H, W) and each layer's evolved map, before softmax."""
        maps = []
        for x, of_stage in self._stages(x):  # noqa: B007, B020 (the last features are kept)
            maps += of_stage
        return x, maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to features (B, C, H, W)."""
        return self.features_and_maps(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C, H, W) to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        x = x.mean(dim=(2, 3)) if self.global_pool else x.permute(0, 2, 3, 1)
        x = self.head_drop(x)
        x = x if pre_logits else self.head(x)
        return x if self.global_pool else x.permute(0, 3, 1, 2)

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
            norm: of no effect, since no norm follows the last stage.
            stop_early: whether to stop after the last chosen stage.
            output_fmt: NCHW.
            intermediates_only: whether the final features are left out.
        """
        if output_fmt != "NCHW":
            raise UserError(f"EA-ResNet gives features as NCHW, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.stages), indices)
        features = []
        for index, (x, _) in enumerate(self._stages(x)):  # noqa: B020
            if index in take:
                features.append(x)
            if stop_early and index == last:
                break
        return features if intermediates_only else (x, features)


class EvolvingAttention(Attention):
    """Self-attention of timm whose map evolves: tokens (B, N, C) and the previous map to (B, N, C) and its own.

    Args:
        dim: C.
        num_heads: h.
        **kwargs: of timm's ``Attention``.

    Attributes:
        alpha, beta: see :class:`Evolution`; of the class, since timm's blocks take a class.
    """

    alpha, beta = 0.5, 0.5

    def __init__(self, dim: int, num_heads: int = 8, **kwargs: Any) -> None:
        super().__init__(dim, num_heads, **kwargs)
        self.evolution = Evolution(num_heads, self.alpha, self.beta) if self.alpha or self.beta else None

    def forward(self, x: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Attend; the map that is returned, (B, h, N, N), is evolved, before softmax."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        logits = (self.q_norm(q) * self.scale) @ self.k_norm(k).mT
        if self.evolution is not None and previous is not None:
            logits = self.evolution(logits, previous)
        x = (self.attn_drop(logits.softmax(dim=-1)) @ v).transpose(1, 2).flatten(2)
        return self.proj_drop(self.proj(self.norm(x))), logits


def _evolving(alpha: float, beta: float) -> type[EvolvingAttention]:
    """The attention with these shares."""
    return type("EvolvingAttention", (EvolvingAttention,), {"alpha": alpha, "beta": beta})


class EvolvingVisionTransformer(VisionTransformer):
    """The vision transformer of timm, with attention maps that evolve from block to block.

    Args:
        alpha, beta: see :class:`Evolution`.
        **kwargs: of timm's ``VisionTransformer``.
    """

    def __init__(self, alpha: float = 0.5, beta: float = 0.5, **kwargs: Any) -> None:
        super().__init__(attn_layer=_evolving(alpha, beta), **kwargs)
        self.blocks[0].attn.evolution = None  # type: ignore[union-attr]

    def _steps(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens (B, N, C) after each block, and its evolved map."""
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        previous = None
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x, previous = checkpoint(_run, block, x, previous, use_reentrant=False)
            else:
                x, previous = _run(block, x, previous)
            yield x, previous

    def features_and_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (B, in_chans, height, width) to tokens (B, N, C) and each block's evolved map, before softmax."""
        maps = []
        for x, evolved in self._steps(x):  # noqa: B007, B020 (the last tokens are kept)
            maps.append(evolved)
        return self.norm(x), maps

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images (B, in_chans, height, width) to tokens (B, N, C)."""
        return self.features_and_maps(x)[0]

    def forward_intermediates(  # type: ignore[override]  # without masks, and without tokens before those of patches
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features of patches after chosen blocks, as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: blocks; the last n for an int, all for None.
            norm: whether the final norm is applied to them.
            stop_early: whether to stop after the last chosen block.
            output_fmt: NCHW for maps (B, C, H, W), NLC for tokens (B, N, C).
            intermediates_only: whether the final tokens are left out.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise UserError(f"A vision transformer gives features as NCHW or NLC, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.blocks), indices)
        grid = self.patch_embed.dynamic_feat_size((x.shape[2], x.shape[3]))
        features = []
        for index, (x, _) in enumerate(self._steps(x)):  # noqa: B020
            if index in take:
                patches = (self.norm(x) if norm else x)[:, self.num_prefix_tokens :]
                features.append(patches.unflatten(1, grid).permute(0, 3, 1, 2) if output_fmt == "NCHW" else patches)
            if stop_early and index == last:
                break
        return features if intermediates_only else (self.norm(x), features)


def _run(block: Any, x: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
    """A block of timm's with evolving attention."""
    attended, attention = block.attn(block.norm1(x), previous)
    x = x + block.drop_path1(block.ls1(attended))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), attention


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS` or :data:`VIT_VARIANTS`.

    Args:
        name: as in the tables.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`EAResNet` or :class:`EvolvingVisionTransformer`, and timm's ``features_only`` and
            ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    known = (*VARIANTS, *VIT_VARIANTS)
    if name not in known:
        raise UserError(f"There is no network with evolving attention called {name!r}.{nearest(name, known)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    vit = name in VIT_VARIANTS
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": True,
        "pool_size": None if vit else (7, 7), "crop_pct": 0.875, "interpolation": "bicubic" if vit else "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN if vit else MEAN, "std": IMAGENET_DEFAULT_STD if vit else STD,
        "first_conv": "patch_embed.proj" if vit else "conv1", "classifier": "head",
    }  # fmt: skip
    kind, settings = (EvolvingVisionTransformer, VIT_VARIANTS) if vit else (EAResNet, VARIANTS)
    features = {"out_indices": kwargs.pop("out_indices", 3 if vit else (0, 1, 2, 3)), "feature_cls": "getter"}
    arguments = {**settings[name], **kwargs}
    return build_model_with_cfg(kind, name, False, pretrained_cfg=cfg, feature_cfg=features, **arguments)
