"""TL-Align: the labels of a mixed image's tokens go the way of the tokens, through attention and residual connections.

Xiao et al., "Token-Label Alignment for Vision Transformers", ICCV 2023, arXiv 2210.06455. From the abstract: attention
changes how much each token contributes, so that the mixing ratio of the output differs from that of the input (token
fluctuation); a label is kept for each token, and mixed by the attention that is computed anyway. All else is checked
against github.com/Euphoria16/TL-Align @4da0621 (tla.py, timm/models/vision_transformer.py), which has this for DeiT.

A token's label is ``first + share x (second - first)``: attention and residual connections take means, so that it is
enough to follow the share. Shares are the partner's. Axes: B images, N tokens, h heads, H x W places.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.swin_transformer import SwinTransformer, window_partition, window_reverse
from torch import Tensor, nn

from common.attention import token_grid
from common.errors import UserError
from common.training.mixing import TokenMixup


def align(labels: Tensor, attention: Tensor) -> Tensor:
    """Labels after a block's attention and the residual connection around it; its MLP leaves them as they are.

    Args:
        labels: (B, N, K), a distribution for each token, or anything that is mixed like one.
        attention: (B, h, N, N), what each token takes from the others, of sum 1.
    """
    return (attention.mean(dim=1).to(labels.dtype) @ labels + labels) / 2


class TokenBoxes(TokenMixup):
    """timm's mixing of a batch, with CutMix's box of whole tokens."""

    def region(self, share: float) -> np.ndarray:
        """Draw the centre of a box of ``share`` of the tokens, of which the part inside the grid is pasted."""
        rows, columns = self.grid
        side = np.sqrt(share)
        half_height, half_width = int(rows * side) // 2, int(columns * side) // 2
        row, column = np.random.randint(0, rows), np.random.randint(0, columns)  # noqa: NPY002
        region = np.zeros(self.grid, dtype=bool)
        region[max(row - half_height, 0) : row + half_height, max(column - half_width, 0) : column + half_width] = True
        return region


class TokenLabels(ABC):
    """Follows shares of labels through the attention of a model's passes, which are made anyway.

    Args:
        model: listened to until ``close``.
    """

    def __init__(self, attentions: list[nn.Module]) -> None:
        self._kept: dict[nn.Module, Tensor] = {}
        self._handles = [self._listen(attention) for attention in attentions]

    @abstractmethod
    def by_block(self, mask: Tensor) -> list[Tensor]:
        """Shares of the partner in the label of every token: at the input, then after each block.

        Of the last forward pass, once.

        Args:
            mask: (B, H, W) of the images, share of the partner in each pixel; sampled at the tokens.

        Returns:
            Each (B, N), in [0, 1], float32; the tokens before the patches start with the share of the whole image.
        """

    @abstractmethod
    def pooled(self, shares: Tensor) -> Tensor:
        """The share (B,) in the label of what the classifier reads, from those of all tokens (B, N)."""

    def take(self, mask: Tensor) -> Tensor:
        """The aligned share (B,) of the partner: that of the classifier's token, or the mean of those it averages."""
        return self.pooled(self.by_block(mask)[-1])

    def close(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._kept.clear()

    def _listen(self, attention: Any) -> Any:
        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self._kept[attention] = output.detach()

        return attention.qkv.register_forward_hook(keep)

    def _map(self, attention: Any, bias: Tensor | None = None) -> Tensor:
        """Softmax attention (B, h, N, N) of the last pass."""
        qkv = self._kept.pop(attention)
        q, k, _ = qkv.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        scores = (q * attention.scale) @ k.transpose(-2, -1)
        return (scores if bias is None else scores + bias).softmax(dim=-1, dtype=torch.float32)


class ViTLabels(TokenLabels):
    """In timm's vision transformers, with a class token or with patches that the classifier averages."""

    def __init__(self, model: nn.Module) -> None:
        self._attentions = [module for module in model.modules() if isinstance(module, Attention)]
        self._prefix = int(getattr(model, "num_prefix_tokens", 0))
        self._reads_token = getattr(model, "global_pool", "") == "token"
        super().__init__(list(self._attentions))

    def by_block(self, mask: Tensor) -> list[Tensor]:  # noqa: D102
        with torch.no_grad():
            maps = [self._map(attention) for attention in self._attentions]
            rows, columns = token_grid(maps[0].shape[-1] - self._prefix, *mask.shape[1:])
            patches = _at_tokens(mask, rows, columns).flatten(1)
            whole = patches.mean(dim=1, keepdim=True).expand(-1, self._prefix)
            shares = [torch.cat((whole, patches), dim=1)]
            for attention in maps:
                shares.append(align(shares[-1][:, :, None], attention)[:, :, 0])
        return shares

    def pooled(self, shares: Tensor) -> Tensor:  # noqa: D102
        return shares[:, 0] if self._reads_token else shares[:, self._prefix :].mean(dim=1)


class SwinLabels(TokenLabels):
    """In timm's Swin: through shifted windows, and means of the four tokens that are merged between stages."""

    def __init__(self, model: Any) -> None:
        self._stages: Any = model.layers
        self._patch = int(model.patch_embed.patch_size[0])
        super().__init__([block.attn for stage in self._stages for block in stage.blocks])

    def by_block(self, mask: Tensor) -> list[Tensor]:  # noqa: D102
        height, width = mask.shape[1:]
        shares = [_at_tokens(mask, height // self._patch, width // self._patch)]
        with torch.no_grad():
            for stage in self._stages:
                now = shares[-1]
                if not isinstance(stage.downsample, nn.Identity):
                    now = F.avg_pool2d(now[:, None], 2, ceil_mode=True)[:, 0]
                for block in stage.blocks:
                    now = self._through_windows(block, now)
                    shares.append(now)
        return [each.flatten(1) for each in shares]

    def pooled(self, shares: Tensor) -> Tensor:  # noqa: D102
        return shares.mean(dim=1)

    def _through_windows(self, block: Any, shares: Tensor) -> Tensor:
        """Shares (B, H, W) after a block's attention."""
        (B, H, W), size, shift = shares.shape, block.window_size, block.shift_size
        if H % size[0] or W % size[1]:
            raise UserError(
                f"Windows of {size[0]}x{size[1]} tokens do not divide {H}x{W} of them: labels cannot follow."
            )
        bias = block.attn._get_rel_pos_bias()
        if (hidden := block.attn_mask) is not None:
            bias = (bias + hidden[:, None]).repeat(B, 1, 1, 1)  # windows of an image lie together
        rolled = torch.roll(shares, (-shift[0], -shift[1]), dims=(1, 2))
        windows = window_partition(rolled[..., None], size).flatten(1, 2)
        mixed = align(windows, self._map(block.attn, bias)).unflatten(1, size)
        return torch.roll(window_reverse(mixed, size, H, W)[..., 0], shift, dims=(1, 2))


def token_labels(model: nn.Module) -> TokenLabels:
    """What follows labels through ``model``.

    Raises:
        UserError: nothing here can follow them through such a model.
    """
    if isinstance(model, SwinTransformer):
        return SwinLabels(model)
    blocks = list(getattr(model, "blocks", ()))
    if blocks and all(isinstance(getattr(block, "attn", None), Attention) for block in blocks):
        return ViTLabels(model)
    raise UserError(
        f"Labels cannot be followed through {type(model).__name__}: take one of timm's vision transformers (ViT, DeiT) "
        "or Swin, whose attention is computed from queries and keys."
    )


def _at_tokens(mask: Tensor, rows: int, columns: int) -> Tensor:
    """Shares (B, rows, columns) of tokens: of each, that of its first pixel."""
    return F.interpolate(mask.float()[:, None], size=(rows, columns), mode="nearest")[:, 0]
