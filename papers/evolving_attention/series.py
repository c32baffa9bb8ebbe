"""EA-DC-Transformer: evolving attention beside dilated causal convolutions, for time series.

Wang et al., "Convolution-enhanced Evolving Attention Networks", arXiv 2212.08330. As in the residual network, a part of
the channels of each convolution, here over time, causal, and with a dilation that doubles from block to block, comes
from attention whose map evolves from layer to layer.

Shapes: B series, T steps, F variables of a step, C channels, h heads, d channels of a head.

Names of modules and parameters are those of the released checkpoints, but for two prefixes (`released.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError, nearest
from papers.evolving_attention.maps import Evolution, relative_terms
from papers.evolving_attention.released import series_from_released, series_to_released

HEADS = 8
#: "published" learns relative positions and transposes what attention gives; "released" draws them anew in every
#: forward pass and lays time and channels of what attention gives out as they come.
FORMS = ("published", "released")


class CausalConvolution(nn.Module):
    """A convolution (B, C, T) -> (B, out, T) of each step and those before it, with weight norm."""

    def __init__(self, in_chans: int, out: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        like = nn.Conv1d(in_chans, out, kernel_size)
        self.weight_g = nn.Parameter(like.weight.detach().norm(dim=(1, 2), keepdim=True))
        self.weight_v, self.bias = like.weight, like.bias

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        weight = self.weight_g * self.weight_v / self.weight_v.norm(dim=(1, 2), keepdim=True)
        past = (weight.shape[-1] - 1) * self.dilation
        return F.conv1d(F.pad(x, (past, 0)), weight, self.bias, dilation=self.dilation)


class AugmentedCausalConvolution(nn.Module):
    """A causal convolution, a part of whose output comes from attention over all steps, which evolves.

    Args:
        in_chans: channels of the series.
        out: channels of the output; those from attention are the last.
        length: T.
        kernel_size, dilation: of the convolution.
        keys, values: shares of ``out`` that are channels of all keys, and of all values.
        alpha, beta: see :class:`Evolution`.
        evolves: whether there is a previous map.
        form: one of :data:`FORMS`.
    """

    def __init__(
        self,
        in_chans: int,
        out: int,
        length: int,
        kernel_size: int,
        dilation: int,
        keys: float,
        values: float,
        alpha: float,
        beta: float,
        evolves: bool,
        form: str,
    ) -> None:
        super().__init__()
        dim, value_dim = int(out * keys), int(out * values)
        if dim < HEADS or dim % HEADS or value_dim < HEADS or value_dim % HEADS:
            raise UserError(f"{dim} channels of keys and {value_dim} of values cannot be divided among {HEADS} heads.")
        self.sizes, self.head_dim, self.released = (dim, dim, value_dim), dim // HEADS, form == "released"
        self.conv = CausalConvolution(in_chans, out - value_dim, kernel_size, dilation)
        self.qkv_conv = nn.Conv1d(in_chans, 2 * dim + value_dim, 1)
        self.evolution = Evolution(HEADS, alpha, beta, F.leaky_relu) if evolves and (alpha or beta) else None
        self.relative = None if self.released else nn.Parameter(torch.randn(2 * length - 1, self.head_dim))

    def forward(self, x: Tensor, previous: Tensor | None, table: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve and attend.

        Args:
            x: (B, C, T).
            previous: the map of the layer before, (B, h, T, T).
            table: of relative positions (2 T - 1, d), in place of the learned one or of one that is drawn.

        Returns:
            The output (B, out, T), and this layer's map, before softmax.
        """
        steps = x.shape[-1]
        q, k, v = (part.unflatten(1, (HEADS, -1)).mT for part in self.qkv_conv(x).split(self.sizes, dim=1))
        q = q * self.head_dim**-0.5
        if table is None:
            table = torch.randn(2 * steps - 1, self.head_dim).to(q) if self.relative is None else self.relative
        logits = q @ k.mT + relative_terms(q, table)
        if self.evolution is not None and previous is not None:
            logits = self.evolution(logits, previous)
        attended = logits.softmax(dim=-1) @ v  # (B, h, T, d)
        attended = attended.reshape(*attended.shape[:2], -1, steps) if self.released else attended.mT
        return torch.cat((self.conv(x), attended.flatten(1, 2)), dim=1), logits


class Block(nn.Module):
    """Two augmented convolutions, each before a batch norm and an MLP over channels, beside a shortcut.

    Args:
        in_chans, out: channels of the series before and after.
        hidden: hidden channels of the MLPs.
        dropout: of what is between an MLP's layers, and of maps that are handed on.
        **attention: arguments of :class:`AugmentedCausalConvolution`.
    """

    def __init__(self, in_chans: int, out: int, hidden: int, dropout: float, **attention: Any) -> None:
        super().__init__()
        self.conv1 = AugmentedCausalConvolution(in_chans, out, **attention)
        self.conv2 = AugmentedCausalConvolution(out, out, **attention)
        self.linear1, self.linear2 = nn.Linear(out, hidden), nn.Linear(hidden, out)
        self.linear3, self.linear4 = nn.Linear(out, hidden), nn.Linear(hidden, out)
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm1d(out) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.upordownsample = nn.Conv1d(in_chans, out, 1) if in_chans != out else None

    def forward(
        self, x: Tensor, previous: Tensor | None, tables: Sequence[Tensor | None] = (None, None)
    ) -> tuple[Tensor, Tensor]:
        """Transform a series (B, C, T), with the previous map; the map that is returned went through a leaky ReLU."""
        shortcut = x if self.upordownsample is None else self.upordownsample(x)
        x, attention = self.conv1(x, previous, tables[0])
        x = self.linear2(self.dropout(F.leaky_relu(self.linear1(self.norm2(x).mT)))).mT
        x, attention = self.conv2(x, self.dropout(F.leaky_relu(attention)), tables[1])
        x = self.linear4(self.dropout(F.leaky_relu(self.linear3(self.norm3(x).mT)))).mT
        return self.norm1(x + shortcut), self.dropout(F.leaky_relu(attention))


class Positions(nn.Module):
    """Adds sines and cosines of the step, as the transformer of Vaswani et al. has them: (B, T, C) -> (B, T, C)."""

    derived = ("pe",)

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("pe", torch.empty(length, 1, dim))
        self.pe: Tensor
        self.recompute_derived()

    def recompute_derived(self) -> None:
        """Set the table: even channels are sines."""
        length, _, dim = self.pe.shape
        angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
        self.pe.copy_(torch.stack((angles.sin(), angles.cos()), dim=-1).view(length, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Add them."""
        return x + self.pe[: x.shape[1], 0]


class EADCTransformer(nn.Module):
    """Evolving attention with dilated convolutions, for classification and regression of time series.

    Args:
        variables: F.
        length: T; shorter series are padded.
        outputs: classes, or values to be predicted.
        dim: C before the first block and after the last.
        hidden: C between the blocks.
        depth: blocks, less the last one.
        mlp_dim: hidden channels of MLPs.
        kernel_size: of causal convolutions.
        dilated: whether their dilation doubles from block to block.
        alpha, beta: see :class:`Evolution`; 0 for attention that does not evolve.
        keys, values: see :class:`AugmentedCausalConvolution`.
        dropout: see :class:`Block`; also of the embedding and before the output layer.
        form: one of :data:`FORMS`. Released files need ``released``.

    Raises:
        UserError: an unknown form, or channels that cannot be divided among the heads.
    """

    heads = HEADS

    def __init__(
        self,
        variables: int,
        length: int,
        outputs: int,
        dim: int = 64,
        hidden: int = 64,
        depth: int = 3,
        mlp_dim: int = 256,
        kernel_size: int = 3,
        dilated: bool = True,
        alpha: float = 0.5,
        beta: float = 0.3,
        keys: float = 0.25,
        values: float = 0.25,
        dropout: float = 0.1,
        form: str = "published",
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise UserError(f"There is no form {form!r} of the EA-DC-Transformer.{nearest(form, FORMS)}")
        self.dim, self.length = dim, length
        self.project_inp = nn.Linear(variables, dim)
        self.pos_enc = Positions(length, dim)
        self.dropout = nn.Dropout(dropout)
        self.output_layer = nn.Linear(dim * length, outputs)
        widths = [dim, *[hidden] * depth, dim]
        self.blocks = nn.ModuleList(
            Block(
                before,
                after,
                mlp_dim,
                dropout,
                length=length,
                kernel_size=kernel_size,
                dilation=2**index if dilated else 1,
                keys=keys,
                values=values,
                alpha=alpha,
                beta=beta,
                evolves=index > 0,
                form=form,
            )
            for index, (before, after) in enumerate(pairwise(widths))
        )

    def features_and_maps(
        self, x: Tensor, mask: Tensor, tables: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Features (B, T, C), zero where padded, and each block's map, (B, h, T, T), as it is handed on.

        Args:
            x: series (B, T, F).
            mask: (B, T), true where a step is, false where it is padded.
            tables: two tables of relative positions for each block, in place of learned or drawn ones.
        """
        if x.shape[1] != self.length:
            raise UserError(f"Series have {x.shape[1]} steps, and the network {self.length}; pad them.")
        x = self.project_inp(x.masked_fill(~mask[..., None], 0)) * math.sqrt(self.dim)
        x = self.dropout(self.pos_enc(x)).mT
        previous, maps = None, []
        pairs: Iterator[Any] = (
            iter(lambda: (None, None), 0) if tables is None else zip(*[iter(tables)] * 2, strict=True)
        )
        for block, pair in zip(self.blocks, pairs, strict=False):
            x, previous = block(x, previous, pair)
            maps.append(previous)
        return self.dropout(F.gelu(x.mT)) * mask[..., None], maps

    def forward(self, x: Tensor, mask: Tensor, tables: Sequence[Tensor] | None = None) -> Tensor:
        """Series (B, T, F) to logits or predicted values (B, outputs); see :meth:`features_and_maps`."""
        return self.output_layer(self.features_and_maps(x, mask, tables)[0].flatten(1))


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to those of :class:`EADCTransformer`."""
    return series_from_released(state_dict, model)


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The inverse of :func:`checkpoint_filter_fn`."""
    return series_to_released(state_dict, model)
