"""Vision transformers that drop tokens on their way: DeiT's and LV-ViT's.

In training a dropped token stays in the batch, and no other token attends to it any more: so decisions differ in number
from image to image. In inference tokens are dropped for real, which is what saves time.

Shapes: B images, N patches, C channels; features are (B, 1 + N, C), the class token first.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models._manipulate import checkpoint
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn

from common.errors import UserError
from papers.dynamicvit.selection import Predictor, Sparse, Sparsified, draw, places_kept

#: Symbolic tracing has no number of places to round.
torch.fx.wrap("places_kept")


class KeptAttention(Attention):
    """Self-attention to the tokens that are kept; without a mask it is timm's.

    Attributes:
        rounding: keeps the quotient finite where all weights of a row are small; spread over all keys, as released.
    """

    rounding = 1e-6

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Mix tokens (B, N, C); ``attn_mask`` (B, N), which timm's blocks hand on, is 1 for tokens that are kept.

        A dropped token still attends to itself, so that its row has a weight. The mask multiplies attention's weights
        rather than being added to their exponents, which gives decisions a gradient; since it is the same for all
        queries, it can multiply the values. A last channel of ones among these collects the weights to divide by.
        """
        if attn_mask is None:
            return super().forward(x, is_causal=is_causal)
        B, N, _ = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        kept, values = attn_mask.to(v.dtype)[:, None, :, None], F.pad(v, (0, 1), value=1.0)
        own = weights.diagonal(dim1=-2, dim2=-1)[..., None]
        # The release has the term beside exponentials of which the largest is 1.
        rounding = self.rounding * weights.detach().amax(dim=-1, keepdim=True)
        mixed = self.attn_drop(weights) @ (kept * values)
        mixed = mixed + own * (1 - kept) * values + rounding * values.mean(dim=-2, keepdim=True)
        mixed = mixed[..., :-1] / mixed[..., -1:]
        return self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(B, N, self.attn_dim)))


class DynamicViT(Sparse, VisionTransformer):  # type: ignore[misc]  # takes no mask of attention
    """A vision transformer that drops patch tokens before some of its blocks.

    Args:
        locations: blocks before which tokens are dropped.
        keep_rate: see `Sparse.set_keep_rate`.
        **kwargs: of timm's ``VisionTransformer``.
    """

    keep_rates: tuple[float, ...]

    def __init__(
        self, locations: Sequence[int] = (3, 6, 9), keep_rate: float | Sequence[float] = 0.7, **kwargs: Any
    ) -> None:
        super().__init__(**{"attn_layer": KeptAttention, **kwargs})
        self.locations = tuple(locations)
        self.score_predictor = nn.ModuleList(Predictor(self.embed_dim) for _ in locations)
        self.set_keep_rate(keep_rate)

    @property
    def selector(self) -> DynamicViT:
        """The network itself selects."""
        return self

    def decide(self, x: Tensor, kept: Tensor | None, step: int, noise: Tensor | None) -> Tensor:
        """In training: which patch tokens of ``x`` (B, 1 + N, C) are kept, (B, N) of 0 and 1; a dropped one stays so.

        ``kept`` (B, N) is the decision of the step before, None where this is the first.
        """
        decision = draw(self.score_predictor[step](x[:, self.num_prefix_tokens :], kept), noise)
        return decision if kept is None else decision * kept

    def rank(self, x: Tensor, step: int) -> Tensor:
        """In inference: the score (B, n) of the patch tokens that are left in ``x`` (B, 1 + n, C)."""
        return self.score_predictor[step](x[:, self.num_prefix_tokens :])[..., 0]

    def _sparse_features(self, x: Tensor, noise: Sequence[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Normed features of the tokens that are left, all in training, and the decisions."""
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        prefix, decisions = self.num_prefix_tokens, []
        N = x.shape[1] - prefix
        kept: Tensor | None = None  # in training
        # In inference: where the patches that are left were. Not by arange, of a number that a traced graph has not.
        places = torch.ones_like(x[:, prefix:, 0], dtype=torch.long).cumsum(dim=1) - 1
        nowhere = torch.zeros_like(places, dtype=torch.float32)
        for index, block in enumerate(self.blocks):
            step = self.locations.index(index) if index in self.locations else None
            if step is not None and self.keep_rates[step] < 1:
                if self.training:
                    kept = self.decide(x, kept, step, None if noise is None else noise[step])
                    decisions.append(kept)
                else:
                    best = self.rank(x, step).topk(places_kept(N, self.keep_rates[step]), dim=1).indices
                    chosen = x[:, prefix:].gather(1, best[..., None].expand(-1, -1, x.shape[-1]))
                    x, places = torch.cat((x[:, :prefix], chosen), dim=1), places.gather(1, best)
                    decisions.append(nowhere.scatter(1, places, 1.0))
            mask = None if kept is None else F.pad(kept, (prefix, 0), value=1.0)
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x, mask)
            else:
                x = block(x, attn_mask=mask)
        return self.norm(x), tuple(decisions)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images (B, 3, H, W) to normed features (B, 1 + n, C): of the n patches that are left, of all in training."""
        return self._sparse_features(x)[0]

    def forward_sparse(self, x: Tensor, noise: Sequence[Tensor] | None = None) -> Sparsified:
        """As `Sparse.forward_sparse`; tokens are those of patches."""
        features, decisions = self._sparse_features(x, noise)
        return Sparsified(self.forward_head(features), features[:, self.num_prefix_tokens :], decisions)

    def token_distance(self, ours: Sparsified, host: Sparsified) -> Tensor:
        """The mean square over the tokens that are kept to the end; 0 where none is."""
        kept = _kept(ours)
        return F.mse_loss(ours.tokens[kept], host.tokens[kept]) if bool(kept.any()) else ours.tokens.sum() * 0

    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Refused.

        Raises:
            UserError: tokens that are dropped leave no feature map.
        """
        raise UserError("A transformer that drops tokens has no feature maps; take a sparsified ConvNeXt or Swin.")


def _kept(ours: Sparsified) -> Tensor:
    """Which tokens (B, N) are kept to the end; all where nothing was decided."""
    if not ours.decisions:
        return torch.ones(ours.tokens.shape[:2], dtype=torch.bool, device=ours.tokens.device)
    return ours.decisions[-1] > 0.5


class Stem(PatchEmbed):
    """LV-ViT's patches: three convolutions at half resolution, then a projection of patches of their features."""

    def __init__(self, in_chans: int = 3, embed_dim: int = 768, patch_size: int = 16, **kwargs: Any) -> None:
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, patch_size=patch_size, **kwargs)
        width = 64
        self.proj = nn.Sequential(  # type: ignore[assignment]  # timm's patches know their projection by this name
            OrderedDict(
                conv1=nn.Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False),
                bn1=nn.BatchNorm2d(width),
                relu1=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(width, width, 3, padding=1, bias=False),
                bn2=nn.BatchNorm2d(width),
                relu2=nn.ReLU(inplace=True),
                conv3=nn.Conv2d(width, width, 3, padding=1, bias=False),
                bn3=nn.BatchNorm2d(width),
                relu3=nn.ReLU(inplace=True),
                proj=nn.Conv2d(width, embed_dim, patch_size // 2, stride=patch_size // 2),
            )
        )


class Shrink(nn.Module):
    """Divide a residual branch by a constant."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """Divide."""
        return x / self.divisor


class DynamicLVViT(DynamicViT):
    """LV-ViT (Jiang et al., "All Tokens Matter", NeurIPS 2021) that drops tokens.

    It differs from a vision transformer by its stem, by residual branches that are halved, and by a second classifier,
    of patch tokens, whose largest logit of each class over the patches is added at half weight to the class token's.

    Args:
        **kwargs: of `DynamicViT`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"embed_layer": Stem, "norm_layer": nn.LayerNorm, "qkv_bias": False, **kwargs})
        for block in self.blocks:
            block.ls1 = block.ls2 = Shrink(2.0)
        self.aux_head = nn.Linear(self.embed_dim, self.num_classes) if self.num_classes > 0 else nn.Identity()

    @torch.jit.ignore
    def get_classifier(self) -> Any:
        """The classifiers of the class token and of patches."""
        return self.head, self.aux_head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace both classifiers by new ones with ``num_classes`` outputs (0: none)."""
        super().reset_classifier(num_classes, global_pool)
        like = next(self.parameters())
        self.aux_head = nn.Linear(self.embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self.aux_head.to(device=like.device, dtype=like.dtype)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, 1 + n, C) to logits (B, classes), or to the class token's features."""
        logits = super().forward_head(x, pre_logits)
        if pre_logits or self.num_classes == 0:
            return logits
        return logits + 0.5 * self.aux_head(x[:, self.num_prefix_tokens :]).amax(dim=1)

    def forward_sparse(self, x: Tensor, noise: Sequence[Tensor] | None = None) -> Sparsified:
        """As `Sparse.forward_sparse`; logits are the class token's alone, tokens the other classifier's logits."""
        features, decisions = self._sparse_features(x, noise)
        tokens = self.aux_head(features[:, self.num_prefix_tokens :])
        return Sparsified(super().forward_head(features), tokens, decisions)

    def token_distance(self, ours: Sparsified, host: Sparsified) -> Tensor:
        """KL(host || ours) of the classes of tokens that are kept to the end, mean over tokens; 0 where none is."""
        kept = _kept(ours)
        if not bool(kept.any()):
            return ours.tokens.sum() * 0
        own, target = (each.tokens[kept].log_softmax(dim=-1) for each in (ours, host))
        return F.kl_div(own, target, reduction="batchmean", log_target=True)


#: Convolutions of LV-ViT's stem, which the release has beside the projection.
_STEM = re.compile(r"^patch_embed\.((?:conv|bn)\d|proj)\.")
_OUR_STEM = re.compile(r"^patch_embed\.proj\.((?:conv|bn)\d|proj)\.")


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to ours; names of ours stay."""
    if not isinstance(model, DynamicLVViT) or any(_OUR_STEM.match(name) for name in state_dict):
        return dict(state_dict)
    return {_STEM.sub(r"patch_embed.proj.\1.", name): value for name, value in state_dict.items()}


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our names to released ones; the inverse of `checkpoint_filter_fn`."""
    if not isinstance(model, DynamicLVViT):
        return dict(state_dict)
    return {_OUR_STEM.sub(r"patch_embed.\1.", name): value for name, value in state_dict.items()}
