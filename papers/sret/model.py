"""SReT: a pyramid of transformer blocks that are each applied several times, with sliced attention and projections.

Shen et al., "Sliced Recursive Transformer", ECCV 2022, arXiv 2111.05297. A block is applied again to what it gave, with
the same weights: depth without parameters. Between two applications stands a small projection of its own, a non-linear
one, so that the second does not do what the first did; branches and shortcuts have learned coefficients. Attention is
sliced: tokens attend within groups alone, which divides its cost by their number; before each further application
tokens are permuted at random, so that groups are other ones.

Shapes: B images, N tokens of a map of H x W positions, C channels.
"""

# Without postponed annotations, which torch.fx would write as names that TorchScript does not know.
import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Attention, DropPath, Mlp, to_2tuple, trunc_normal_
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_function, register_notrace_module
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from common.classifier import HasClassifier
from common.errors import UserError, nearest

_TINY: dict[str, Any] = {"mlp_ratio": 3.6}
_LARGER: dict[str, Any] = {"mlp_ratio": 4.0}
_SMALL: dict[str, Any] = {"head_dim": 42, "num_heads": (3, 6, 12), "mlp_ratio": 3.0, "projection_ratio": 2.0}
_WHOLE: dict[str, Any] = {"groups": ((1, 1), (1, 1), (1, 1)), "drop_path_rate": 0.0}

#: One row a variant; ``wo_slice`` attends without groups.
VARIANTS: dict[str, dict[str, Any]] = {
    "sret_t": _TINY,
    "sret_lt": _LARGER,
    "sret_lt_16_14_1": {**_LARGER, "groups": ((16, 1), (14, 1), (1, 1))},
    "sret_s": _SMALL,
    "sret_t_wo_slice": {**_TINY, **_WHOLE},
    "sret_lt_wo_slice": {**_LARGER, **_WHOLE},
    "sret_s_wo_slice": {**_SMALL, **_WHOLE},
    "sret_t_wo_slice_384": {**_TINY, **_WHOLE, "img_size": 384},
    "sret_s_wo_slice_384": {**_SMALL, **_WHOLE, "img_size": 384},
    "sret_s_wo_slice_512": {**_SMALL, **_WHOLE, "img_size": 512},
}


def coefficient(learned: bool) -> Any:
    """A factor that begins at 1: a parameter, or 1 itself."""
    return nn.Parameter(torch.ones(1)) if learned else 1.0


class Projection(nn.Module):
    """The non-linear projection after an application of a block, residual: (B, N, C) to the same.

    Args:
        dim: C.
        ratio: hidden channels over C.
        coefficients: whether shortcut and branch have learned coefficients.
    """

    def __init__(self, dim: int, ratio: float = 1.0, coefficients: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * ratio))
        self.coefficient1, self.coefficient2 = coefficient(coefficients), coefficient(coefficients)

    def forward(self, x: Tensor) -> Tensor:
        """Project tokens ``x``."""
        return self.coefficient1 * x + self.coefficient2 * self.mlp(self.norm1(x))


class Block(nn.Module):
    """Attention within groups of tokens, then an MLP, each residual: (B, N, C) to the same.

    Args:
        dim: C.
        num_heads: heads.
        mlp_ratio: hidden channels of the MLP over C.
        drop_path: stochastic depth.
        coefficients: whether shortcuts and branches have learned coefficients.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0, coefficients: bool = True
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.coefficient1, self.coefficient2 = coefficient(coefficients), coefficient(coefficients)
        self.coefficient3, self.coefficient4 = coefficient(coefficients), coefficient(coefficients)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, groups: int = 1, permutation: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        """Transform tokens ``x``.

        Args:
            x: (B, N, C); N is a multiple of the groups.
            groups: neighbours in the order of ``permutation`` form one.
            permutation: (N,); None for the order of the tokens.
        """
        B, N, C = x.shape
        tokens = self.norm1(x)
        if permutation is not None:
            tokens = tokens[:, permutation]
        mixed = self.attn(tokens.reshape(B * groups, N // groups, C)).reshape(B, N, C)
        if permutation is not None:
            mixed = mixed[:, permutation.argsort()]
        x = self.coefficient1 * x + self.coefficient2 * self.drop_path(mixed)
        return self.coefficient3 * x + self.coefficient4 * self.drop_path(self.mlp(self.norm2(x)))


class Recursion(nn.Module):
    """A block that is applied ``loops`` times, each time followed by a projection of its own: (B, N, C) to the same.

    Args:
        block: applied again and again.
        projections: one for each application; or none at all.
        groups: of the first application, and of all others.
    """

    def __init__(self, block: Block, projections: Sequence[nn.Module], groups: tuple[int, int]) -> None:
        super().__init__()
        self.block = block
        self.projections = nn.ModuleList(projections)
        self.groups = groups

    def forward(self, x: Tensor, permutations: list[Tensor]) -> Tensor:
        """Transform tokens ``x``; ``permutations`` (N,) are for the applications after the first, empty for none."""
        for loop, projection in enumerate(self.projections):
            permutation: Optional[Tensor] = None  # noqa: UP045
            if loop > 0 and len(permutations) > 0:
                permutation = permutations[loop - 1]
            x = projection(self.block(x, self.groups[0] if loop == 0 else self.groups[1], permutation))
        return x


class Halving(nn.Module):
    """A strided convolution of each channel by itself: (B, C, H, W) to (B, out, H / 2, W / 2), rounded up."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out, 3, stride=2, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the map ``x``."""
        return self.conv(x)


class PatchEmbed(nn.Module):
    """Strided 3x3 convolutions, each with batch norm: images to (B, C, H, W), a position for 8 x 8 pixels.

    Args:
        in_chans: image channels.
        dim: C; half of it after the first convolution.
        strides: of the convolutions.
    """

    def __init__(self, in_chans: int, dim: int, strides: Sequence[int] = (2, 2, 2)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [in_chans, dim // 2] + [dim] * (len(strides) - 1)
        for before, width, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [nn.Conv2d(before, width, 3, stride=stride, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        return self.layers(x)


@register_notrace_module
class Stage(nn.Module):
    """Recursions of one resolution.

    Where applications after the first have groups, each takes a permutation of the tokens: drawn anew in training, the
    same ones for ever in evaluation.

    Args:
        recursions: of one width.
        loops: how often each applies its block.
        groups: of the first application, and of all others.
        tokens: N of a map of the usual size.

    Attributes:
        permutations: those of evaluation, (draws, N).
    """

    permutations: Tensor

    def __init__(self, recursions: Sequence[Recursion], loops: int, groups: tuple[int, int], tokens: int) -> None:
        super().__init__()
        self.recursions = nn.ModuleList(recursions)
        self.loops = loops
        self.draws = len(recursions) * (loops - 1) if groups[1] > 1 else 0
        self.register_buffer("permutations", _fixed_permutations(self.draws, tokens), persistent=False)
        self.grad_checkpointing = False

    def draw(self, x: Tensor) -> list[Tensor]:
        """Permutations (N,) for the map ``x``, in the order of their use."""
        tokens = x.shape[2] * x.shape[3]
        if self.training:
            return [torch.randperm(tokens, device=x.device) for _ in range(self.draws)]
        fixed = self.permutations
        if tokens != fixed.shape[1]:
            fixed = _fixed_permutations(self.draws, tokens)
        return list(fixed.to(x.device).unbind(0))

    def forward(self, x: Tensor, permutations: Optional[list[Tensor]] = None) -> Tensor:  # noqa: UP045
        """A map (B, C, H, W) to one of the same shape; ``permutations`` as of :meth:`draw`, None to draw them."""
        drawn = self.draw(x) if permutations is None else permutations
        size = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        for number, recursion in enumerate(self.recursions):
            own = drawn[number * (self.loops - 1) : (number + 1) * (self.loops - 1)]
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(recursion, x, own, use_reentrant=False)
            else:
                x = recursion(x, own)
        return x.transpose(1, 2).unflatten(2, size)


@torch.jit.ignore
def _fixed_permutations(count: int, tokens: int) -> Tensor:
    """The first ``count`` permutations of ``tokens`` numbers of a fixed generator, (count, tokens)."""
    generator = np.random.default_rng(0)
    drawn = [generator.permutation(tokens) for _ in range(count)]
    return torch.from_numpy(np.asarray(drawn, dtype=np.int64).reshape(count, tokens))


@register_notrace_function  # a graph is for permutations that are given and for none
def of_stage(permutations: Optional[list[list[Tensor]]], number: int) -> Optional[list[Tensor]]:  # noqa: UP045
    """The permutations of one stage; None where there are none."""
    return None if permutations is None else permutations[number]


@register_notrace_function
def check_size(height: int, width: int, stride: int, groups: Sequence[tuple[int, int]]) -> None:
    """Refuse images with a stage whose tokens are no multiple of its groups."""
    rows, columns = -(-height // stride), -(-width // stride)
    for stage, pair in enumerate(groups):
        for count in pair:
            if (rows * columns) % count or not rows * columns:
                raise UserError(
                    f"Images of {height}x{width} pixels give stage {stage + 1} of SReT {rows}x{columns} tokens, no "
                    f"multiple of its {count} groups; take another size, or other groups."
                )
        rows, columns = -(-rows // 2), -(-columns // 2)


@register_notrace_function
def check_fixed_size(height: int, width: int, fixed: tuple[int, int]) -> None:
    """Refuse images of another size than positions are for."""
    if (height, width) != fixed:
        raise UserError(
            f"Images are {height}x{width} pixels; SReT has positions for {fixed[0]}x{fixed[1]}. Build it with this "
            "img_size, or with dynamic_img_size=True, which interpolates positions."
        )


class SReT(HasClassifier):
    """The hierarchy: a stem, positions, stages at strides 8, 16 and 32, and a classifier of the mean token.

    Args:
        img_size: height and width in pixels that positions are for.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for the map as it is.
        head_dim: channels of a head.
        num_heads: heads of each stage.
        depths: blocks of each stage, each with weights of its own.
        loops: how often a block is applied.
        groups: of each stage, in the first application of a block and in all others.
        mlp_ratio: see :class:`Block`.
        projection_ratio: see :class:`Projection`; 0 for no projections.
        coefficients: see :class:`Block`.
        stem_strides: see :class:`PatchEmbed`.
        dynamic_img_size: whether images of other sizes are taken, for which positions are interpolated in every pass.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth; all applications of a block have the rate of its number over the depth with
            loops.

    Raises:
        UserError: a size of images whose tokens the groups do not divide.
    """

    architecture = "SReT"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        head_dim: int = 32,
        num_heads: Sequence[int] = (2, 4, 8),
        depths: Sequence[int] = (2, 5, 3),
        loops: int = 2,
        groups: Sequence[tuple[int, int]] = ((8, 2), (4, 1), (1, 1)),
        mlp_ratio: float = 4.0,
        projection_ratio: float = 1.0,
        coefficients: bool = True,
        stem_strides: Sequence[int] = (2, 2, 2),
        dynamic_img_size: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        dims = [head_dim * heads for heads in num_heads]
        self.img_size, self.dynamic_img_size = to_2tuple(img_size), dynamic_img_size
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = dims[-1]
        self.stride = 1
        for stride in stem_strides:
            self.stride *= stride
        self.groups = [tuple(pair) for pair in groups]
        check_size(*self.img_size, self.stride, self.groups)
        self.feature_info = [
            {"module": f"stages.{stage}", "num_chs": dim, "reduction": self.stride * 2**stage}
            for stage, dim in enumerate(dims)
        ]

        self.patch_embed = PatchEmbed(in_chans, dims[0], stem_strides)
        self.grid = (-(-self.img_size[0] // self.stride), -(-self.img_size[1] // self.stride))
        self.pos_embed = nn.Parameter(torch.zeros(1, dims[0], *self.grid))
        self.stages, self.pools = nn.ModuleList(), nn.ModuleList()
        total, before = loops * sum(depths), 0
        for stage, (dim, heads, depth) in enumerate(zip(dims, num_heads, depths, strict=True)):
            recursions = []
            for number in range(depth):
                rate = drop_path_rate * (before + number) / total
                projections = [
                    Projection(dim, projection_ratio, coefficients) if projection_ratio else nn.Identity()
                    for _ in range(loops)
                ]
                block = Block(dim, heads, mlp_ratio, rate, coefficients)
                recursions.append(Recursion(block, projections, (groups[stage][0], groups[stage][1])))
            before += loops * depth
            tokens = -(-self.grid[0] // 2**stage) * -(-self.grid[1] // 2**stage)
            self.stages.append(Stage(recursions, loops, (groups[stage][0], groups[stage][1]), tokens))
            self.pools.append(Halving(dim, dims[stage + 1]) if stage + 1 < len(dims) else nn.Identity())
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes > 0 else nn.Identity()
        trunc_normal_(self.pos_embed, std=0.02)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays."""
        return {"pos_embed"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Any:
        """Layers for layer-wise learning rates; a block is one with all its applications and projections."""
        blocks = [(r"^stages\.(\d+)\.recursions\.(\d+)", None), (r"^pools\.(\d+)", (999,)), (r"^norm", (99999,))]
        return {"stem": r"^(?:patch_embed|pos_embed)", "blocks": r"^(?:stages|pools)\.(\d+)" if coarse else blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        stages: Any = self.stages
        for stage in stages:
            stage.grad_checkpointing = enable

    def _embed(self, x: Tensor) -> Tensor:
        """Images to the first map, positions added; images of a wrong size are refused."""
        positions: Tensor = self.pos_embed
        if not torch.jit.is_scripting():
            if self.dynamic_img_size:
                check_size(x.shape[2], x.shape[3], self.stride, self.groups)
            else:
                check_fixed_size(x.shape[2], x.shape[3], self.img_size)
        x = self.patch_embed(x)
        if self.dynamic_img_size and (x.shape[2], x.shape[3]) != self.grid:
            positions = F.interpolate(positions, (x.shape[2], x.shape[3]), mode="bicubic", align_corners=False)
        return x + positions

    def forward_features(self, x: Tensor, permutations: Optional[list[list[Tensor]]] = None) -> Tensor:  # noqa: UP045
        """Images (B, in_chans, height, width) to the last map (B, C, H, W); ``permutations`` as for :meth:`forward`."""
        x = self._embed(x)
        for number, (stage, pool) in enumerate(zip(self.stages, self.pools)):  # noqa: B905, which TorchScript lacks
            x = pool(stage(x, of_stage(permutations, number)))
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map (B, C, H, W) to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        x = x.permute(0, 2, 3, 1)
        if self.global_pool:
            x = x.mean(dim=(1, 2))
        x = self.head_drop(self.norm(x))
        x = x if pre_logits else self.head(x)
        return x if self.global_pool else x.permute(0, 3, 1, 2)

    def forward(self, x: Tensor, permutations: Optional[list[list[Tensor]]] = None) -> Tensor:  # noqa: UP045
        """Images (B, in_chans, height, width) to logits (B, num_classes).

        Args:
            x: images.
            permutations: of tokens, a list for each stage, as :meth:`Stage.draw` makes them; None to draw them.
        """
        return self.forward_head(self.forward_features(x, permutations))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Maps (B, C, H, W) of chosen stages, as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: stages; the last n for an int, all for None.
            norm: whether the final norm is applied to the last stage's.
            stop_early: whether to stop after the last chosen stage.
            output_fmt: NCHW.
            intermediates_only: whether the final map is left out.
        """
        if output_fmt != "NCHW":
            raise UserError(f"SReT gives maps as NCHW, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.stages), indices)
        maps = []
        x = self._embed(x)
        for number, (stage, pool) in enumerate(zip(self.stages, self.pools, strict=True)):
            if stop_early and number > last:
                break
            x = stage(x)
            if number in take:
                normed = norm and number == len(self.stages) - 1
                maps.append(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if normed else x)
            x = pool(x)
        return maps if intermediates_only else (x, maps)


def _places(model: nn.Module) -> tuple[int, ...]:
    """How often each stage applies a block."""
    stages: Any = getattr(model, "stages", ())
    return tuple(stage.loops for stage in stages)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released tensors to ours: a block that the release stores once for each application becomes one; ours stay.

    Raises:
        UserError: a file has two different values for one.
    """
    ours: dict[str, Tensor] = {}
    loops = _places(model)
    for released, value in state_dict.items():
        name = re.sub(r"(coefficient\d)\.bias$", r"\1", released)
        if found := re.match(r"patch_embed\.(conv|bn)(\d)\.(.*)", name):
            name = f"patch_embed.layers.{3 * int(found[2]) - (3 if found[1] == 'conv' else 2)}.{found[3]}"
        elif (found := re.match(r"transformers\.(\d+)\.blocks\.(\d+)\.(.*)", name)) and int(found[1]) < len(loops):
            # Applications and projections alternate.
            application, projected = divmod(int(found[2]), 2)
            number, loop = divmod(application, loops[int(found[1])])
            part = f"projections.{loop}" if projected else "block"
            name = f"stages.{found[1]}.recursions.{number}.{part}.{found[3]}"
        earlier = ours.setdefault(name, value)
        if earlier is not value and not torch.equal(earlier, value):
            raise UserError(f"{released} differs from what the file has for an earlier application of the same block.")
    return ours


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our tensors to released ones; the inverse of :func:`checkpoint_filter_fn`."""
    released = {}
    loops = _places(model)
    for name, value in state_dict.items():
        name = re.sub(r"(coefficient\d)$", r"\1.bias", name)
        if found := re.match(r"patch_embed\.layers\.(\d+)\.(.*)", name):
            layer, kind = divmod(int(found[1]), 3)
            name = f"patch_embed.{'bn' if kind else 'conv'}{layer + 1}.{found[2]}"
        if found := re.match(r"stages\.(\d+)\.recursions\.(\d+)\.(block|projections\.(\d+))\.(.*)", name):
            count = loops[int(found[1])]
            first = 2 * count * int(found[2])
            places = range(first, first + 2 * count, 2) if found[3] == "block" else [first + 2 * int(found[4]) + 1]
            released.update({f"transformers.{found[1]}.blocks.{place}.{found[5]}": value for place in places})
        else:
            released[name] = value
    return released


def resize_grid(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our tensors with positions in the size of the model's, interpolated bicubically."""
    fitting = dict(state_dict)
    own, stored = dict(model.named_parameters()).get("pos_embed"), fitting.get("pos_embed")
    if own is not None and stored is not None and stored.ndim == 4 and stored.shape[1] == own.shape[1]:
        size = (own.shape[2], own.shape[3])
        if stored.shape != own.shape:
            fitting["pos_embed"] = F.interpolate(stored, size, mode="bicubic", align_corners=False)
    return fitting


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: see there.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`SReT`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no SReT called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    size = VARIANTS[name].get("img_size", 224)
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, size, size), "fixed_input_size": True,
        "pool_size": (size // 32, size // 32), "crop_pct": 0.875 if size == 224 else 1.0, "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "first_conv": "patch_embed.layers.0",
        "classifier": "head",
    }  # fmt: skip
    features = {"out_indices": kwargs.pop("out_indices", (0, 1, 2)), "feature_cls": "getter"}
    return build_model_with_cfg(
        SReT, name, False, pretrained_cfg=cfg, feature_cfg=features, **{**VARIANTS[name], **kwargs}
    )
