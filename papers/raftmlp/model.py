"""RaftMLP: an MLP-Mixer that mixes tokens along columns, then along rows, for rafts of channels at a time.

Tatsunami and Taki, "RaftMLP: How Much Can Be Done Without Attention and with Less Spatial Locality?", ACCV 2022, arXiv
2108.04384. An MLP-Mixer (Tolstikhin et al., NeurIPS 2021) has an MLP over all tokens, the same for every channel.
RaftMLP has one over the tokens of a column and one over those of a row, which have far fewer weights, and gives each
the tokens of r channels at once, a raft, so that channels meet already there. Patches of several sizes around a token
are embedded together, and maps of another size than the trained one are resized to it for token mixing.

Shapes: B images, C channels, H x W tokens, r channels of a raft, N tokens of a line (a column or a row).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, Mlp, to_2tuple
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_function
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from common.classifier import HasClassifier
from common.errors import UserError, nearest
from papers.raftmlp.released import checkpoint_filter_fn, released_state_dict  # noqa: F401  (found beside the class)

_PYRAMID: dict[str, Any] = {"depths": (2, 2, 6, 2), "patches": (4, 2, 2, 2)}
_SCALES: dict[str, Any] = {**_PYRAMID, "kernels": ((4, 8), (2, 4), (2, 4), (2,))}
_FLAT: dict[str, Any] = {"depths": (12,), "patches": (16,), "dims": (768,)}

#: One row a variant: those of the publication, of its ablations and of its first version (12 and 36 blocks).
VARIANTS: dict[str, dict[str, Any]] = {
    "raftmlp_s": {**_SCALES, "dims": (64, 128, 256, 512)},
    "raftmlp_m": {**_SCALES, "dims": (96, 192, 384, 768)},
    "raftmlp_l": {**_SCALES, "dims": (128, 192, 512, 1024)},
    "raftmlp_hierarchy_m": {**_PYRAMID, "dims": (96, 192, 384, 768)},
    "raftmlp_r4": {**_FLAT, "raft": 4},
    "raftmlp_r_1": {**_FLAT, "raft": 1},
    "raftmlp_r_2": _FLAT,
    "raftmlp_r_2_cross_mlp_emb": {**_FLAT, "kernels": ((16, 32),)},
    "raftmlp_deep": {"depths": (36,), "patches": (16,), "dims": (384,)},
    "raftmlp_org_mixer": {**_FLAT, "mixing": "all"},
}


@register_notrace_function
def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (B, H, W, C) of another ``size``, by bicubic interpolation; as it is where it has that size."""
    if x.shape[1:3] == size:
        return x
    x = F.interpolate(x.permute(0, 3, 1, 2), size, mode="bicubic", align_corners=False)
    return x.permute(0, 2, 3, 1)


@register_notrace_function
def enlarged(x: Tensor, stride: int) -> Tensor:
    """A map (B, C, H, W) with sides that are multiples of ``stride``, by bicubic interpolation where they were not."""
    height, width = x.shape[2:]
    whole = (-(-height // stride) * stride, -(-width // stride) * stride)
    return x if (height, width) == whole else F.interpolate(x, whole, mode="bicubic", align_corners=False)


def _from_left(layer: Any, x: Tensor) -> Tensor:
    """A linear layer of the first axis of (B, N, M), not of the last one."""
    return torch.baddbmm(layer.bias.unsqueeze(1), layer.weight.expand(x.shape[0], -1, -1), x)


class LineMixer(nn.Module):
    """An MLP over the first axis of a map, for each raft of channels: (B, N, M, C) -> (B, N, M, C).

    Channels c, c + C / r, c + 2 C / r, ... are a raft.

    Args:
        dim: C.
        length: N.
        raft: r.
        ratio: hidden width over r N.
        drop: dropout.
        drop_path: stochastic depth.
    """

    def __init__(
        self, dim: int, length: int, raft: int, ratio: float, drop: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.raft = raft
        self.norm = nn.LayerNorm(dim)
        self.mlp = Mlp(raft * length, round(raft * length * ratio), drop=drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens of ``x``."""
        rafts = self.norm(x).unflatten(3, (self.raft, -1)).permute(0, 3, 1, 2, 4)  # (B, r, N, M, C / r)
        mixed = self._mlp(rafts.flatten(3).flatten(1, 2))
        mixed = mixed.view(rafts.shape).permute(0, 2, 3, 1, 4)
        return (x.unflatten(3, (self.raft, -1)) + self.drop_path(mixed)).flatten(3)

    def _mlp(self, x: Tensor) -> Tensor:
        """Apply the MLP to the first axis of (B, r N, M C / r), by products from the left, without transposing."""
        mlp = self.mlp
        return mlp.drop2(_from_left(mlp.fc2, mlp.drop1(mlp.act(_from_left(mlp.fc1, x)))))


class AxialMixing(nn.Module):
    """RaftMLP's token mixing: along columns, then along rows: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: C.
        grid: H and W.
        raft, ratio, drop, drop_path: see :class:`LineMixer`.
        parallel: whether rows get what columns get, in place of what these make of it.
    """

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        raft: int,
        ratio: float,
        drop: float = 0.0,
        drop_path: float = 0.0,
        parallel: bool = False,
    ) -> None:
        super().__init__()
        self.parallel = parallel
        self.vertical = LineMixer(dim, grid[0], raft, ratio, drop, drop_path)
        self.horizontal = LineMixer(dim, grid[1], raft, ratio, drop, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens of ``x``."""
        columns = self.vertical(x)
        rows = self.horizontal((x if self.parallel else columns).transpose(1, 2)).transpose(1, 2)
        return columns + rows - x if self.parallel else rows


class FullMixing(nn.Module):
    """MLP-Mixer's token mixing: along all tokens, channel by channel: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(
        self, dim: int, grid: tuple[int, int], raft: int, ratio: float, drop: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.tokens = LineMixer(dim, grid[0] * grid[1], 1, ratio, drop, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens of ``x``."""
        return self.tokens(x.flatten(1, 2).unsqueeze(2)).view(x.shape)


#: Words for kinds of token mixing: RaftMLP's, and MLP-Mixer's.
MIXING = ("axial", "all")


class Block(nn.Module):
    """Mixes tokens, then channels: (B, H, W, C) -> (B, H, W, C), for maps of any size.

    Args:
        dim: C.
        grid: H and W that tokens are mixed at; maps of another size are resized to it, and back.
        mixing: makes token mixing, as :class:`AxialMixing` is made.
        raft: r.
        token_ratio, channel_ratio: hidden width of MLPs over their input's.
        drop: dropout of MLPs.
        drop_path: stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        mixing: Callable[..., nn.Module],
        raft: int,
        token_ratio: float,
        channel_ratio: float,
        drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.mixing = mixing(dim, grid, raft, token_ratio, drop, drop_path)
        self.norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, round(dim * channel_ratio), drop=drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map."""
        height, width = x.shape[1:3]
        x = resized(self.mixing(resized(x, self.grid)), (height, width))
        return x + self.drop_path(self.mlp(self.norm(x)))


class Embedding(nn.Module):
    """Patches of one or several sizes around each place, embedded together: (B, in_chans, H, W) -> (B, H/s, W/s, C).

    Args:
        in_chans: channels of the map.
        dim: C.
        stride: s; a map whose sides are no multiples of it is enlarged by bicubic interpolation.
        kernels: sides of patches, each larger than s by an even number.
    """

    def __init__(self, in_chans: int, dim: int, stride: int, kernels: Sequence[int]) -> None:
        super().__init__()
        if any(side < stride or (side - stride) % 2 for side in kernels):
            raise UserError(f"Patches of {tuple(kernels)} do not lie evenly around places {stride} apart.")
        self.stride, self.sides = stride, tuple(kernels)
        self.kernels = nn.ParameterList(torch.empty(dim, in_chans, side, side) for side in kernels)
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as PyTorch's linear layer of all patches beside each other."""
        bound = sum(kernel[0].numel() for kernel in self.kernels) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Embed a map."""
        x = enlarged(x, self.stride)
        # Patches have one centre, so that one convolution by the sum of their weights sees them all.
        largest = max(self.sides)
        kernels = zip(self.kernels, self.sides, strict=True)
        weight = sum(F.pad(kernel, [(largest - side) // 2] * 4) for kernel, side in kernels)
        x = F.conv2d(x, weight, self.bias, self.stride, (largest - self.stride) // 2)  # type: ignore[arg-type]
        return x.permute(0, 2, 3, 1)


class Level(nn.Module):
    """An embedding and blocks of one resolution: (B, C, H, W) -> (B, C', H/s, W/s)."""

    def __init__(self, embed: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Embed and transform a map."""
        x = self.embed(x)
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return x.permute(0, 3, 1, 2)


class RaftMLP(HasClassifier):
    """RaftMLP: levels of :class:`Block`, each at a coarser grid than the one before.

    Args:
        img_size: height and width in pixels of the grids that tokens are mixed at. Images of any size may be given.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for features as they are.
        dims: C of each level.
        depths: blocks of each level.
        patches: places of the level before that a token stands for, on a side, for each level.
        kernels: sides of the patches that are embedded for a token, for each level; by default those of ``patches``.
        raft: r; every level's C is a multiple of it.
        mixing: one of :data:`MIXING`.
        parallel: see :class:`AxialMixing`.
        token_ratio, channel_ratio: see :class:`Block`.
        drop_rate: dropout of MLPs.
        drop_path_rate: stochastic depth of every MLP.
        stem: makes the first level's embedding, a map (B, H, W, C) at ``patches[0]``, from ``(in_chans, dim)``.
        embedding_as_map: whether the first map of a pyramid is the first level's embedding, as the released detectors
            and segmenters have it, in place of what its blocks make of it.

    Raises:
        UserError: a level's channels do not make whole rafts, or the mixing is unknown.
    """

    architecture = "RaftMLP"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        patches: Sequence[int] = (4, 2, 2, 2),
        kernels: Sequence[Sequence[int]] | None = None,
        raft: int = 2,
        mixing: str = "axial",
        parallel: bool = False,
        token_ratio: float = 2.0,
        channel_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        stem: Callable[[int, int], nn.Module] | None = None,
        embedding_as_map: bool = False,
    ) -> None:
        super().__init__()
        if mixing not in MIXING:
            raise UserError(f"There is no token mixing {mixing!r}.{nearest(mixing, MIXING)}")
        if mixing == "axial" and any(dim % raft for dim in dims):
            raise UserError(f"Levels of {tuple(dims)} channels cannot be cut into rafts of {raft}.")
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = dims[-1]
        self.img_size, self.embedding_as_map = to_2tuple(img_size), embedding_as_map
        #: Which of the two released embeddings it is, whose files differ in names and layout.
        self.several_scales = kernels is not None
        self.feature_info: list[dict[str, Any]] = []
        self.levels = nn.Sequential()
        height, width = self.img_size
        made = partial(AxialMixing, parallel=parallel) if mixing == "axial" else FullMixing
        stride = 1
        for level, (dim, depth, patch) in enumerate(zip(dims, depths, patches, strict=True)):
            height, width, stride = -(-height // patch), -(-width // patch), stride * patch
            before = dims[level - 1] if level else in_chans
            own = stem(in_chans, dim) if stem and not level else None
            embed = own or Embedding(before, dim, patch, kernels[level] if kernels else (patch,))
            blocks = [
                Block(dim, (height, width), made, raft, token_ratio, channel_ratio, drop_rate, drop_path_rate)
                for _ in range(depth)
            ]
            self.levels.append(Level(embed, blocks))
            self.feature_info.append({"module": f"levels.{level}", "num_chs": dim, "reduction": stride})
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes) if num_classes > 0 else nn.Identity()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise learning rates: levels where ``coarse``, else blocks."""
        fine = [(r"^levels\.([1-9]\d*)\.embed", (0,)), (r"^levels\.(\d+)\.blocks\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^levels\.0\.embed", "blocks": r"^levels\.(\d+)" if coarse else fine}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for part in self.levels:
            if isinstance(part, Level):
                part.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to normalised features (B, C, H, W)."""
        return self._normalised(self.levels(x))

    def _normalised(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C, H, W) to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        x = x.mean(dim=(2, 3)) if self.global_pool else x.permute(0, 2, 3, 1)
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
        """Features (B, C, H, W) of chosen levels, as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: levels; the last n for an int, all for None.
            norm: whether the final norm is applied to the last level's.
            stop_early: whether to stop after the last chosen level.
            output_fmt: NCHW.
            intermediates_only: whether the final features are left out.
        """
        if output_fmt != "NCHW":
            raise UserError(f"RaftMLP gives features as NCHW, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.levels), indices)
        features = []
        level: Any
        for index, level in enumerate(self.levels):
            if stop_early and index > last:
                break
            early = level.embed(x).permute(0, 3, 1, 2) if self.embedding_as_map and index == 0 in take else None
            x = level(x)
            if index in take:
                normed = norm and index == len(self.levels) - 1
                features.append(early if early is not None else self._normalised(x) if normed else x)
        return features if intermediates_only else (self._normalised(x), features)


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: as in the table.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`RaftMLP`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no RaftMLP called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    settings = {**VARIANTS[name], **kwargs}
    stride = math.prod(settings["patches"])
    cfg = settings.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": False,
        "pool_size": (224 // stride, 224 // stride), "crop_pct": 0.875, "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "classifier": "head",
        "first_conv": (),  # of kernels of several sizes, which are no convolutions of their own
    }  # fmt: skip
    levels = tuple(range(len(settings["patches"])))
    features = {"out_indices": settings.pop("out_indices", levels), "feature_cls": "getter"}
    return build_model_with_cfg(RaftMLP, name, False, pretrained_cfg=cfg, feature_cfg=features, **settings)
