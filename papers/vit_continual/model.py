"""EarlyConvViT: the vision transformer that is taught task by task, with convolutions in place of a patch projection.

Pelosin, Jha, Torsello, Raducanu and van de Weijer, "Towards Exemplar-Free Continual Learning in Vision Transformers: an
Account of Attention, Functional and Weight Regularization", CVPR Workshops 2022, arXiv 2203.13167. The stem follows
Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021, but has nothing between its convolutions,
so that it is linear. Behind the last block there is no norm.

What regularisers compare are two intermediate results of every attention, which `EarlyConvViT.forward_features` notes
on request (`Intermediates`): products of queries and keys before the softmax, and values mixed by it, head by head.

Axes: B images, N tokens (the class token first), C channels, H heads, D channels of a head.
"""

# Without postponed annotations, which torch.fx would write as names that TorchScript does not know.
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models._builder import build_model_with_cfg
from timm.models._features_fx import register_notrace_function
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from common.classifier import HasClassifier
from common.errors import UserError, nearest

#: Statistics of ImageNet at 32 x 32 pixels, as the release normalises by.
MEAN, STD = (0.481, 0.457, 0.408), (0.260, 0.253, 0.268)
#: Channels of the stem's convolutions, each of stride 2.
STEM = (24, 48, 96, 196)
#: Rows of the position table: the release takes the last convolution's channels for the number of patches.
POSITIONS = STEM[-1] + 1

#: One row a variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "early_conv_vit": {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_dim": 2048, "img_size": 32},
}


@dataclass
class Intermediates:
    """What regularisers compare, a tensor for each attention from the first on.

    Attributes:
        scores: products of queries and keys over the root of D, before the softmax, (B, H, N, N).
        mixed: softmax(scores) @ values, before the projection, (B, H, N, D).
    """

    scores: list[Tensor] = field(default_factory=list)
    mixed: list[Tensor] = field(default_factory=list)


class SelfAttention(nn.Module):
    """Softmax attention whose heads have ``head_dim`` channels whatever the width is: (B, N, C) to (B, N, C)."""

    def __init__(self, dim: int, num_heads: int, head_dim: int = 64) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.proj = nn.Linear(num_heads * head_dim, dim)

    def forward(self, x: Tensor, seen: Intermediates | None = None) -> Tensor:
        """Mix tokens; note scores and mixed values in ``seen``."""
        B, N, _ = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if seen is None:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
            mixed = scores.softmax(dim=3) @ v
            seen.scores.append(scores)
            seen.mixed.append(mixed)
        return self.proj(mixed.transpose(1, 2).reshape(B, N, -1))


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a shortcut: (B, N, C) to (B, N, C)."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), SelfAttention(dim, num_heads, head_dim)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, mlp_dim)

    def forward(self, x: Tensor, seen: Intermediates | None = None) -> Tensor:
        """Apply the block; ``seen`` notes what the attention computes."""
        x = x + self.attn(self.norm1(x), seen)
        return x + self.mlp(self.norm2(x))


class LinearStem(nn.Module):
    """Four 3x3 convolutions of stride 2 and a 1x1 convolution, nothing between them: (B, in_chans, h, w) to (B, N, C).

    The patches are of 16 pixels; a side that is no multiple of 16 counts as the next one.
    """

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        widths = (in_chans, *STEM)
        self.convs = nn.Sequential(*(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)))
        self.proj = nn.Conv2d(widths[-1], dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images as tokens."""
        return self.proj(self.convs(x)).flatten(2).transpose(1, 2)


@register_notrace_function
def positions(table: Tensor, tokens: Tensor) -> Tensor:
    """The rows (1, N, C) of the table of positions that tokens (B, N, C) have.

    Raises:
        UserError: there are more tokens than rows.
    """
    if not torch.jit.is_scripting() and tokens.shape[1] > table.shape[1]:
        raise UserError(
            f"The images have {tokens.shape[1] - 1} patches, and there are positions for {table.shape[1] - 1}: take "
            "smaller images."
        )
    return table[:, : tokens.shape[1]]


class EarlyConvViT(HasClassifier):
    """A vision transformer with a class token, without a norm behind its blocks.

    Args:
        img_size: pixels of a side that positions are kept for; images of any size that has no more than 196 patches do.
        in_chans: channels of an image.
        num_classes: 0: features alone, as a learner of tasks takes them.
        embed_dim: C.
        depth: blocks.
        num_heads: H.
        head_dim: D, whatever C is.
        mlp_dim: hidden channels of the MLPs.
        stem: makes what embeds images (B, in_chans, h, w) as tokens (B, N, C), from in_chans and C.

    Raises:
        UserError: the images have more patches than the table has positions.
    """

    architecture: ClassVar[str] = "EarlyConvViT"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 32,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        head_dim: int = 64,
        mlp_dim: int = 2048,
        stem: Callable[[int, int], nn.Module] = LinearStem,
    ) -> None:
        super().__init__()
        height, width = img_size if isinstance(img_size, tuple) else (img_size, img_size)
        if -(-height // 16) * -(-width // 16) >= POSITIONS and stem is LinearStem:
            raise UserError(
                f"EarlyConvViT has positions for {POSITIONS - 1} patches of 16 pixels: take a smaller image."
            )
        self.num_classes, self.num_features, self.embed_dim = num_classes, embed_dim, embed_dim
        self.head_hidden_size = embed_dim
        self.grad_checkpointing = False
        self.patch_embed = stem(in_chans, embed_dim)
        # Both from N(0, 1), as the release has them.
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, POSITIONS, embed_dim))
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, head_dim, mlp_dim) for _ in range(depth)))
        self.head = nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Class token and positions."""
        return {"cls_token", "pos_embed"}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks twice rather than keep what they computed."""
        self.grad_checkpointing = enable

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one; 0: none.

        Raises:
            UserError: ``global_pool`` is another than ``token``.
        """
        if global_pool not in (None, "token"):
            raise UserError(f"EarlyConvViT classifies its class token ('token'), not by {global_pool!r}.")
        super().reset_classifier(num_classes)

    def forward_features(self, x: Tensor, seen: Intermediates | None = None) -> Tensor:
        """Tokens (B, N, C) of images (B, in_chans, h, w); ``seen`` notes what every attention computes."""
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + positions(self.pos_embed, x)
        if seen is not None:
            for block in self.blocks:
                x = block(x, seen)
            return x
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, num_classes) of tokens, or the class token (B, C)."""
        return x[:, 0] if pre_logits else self.head(x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes); the class token (B, C) without a classifier."""
        return self.forward_head(self.forward_features(x))


#: Layers of a block by their released names.
_BLOCK = {
    "0.norm": "norm1", "0.fn.to_qkv": "attn.qkv", "0.fn.to_out.0": "attn.proj",
    "1.norm": "norm2", "1.fn.net.0": "mlp.fc1", "1.fn.net.3": "mlp.fc2",
}  # fmt: skip
_BLOCK_RELEASED = {ours: released for released, ours in _BLOCK.items()}
#: The other tensors whose names differ.
_OUTSIDE = {
    "pos_embedding": "pos_embed", "fc.weight": "head.weight", "fc.bias": "head.bias",
    "conv_layers.conv_1x1.weight": "patch_embed.proj.weight", "conv_layers.conv_1x1.bias": "patch_embed.proj.bias",
}  # fmt: skip
_OUTSIDE_RELEASED = {ours: released for released, ours in _OUTSIDE.items()}


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released tensors to ours.

    The release puts the network into two others, which add ``model.`` to its names, and a classifier for each task,
    ``heads.0`` and so on, beside it; these become one classifier in the order of the tasks. Names of ours stay.

    Raises:
        UserError: classifiers of tasks do not fit each other.
    """
    ours: dict[str, Tensor] = {}
    heads: dict[str, dict[int, Tensor]] = {"weight": {}, "bias": {}}
    for released, value in state_dict.items():
        name = re.sub(r"^(model\.)+", "", released)
        if found := re.fullmatch(r"heads\.(\d+)\.(weight|bias)", name):
            heads[found[2]][int(found[1])] = value
            continue
        ours[_ours(name)] = value
    for kind, parts in heads.items():
        if len({value.shape[1:] for value in parts.values()}) > 1 or any(not value.ndim for value in parts.values()):
            shapes = ", ".join(f"heads.{task}.{kind} {list(value.shape)}" for task, value in sorted(parts.items()))
            raise UserError(f"Classifiers of tasks do not fit each other ({shapes}): give a file as released.")
        if parts:
            ours[f"head.{kind}"] = torch.cat([parts[task] for task in sorted(parts)])
    return ours


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our tensors to released ones, of the network without those that the release puts it into."""
    return {_released(name): value for name, value in state_dict.items()}


def _ours(name: str) -> str:
    if found := re.fullmatch(r"conv_layers\.(\d)\.0\.(.*)", name):
        return f"patch_embed.convs.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"transformer\.layers\.(\d+)\.(.*)\.(weight|bias)", name):
        return f"blocks.{found[1]}.{_BLOCK[found[2]]}.{found[3]}" if found[2] in _BLOCK else name
    return _OUTSIDE.get(name, name)


def _released(name: str) -> str:
    if found := re.fullmatch(r"patch_embed\.convs\.(\d)\.(.*)", name):
        return f"conv_layers.{found[1]}.0.{found[2]}"
    if found := re.fullmatch(r"blocks\.(\d+)\.(.*)\.(weight|bias)", name):
        return f"transformer.layers.{found[1]}.{_BLOCK_RELEASED[found[2]]}.{found[3]}"
    return _OUTSIDE_RELEASED.get(name, name)


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: as declared.
        pretrained: must be False; nothing was released.
        **kwargs: of :class:`EarlyConvViT`.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no EarlyConvViT called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"No weights of {name} were released; train it, or load a file with --checkpoint.")
    if kwargs.get("features_only"):
        raise UserError(f"{name} takes tokens from any stem and does not know their grid, so that it has no maps.")
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 32, 32), "fixed_input_size": False,
        "pool_size": None, "crop_pct": 1.0, "interpolation": "bicubic", "mean": MEAN, "std": STD,
        "first_conv": "patch_embed.convs.0", "classifier": "head",
    }  # fmt: skip
    return build_model_with_cfg(EarlyConvViT, name, False, pretrained_cfg=cfg, **{**VARIANTS[name], **kwargs})
