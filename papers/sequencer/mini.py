"""Small networks for the bench, alike but for what mixes tokens: two-dimensional LSTMs, or self-attention."""

from __future__ import annotations

from typing import Any

from timm.models.sequencer import Sequencer2d
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from common.bench import hosts

#: As the bench's ViT has it; LSTMs are a quarter as wide as the tokens, as in the publication's networks.
WIDTH, HIDDEN, BLOCKS, MLP_RATIO = 48, 12, 3, 2.0


def sequencer_mini(union: str = "cat") -> Sequencer2d:
    """A Sequencer of 7x7 tokens of 48 channels, with the stem, the MLPs and the depth of the bench's ViT.

    Args:
        union: what becomes of both axes: ``cat``, ``add``; or the only one: ``vertical``, ``horizontal``.
    """
    model = Sequencer2d(
        num_classes=hosts.CLASSES,
        layers=(BLOCKS,),
        patch_sizes=(hosts.PATCH,),
        embed_dims=(WIDTH,),
        hidden_sizes=(HIDDEN,),
        mlp_ratios=(MLP_RATIO,),
        union=union,
    )
    model.register_module("stem", hosts.Stem(embed_dim=WIDTH, output_fmt="NHWC"))
    hosts.initialise(model)
    for name, module in model.named_modules():
        if name.endswith("rnn_tokens.fc") and isinstance(module, nn.Linear):  # the last layer of a residual branch
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def pooled_vit_mini(**changes: Any) -> VisionTransformer:
    """The bench's ViT with the mean of its tokens in place of the class token, as Sequencer has it."""
    return hosts.vit_mini(class_token=False, global_pool="avg", fc_norm=False, **changes)
