"""ConvNeXt and Swin whose third stage spends less on places that are not kept.

Feature maps have to stay whole, for convolutions and windows to come. So a place that is not kept takes a fast path,
one linear map, where the others go through the block's MLP; what mixes places (the depth-wise convolution, attention)
stays dense.

In training both paths are computed everywhere, in two streams of features, and the decision says which of the two is
passed on: the loss depends on a decision by the difference between the streams.

Shapes: B images, H x W places, C channels; within the sparse part of a stage features are (B, H, W, C).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from timm.layers import LayerNorm
from timm.models._features_fx import register_notrace_module
from timm.models._manipulate import checkpoint
from timm.models.convnext import ConvNeXt, ConvNeXtBlock, ConvNeXtStage
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerStage
from torch import Tensor, nn

from papers.dynamicvit.selection import Predictor, Sparse, Sparsified, draw, initialise, places_kept

STAGE = 2  # the third, which has most blocks


class TwoPaths(nn.Module):
    """A residual block with a full and a fast path for each place, after what mixes places.

    Attributes:
        mixing_is_residual: whether the mixing has a shortcut of its own, as attention has and ConvNeXt's convolution
            has not; the paths' shortcut begins behind it then.
    """

    mixing_is_residual: bool

    def mix(self, x: Tensor) -> Tensor:
        """Mix places, with the mixing's own shortcut where it has one: (B, H, W, C) -> (B, H, W, C)."""
        raise NotImplementedError

    def full(self, x: Tensor) -> Tensor:
        """The host's residual branch of places (..., C)."""
        raise NotImplementedError

    def fast(self, x: Tensor) -> Tensor:
        """The cheap branch of places (..., C)."""
        raise NotImplementedError

    def everywhere(self, x: Tensor) -> Tensor:
        """The host's block: the full path at all places."""
        mixed = self.mix(x)
        return (mixed if self.mixing_is_residual else x) + self.full(mixed)

    def by_rank(self, x: Tensor, order: Tensor, count: int) -> Tensor:
        """The full path at the first ``count`` places of ``order`` (B, H x W), the fast path at the others."""
        mixed = self.mix(x)
        index = order[..., None].expand(-1, -1, x.shape[-1])
        places = mixed.flatten(1, 2).gather(1, index)
        branches = torch.cat((self.full(places[:, :count]), self.fast(places[:, count:])), dim=1)
        update = torch.empty_like(branches).scatter(1, index, branches).view_as(x)
        return (mixed if self.mixing_is_residual else x) + update

    def both(self, full: Tensor, fast: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Both paths everywhere, in two streams; ``kept`` (B, H, W, 1) says which stream each place is mixed from.

        A stream takes what is mixed where it is the chosen one, and its own features elsewhere, as released.
        """
        mixed = self.mix(choose(full, fast, kept))
        shortcuts = (mixed, mixed) if self.mixing_is_residual else (full, fast)
        return (
            shortcuts[0] + self.full(choose(mixed, full, kept)),
            shortcuts[1] + self.fast(choose(fast, mixed, kept)),
        )


def choose(full: Tensor, fast: Tensor, kept: Tensor) -> Tensor:
    """``full`` where a place is kept and ``fast`` elsewhere, differentiable in the decision."""
    return full * kept + fast * (1 - kept)


class TwoPathConvNeXtBlock(TwoPaths, ConvNeXtBlock):
    """ConvNeXt's block with a fast path."""

    mixing_is_residual = False
    fast_path: nn.Sequential
    fast_path_gamma: nn.Parameter | None

    @classmethod
    def convert(cls, block: Any) -> None:
        """Add the fast path to a block; the rest of it stays as it is."""
        block.__class__ = cls
        dim = block.conv_dw.out_channels
        block.fast_path = nn.Sequential(LayerNorm(dim, eps=1e-6), nn.Linear(dim, dim)).apply(initialise)
        gamma = block.gamma
        block.fast_path_gamma = None if gamma is None else nn.Parameter(gamma.detach().clone())

    def mix(self, x: Tensor) -> Tensor:
        """The depth-wise convolution."""
        return self.conv_dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def full(self, x: Tensor) -> Tensor:
        """The MLP behind its norm."""
        x = self.mlp(self.norm(x))
        return self.drop_path(x if self.gamma is None else self.gamma * x)

    def fast(self, x: Tensor) -> Tensor:
        """A linear map behind a norm."""
        x = self.fast_path(x)
        return self.drop_path(x if self.fast_path_gamma is None else self.fast_path_gamma * x)


class TwoPathSwinBlock(TwoPaths, SwinTransformerBlock):
    """Swin's block with a fast path."""

    mixing_is_residual = True
    fastmlp: nn.Sequential

    @classmethod
    def convert(cls, block: Any) -> None:
        """Add the fast path to a block; the rest of it stays as it is."""
        block.__class__ = cls
        path = nn.Sequential(nn.LayerNorm(block.dim), nn.Linear(block.dim, block.dim)).apply(initialise)
        block.fastmlp = nn.Sequential(OrderedDict(fc1=path))

    def mix(self, x: Tensor) -> Tensor:
        """Attention within windows, with its shortcut."""
        return x + self.drop_path1(self._attn(self.norm1(x)))

    def full(self, x: Tensor) -> Tensor:
        """The MLP behind its norm."""
        return self.drop_path2(self.mlp(self.norm2(x)))

    def fast(self, x: Tensor) -> Tensor:
        """A linear map behind a norm."""
        return self.drop_path2(self.fastmlp(x))


class SparseStage(nn.Module):
    """A stage whose blocks from the first location on have two paths; before each location places are scored anew.

    A place that was not kept can be kept later.

    Attributes:
        locations: blocks before which places are scored.
        keep_rates: share of the places that each of these keeps.
        channels_first: whether features are (B, C, H, W) before and after the stage, as ConvNeXt's are.
    """

    locations: tuple[int, ...]
    keep_rates: tuple[float, ...]
    channels_first: bool
    downsample: Any
    blocks: Any
    score_predictor: Any
    grad_checkpointing: bool

    def forward(self, x: Tensor) -> Tensor:
        """Features of the stage before to this stage's."""
        return self.forward_sparse(x)[0]

    def forward_sparse(self, x: Tensor, noise: Sequence[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The stage's features, and its decisions (B, H x W); ``noise`` as of `Sparse.forward_sparse`."""
        x = self.downsample(x)
        first, blocks = self.locations[0], list(self.blocks)
        for block in blocks[:first]:
            x = self._run(block, x)
        x = x.permute(0, 2, 3, 1) if self.channels_first else x
        sparse = self._in_training if self.training else self._in_inference
        x, decisions = sparse(x, blocks, noise)
        return (x.permute(0, 3, 1, 2) if self.channels_first else x), decisions

    def _run(self, function: Callable[..., Any], *inputs: Any) -> Any:
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint(function, *inputs)
        return function(*inputs)

    def _step(self, index: int) -> int | None:
        """Which step of selection, if any, stands before a block."""
        step = self.locations.index(index) if index in self.locations else None
        return None if step is None or self.keep_rates[step] == 1 else step

    def _in_inference(self, x: Tensor, blocks: list[Any], noise: object) -> tuple[Tensor, tuple[Tensor, ...]]:
        decisions: list[Tensor] = []
        order, count = None, 0
        for index in range(self.locations[0], len(blocks)):
            step = self._step(index)
            if step is not None:
                scores = self.score_predictor[step](x.flatten(1, 2))[..., 0]
                order, count = (
                    scores.argsort(dim=1, descending=True),
                    places_kept(scores.shape[1], self.keep_rates[step]),
                )
                decisions.append(torch.zeros_like(scores).scatter(1, order[:, :count], 1.0))
            block = blocks[index]
            x = self._run(block.everywhere, x) if order is None else self._run(block.by_rank, x, order, count)
        return x, tuple(decisions)

    def _in_training(
        self, x: Tensor, blocks: list[Any], noise: Sequence[Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        decisions: list[Tensor] = []
        full, fast, kept = x, x, None
        for index in range(self.locations[0], len(blocks)):
            step = self._step(index)
            if step is not None:
                seen = full if kept is None else choose(full, fast, kept)
                scores = self.score_predictor[step](seen.flatten(1, 2))
                kept = draw(scores, None if noise is None else noise[step]).view(*x.shape[:3], 1)
                decisions.append(kept.flatten(1))
            if kept is None:
                full = fast = self._run(blocks[index].everywhere, full)
            else:
                full, fast = self._run(blocks[index].both, full, fast, kept)
        return (full if kept is None else choose(full, fast, kept)), tuple(decisions)


@register_notrace_module  # as many places are kept as a map has
class SparseConvNeXtStage(SparseStage, ConvNeXtStage):
    """ConvNeXt's."""

    channels_first = True


@register_notrace_module
class SparseSwinStage(SparseStage, SwinTransformerStage):
    """Swin's."""

    channels_first = False


def _convert(stage: Any, kind: type[SparseStage], block: Any, locations: Sequence[int], dim: int, eps: float) -> None:
    """Make a stage of timm's sparse, in place."""
    stage.__class__ = kind
    stage.locations = tuple(locations)
    for each in stage.blocks[locations[0] :]:
        block.convert(each)
    stage.score_predictor = nn.ModuleList(Predictor(dim, eps) for _ in locations)


class DynamicConvNeXt(Sparse, ConvNeXt):
    """ConvNeXt (Liu et al., "A ConvNet for the 2020s", CVPR 2022) with a sparse third stage.

    Args:
        locations: blocks of the third stage before which places are scored.
        keep_rate: see `Sparse.set_keep_rate`.
        **kwargs: of timm's ``ConvNeXt``.
    """

    decay = "difference"

    def __init__(
        self, locations: Sequence[int] = (1, 2, 3), keep_rate: float | Sequence[float] = 0.7, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        dim: Any = self.feature_info[STAGE]["num_chs"]
        _convert(self.stages[STAGE], SparseConvNeXtStage, TwoPathConvNeXtBlock, locations, dim, eps=1e-6)
        self.set_keep_rate(keep_rate)

    @property
    def selector(self) -> Any:
        """The stage that selects."""
        return self.stages[STAGE]

    def forward_sparse(self, x: Tensor, noise: Sequence[Tensor] | None = None) -> Sparsified:
        """As `Sparse.forward_sparse`; tokens are the normed places of the last stage."""
        x, stages = self.stem(x), list(self.stages)
        for stage in stages[:STAGE]:
            x = stage(x)
        x, decisions = self.selector.forward_sparse(x, noise)
        for stage in stages[STAGE + 1 :]:
            x = stage(x)
        x, head = self.norm_pre(x), cast("Any", self.head)
        return Sparsified(self.forward_head(x), head.norm(x).flatten(2).transpose(1, 2), decisions)


class DynamicSwin(Sparse, SwinTransformer):
    """Swin (Liu et al., "Swin Transformer", ICCV 2021) with a sparse third stage.

    Args:
        locations: blocks of the third stage before which places are scored.
        keep_rate: see `Sparse.set_keep_rate`.
        **kwargs: of timm's ``SwinTransformer``.
    """

    decay = "difference"

    def __init__(
        self, locations: Sequence[int] = (1, 2, 3), keep_rate: float | Sequence[float] = 0.7, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        dim: Any = self.feature_info[STAGE]["num_chs"]
        _convert(self.layers[STAGE], SparseSwinStage, TwoPathSwinBlock, locations, dim, eps=1e-5)
        self.set_keep_rate(keep_rate)

    @property
    def selector(self) -> Any:
        """The stage that selects."""
        return self.layers[STAGE]

    def forward_sparse(self, x: Tensor, noise: Sequence[Tensor] | None = None) -> Sparsified:
        """As `Sparse.forward_sparse`; tokens are the normed places of the last stage."""
        x, stages = self.patch_embed(x), list(self.layers)
        for stage in stages[:STAGE]:
            x = stage(x)
        x, decisions = self.selector.forward_sparse(x, noise)
        for stage in stages[STAGE + 1 :]:
            x = stage(x)
        x = self.norm(x)
        return Sparsified(self.forward_head(x), x.flatten(1, 2), decisions)


#: Released names and ours, which are timm's, each with the other's replacement; rules apply in this order.
_CONVNEXT = (
    (r"^downsample_layers\.0\.", r"stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^score_predictor\.", rf"stages.{STAGE}.score_predictor."),
    (r"\.dwconv\.", r".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"^norm\.", r"head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
_RELEASED_CONVNEXT = (
    (r"^stem\.", r"downsample_layers.0."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d)\.blocks\.(\d+)\.", r"stages.\1.\2."),
    (rf"^stages\.{STAGE}\.score_predictor\.", r"score_predictor."),
    (r"\.conv_dw\.", r".dwconv."),
    (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
    (r"^head\.norm\.", r"norm."),
    (r"^head\.fc\.", r"head."),
)
#: Of Swin, the downsampling is at the end of a stage there, and at the beginning of the next here.
_SWIN = (
    *((rf"^layers\.{stage}\.downsample\.", rf"layers.{stage + 1}.downsample.") for stage in reversed(range(3))),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
_RELEASED_SWIN = (
    *((rf"^layers\.{stage + 1}\.downsample\.", rf"layers.{stage}.downsample.") for stage in range(3)),
    (r"^head\.fc\.", r"head."),
)
#: Linear maps of the predictors, which are 1x1 convolutions in the release of ConvNeXt.
_POINTWISE = re.compile(r"score_predictor\.\d+\.(?:in_conv\.1|out_conv\.\d)\.weight$")
#: What follows from the sizes of Swin, and is stored in released files all the same.
_DERIVED = ("relative_position_index", "attn_mask")


def _renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to ours, which are timm's; names of ours stay."""
    rules: Sequence[tuple[str, str]] = _SWIN if isinstance(model, SwinTransformer) else _CONVNEXT
    if any(name.startswith(("head.fc.", "layers.3.downsample.", "stem.")) for name in state_dict):
        rules = ()  # these are ours
    return {
        _renamed(name, rules): value.flatten(1) if _POINTWISE.search(name) else value
        for name, value in state_dict.items()
        if not name.endswith(_DERIVED)
    }


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our names to released ones; the inverse of `checkpoint_filter_fn`."""
    if isinstance(model, SwinTransformer):
        return {_renamed(name, _RELEASED_SWIN): value for name, value in state_dict.items()}
    return {
        _renamed(name, _RELEASED_CONVNEXT): value[:, :, None, None]
        if _POINTWISE.search(name) and value.ndim == 2
        else value
        for name, value in state_dict.items()
    }
