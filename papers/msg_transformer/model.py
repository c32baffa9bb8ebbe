"""MSG-Transformer: windows that do not overlap exchange what they saw by their messenger tokens.

Fang et al., "MSG-Transformer: Exchanging Local Spatial Information by Manipulating Messenger Tokens", CVPR 2022, arXiv
2105.15168. Tokens attend within windows. Each window has one token more, its messenger, which sums the window up; after
attention, messengers of neighbouring windows swap parts of their channels, which takes no arithmetic, so that the next
block's attention tells each window of the others.

Shapes: B images, R regions of G = shuffle x shuffle windows, M = window^2 local tokens of a window, C channels. A stage
keeps windows together, (B R, G, 1 + M, C), the messenger first; maps have channels last, (B, H, W, C).

Names of modules and parameters are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, to_2tuple, trunc_normal_
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_module
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from common.classifier import HasClassifier
from common.errors import UserError, nearest

#: One row a variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "msg_tiny": {"embed_dim": 64},
    "msg_small": {"embed_dim": 96},
    "msg_base": {"embed_dim": 96, "depths": (2, 4, 28, 4)},
}


def shuffle(messengers: Tensor) -> Tensor:
    """Swap channels of a region's messengers, (B R, G, C): the j-th G-th of the i-th goes to the j-th, as its i-th.

    Raises:
        UserError: C is no multiple of G.
    """
    groups, channels = messengers.shape[1:]
    if channels % groups:
        raise UserError(f"{groups} messengers cannot share {channels} channels; use a multiple of {groups} channels.")
    return messengers.unflatten(2, (groups, -1)).transpose(1, 2).flatten(2)


def average(messengers: Tensor) -> Tensor:
    """Give all messengers of a region, (B R, G, C), their mean."""
    return messengers.mean(dim=1, keepdim=True).expand_as(messengers)


#: What is done to a region's messengers between attention and MLP, by name.
MANIPULATIONS: dict[str, Callable[[Tensor], Tensor] | None] = {"shuffle": shuffle, "average": average, "none": None}


class WindowAttention(nn.Module):
    """Self-attention of each window's messenger and local tokens.

    Local tokens have scores by their distance; those of the messenger have one number a head as a key and one as a
    query.

    Args:
        dim: C.
        num_heads: heads.
        window_size: side of a window, in local tokens.
    """

    derived: ClassVar[tuple[str, ...]] = ("relative_position_index",)

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        self.rel_pos_msg = nn.Parameter(torch.empty(num_heads, 2, 1, 1))
        self.register_buffer("relative_position_index", distance_index(window_size))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        trunc_normal_(self.relative_position_bias_table, std=0.02)
        trunc_normal_(self.rel_pos_msg, std=0.02)

    def recompute_derived(self) -> None:
        """Set the index of distances, which a file may lack."""
        self.relative_position_index = distance_index(self.window_size, self.rel_pos_msg.device)

    def scores_by_distance(self) -> Tensor:
        """What is added to scores, (heads, 1 + M, 1 + M)."""
        local = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        tokens = local.shape[1]
        messenger_as_key, messenger_as_query = self.rel_pos_msg[:, 0], self.rel_pos_msg[:, 1]
        local = torch.cat((messenger_as_key.expand(-1, tokens, 1), local), dim=2)
        return torch.cat((messenger_as_query.expand(-1, 1, tokens + 1), local), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of each window, (windows, 1 + M, C)."""
        windows, tokens, C = x.shape
        q, k, v = self.qkv(x).view(windows, tokens, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        bias = self.scores_by_distance().to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        return self.proj(x.transpose(1, 2).reshape(windows, tokens, C))


def distance_index(window_size: int, device: Any = None) -> Tensor:
    """Where in the table the distance from a key to a query stands, (M, M)."""
    place = torch.arange(window_size, device=device)
    distance = place[:, None] - place[None, :] + window_size - 1
    index = distance[:, None, :, None] * (2 * window_size - 1) + distance[None, :, None, :]
    return index.reshape(window_size**2, window_size**2)


@register_notrace_module
class Block(nn.Module):
    """Attention within windows, exchange of messengers, and an MLP: (B R, G, 1 + M, C) to the same.

    Args:
        dim: C.
        num_heads: heads.
        window_size: side of a window, in local tokens.
        mlp_ratio: hidden channels of the MLP over C.
        drop_path: stochastic depth.
        manipulation: what is done to messengers, of :data:`MANIPULATIONS`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        manipulation: Callable[[Tensor], Tensor] | None = shuffle,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.manipulation = manipulation

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens within windows, then messengers within regions."""
        attended = self.attn(self.norm1(x).flatten(0, 1)).unflatten(0, (-1, x.shape[1]))
        x = x + self.drop_path(attended)
        if self.manipulation is not None and x.shape[1] > 1:
            # The sum is a tensor of its own: no input changes. A copy of all tokens for one in fifty would cost more.
            x[:, :, 0] = self.manipulation(x[:, :, 0])
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halves the maps of local tokens and of messengers by the same 3x3 convolution and norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H / 2, W / 2, 2 C), rounded up."""
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks of one width, and the halving behind them.

    Args:
        blocks: of one width.
        window_size: side of a window, in local tokens.
        shuffle_size: side of a region, in windows.
        downsample: a :class:`PatchMerging`, or None behind the last stage.
    """

    def __init__(
        self, blocks: Sequence[Block], window_size: int, shuffle_size: int, downsample: PatchMerging | None = None
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample
        self.window_size, self.shuffle_size = window_size, shuffle_size
        self.grad_checkpointing = False

    def forward(self, local: Tensor, messengers: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of local tokens (B, H, W, C) and of messengers (B, H / window, W / window, C), before the halving."""
        x = torch.cat(
            (
                partition(messengers, 1, self.shuffle_size),
                partition(local, self.window_size, self.shuffle_size),
            ),
            dim=2,
        )
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        rows, columns = messengers.shape[1], messengers.shape[2]
        return (
            merge(x[:, :, 1:], self.window_size, self.shuffle_size, rows, columns),
            merge(x[:, :, :1], 1, self.shuffle_size, rows, columns),
        )


def partition(x: Tensor, window_size: int, shuffle_size: int) -> Tensor:
    """A map (B, H, W, C) as windows of regions, (B R, G, window^2, C)."""
    B, H, W, C = x.shape
    rows, columns = H // (shuffle_size * window_size), W // (shuffle_size * window_size)
    x = x.view(B, rows, shuffle_size, window_size, columns, shuffle_size, window_size, C)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, shuffle_size**2, window_size**2, C)


def merge(x: Tensor, window_size: int, shuffle_size: int, rows: int, columns: int) -> Tensor:
    """The inverse of :func:`partition`, for maps of ``rows`` x ``columns`` windows."""
    x = x.view(
        -1, rows // shuffle_size, columns // shuffle_size, shuffle_size, shuffle_size, *[window_size] * 2, x.shape[-1]
    )
    x = x.permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(x.shape[0], rows * window_size, columns * window_size, -1)


class PatchEmbed(nn.Module):
    """The stem: a 7x7 convolution with stride 4, and a norm: images (B, in_chans, H, W) to (B, H / 4, W / 4, C)."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, 7, stride=4, padding=2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class MSGTransformer(HasClassifier):
    """The hierarchy, and a classifier of the last stage's messenger.

    Images are padded with zeros below and right until regions divide the maps of all stages: to multiples of 224 pixels
    with the publication's settings. Where the last stage has several windows, their messengers' mean is classified.

    Args:
        img_size: height and width; of no effect, since images of any size may be given at any time.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for the messengers as they are.
        embed_dim: C of the first stage; it doubles from stage to stage.
        depths: blocks of each stage.
        head_dim: channels of a head.
        window_size: side of a window, in local tokens.
        shuffle_sizes: side of each stage's regions, in windows.
        manipulation: what is done to a region's messengers, a name of :data:`MANIPULATIONS`.
        mlp_ratio: hidden channels of MLPs over C.
        stem: makes the embedding of images as maps with channels last, from image channels and C.
        patch_size: pixels a side for a local token, the stride of the stem.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0.

    Raises:
        UserError: an unknown manipulation, or channels that heads or messengers cannot share.
    """

    architecture = "MSG-Transformer"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 4, 12, 4),
        head_dim: int = 32,
        window_size: int = 7,
        shuffle_sizes: Sequence[int] = (4, 4, 2, 1),
        manipulation: str = "shuffle",
        mlp_ratio: float = 4.0,
        stem: Callable[[int, int], nn.Module] = PatchEmbed,
        patch_size: int = 4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if manipulation not in MANIPULATIONS:
            raise UserError(
                f"Messengers have no manipulation {manipulation!r}.{nearest(manipulation, MANIPULATIONS)} There are "
                f"{', '.join(MANIPULATIONS)}."
            )
        dims = [embed_dim * 2**stage for stage in range(len(depths))]
        for dim, size in zip(dims, shuffle_sizes, strict=True):
            if dim % head_dim or dim % size**2:
                raise UserError(
                    f"A stage has {dim} channels; use a multiple of a head's {head_dim} and of {size**2} messengers."
                )
        self.img_size = to_2tuple(img_size)
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = dims[-1]
        self.window_size, self.shuffle_size = window_size, shuffle_sizes[0]
        self.feature_info = [
            {"module": f"layers.{stage}", "num_chs": dim, "reduction": patch_size * 2**stage}
            for stage, dim in enumerate(dims)
        ]
        self.multiple = patch_size * window_size * max(size * 2**stage for stage, size in enumerate(shuffle_sizes))

        self.patch_embed = stem(in_chans, dims[0])
        self.msg_tokens = nn.Parameter(torch.empty(1, shuffle_sizes[0] ** 2, 1, dims[0]))
        rates_of_stages: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.layers = nn.ModuleList()
        for stage, (dim, rates) in enumerate(zip(dims, rates_of_stages, strict=True)):
            blocks = [
                Block(dim, dim // head_dim, window_size, mlp_ratio, rate, MANIPULATIONS[manipulation]) for rate in rates
            ]
            halving = PatchMerging(dim) if dim != dims[-1] else None
            self.layers.append(Stage(blocks, window_size, shuffle_sizes[stage], halving))
        self.norm = nn.LayerNorm(dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes > 0 else nn.Identity()
        trunc_normal_(self.msg_tokens, std=0.02)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays: position biases.

        Messengers are decayed, as in the release, which means to leave them out and calls them by another name.
        """
        return {name for name, _ in self.named_parameters() if name.endswith((".rel_pos_msg", "_bias_table"))}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Any:
        """Layers for layer-wise learning rates."""
        blocks: Any = r"^layers\.(\d+)"
        if not coarse:
            blocks = [(r"^layers\.(\d+)\.blocks\.(\d+)", None), (r"^layers\.(\d+)\.downsample", (99,))]
        return {"stem": r"^(?:patch_embed|msg_tokens)", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.modules():
            if isinstance(stage, Stage):
                stage.grad_checkpointing = enable

    def _stages(self, x: Tensor, stages: int) -> tuple[Tensor, list[Tensor]]:
        """Images to the last of ``stages``' messengers, and to each one's map of local tokens, padding included."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        local = self.patch_embed(x)
        # Every region begins with the same messengers.
        rows, columns = local.shape[1] // self.window_size, local.shape[2] // self.window_size
        size = self.shuffle_size
        messengers = self.msg_tokens.view(1, size, size, -1).repeat(x.shape[0], rows // size, columns // size, 1)
        maps = []
        for number, stage in enumerate(self.layers[:stages]):
            local, messengers = stage(local, messengers)
            maps.append(local)
            if number + 1 < stages:
                halve: Any = stage.downsample
                local, messengers = halve(local), halve(messengers)
        return messengers, maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to the last stage's messengers (B, windows, C)."""
        messengers, _ = self._stages(x, len(self.layers))
        return self.norm(messengers.flatten(1, 2))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Messengers (B, windows, C) to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        x = self.head_drop(x.mean(dim=1) if self.global_pool else x)
        return x if pre_logits else self.head(x)

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
        """Maps (B, C, H, W) of the local tokens of chosen stages, as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: stages; the last n for an int, all for None.
            norm: must be False: the final norm is of messengers.
            stop_early: whether to stop after the last chosen stage.
            output_fmt: NCHW.
            intermediates_only: whether the messengers of :meth:`forward_features` are left out.
        """
        if output_fmt != "NCHW" or norm:
            raise UserError("MSG-Transformer gives maps of local tokens, as NCHW and without a norm.")
        take, last = feature_take_indices(len(self.layers), indices)
        messengers, maps = self._stages(x, last + 1 if stop_early and intermediates_only else len(self.layers))
        chosen = []
        for index in take:
            stride = self.feature_info[index]["reduction"]
            rows, columns = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
            chosen.append(maps[index][:, :rows, :columns].permute(0, 3, 1, 2))
        return chosen if intermediates_only else (self.norm(messengers.flatten(1, 2)), chosen)


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: as released, without patch, window and size of images.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`MSGTransformer`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no MSG-Transformer called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": False,
        "pool_size": None, "crop_pct": 0.875, "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD, "first_conv": "patch_embed.proj", "classifier": "head",
    }  # fmt: skip
    features = {"out_indices": kwargs.pop("out_indices", (0, 1, 2, 3)), "feature_cls": "getter"}
    return build_model_with_cfg(
        MSGTransformer, name, False, pretrained_cfg=cfg, feature_cfg=features, **{**VARIANTS[name], **kwargs}
    )
