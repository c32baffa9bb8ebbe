"""The embedded experiment: the words of a small quantiser in the bench's ViT."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.bench import cue_conflict, hosts
from common.training.recipe import Recipe
from papers.drvit.model import CodeEmbed, Codes
from papers.drvit.quantiser import WORDS, quantiser
from papers.drvit.vq import margin, nearest_code

HOST = "vit_mini"
BOTH, ALONE, FEATURES = f"{HOST}+codes", f"{HOST}+codes_alone", f"{HOST}+encoder_features"
#: Of a token's 48 channels: 16 of pixels, 16 of a word, 16 of zeros.
FUSION_DIM = 16
#: Draws of the order of positions that `measure` takes the mean of.
SHUFFLES = 2


def tokens(
    img_size: int,
    patch_size: int,
    in_chans: int,
    embed_dim: int,
    *,
    fusion_dim: int,
    discrete: bool = True,
    **kwargs: Any,
) -> CodeEmbed:
    """Code words at the places of the host's tokens, alone or beside what the host's stem makes of pixels."""
    recipe = bench.host(HOST).settings()
    mean, std = (bench.per_channel(values) for values in (recipe.mean, recipe.std))
    encoder, codebook = quantiser()
    codes = Codes(copy.deepcopy(encoder), WORDS, tuned=False, discrete=discrete, mean=mean, std=std)
    codes.codebook.data.copy_(codebook)
    embed = CodeEmbed(img_size, patch_size, in_chans, embed_dim, fusion_dim=fusion_dim, codes=codes, **kwargs)
    if fusion_dim:
        stem = hosts.Stem(img_size, patch_size, in_chans, fusion_dim)
        embed.backbone, embed.proj = stem.proj[:-1], stem.proj[-1]  # type: ignore[assignment]
    return embed


def vit(fusion_dim: int = FUSION_DIM, discrete: bool = True) -> nn.Module:
    """The host on tokens with code words, or, not ``discrete``, with the features that they are nearest to."""
    return hosts.vit_mini(embed_layer=partial(tokens, fusion_dim=fusion_dim, discrete=discrete))


def contenders() -> list[bench.Contender]:
    """The host on pixels, on pixels and code words, on code words alone, on pixels and the encoder's features."""
    return [
        bench.host(HOST),
        bench.Contender(BOTH, vit),
        bench.Contender(ALONE, partial(vit, fusion_dim=0)),
        bench.Contender(FEATURES, partial(vit, discrete=False)),
    ]


def measure(model: Any, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """Accuracy, decisions by shape or texture, and what the places of tokens are worth.

    Returns:
        ``top1``, ``corruption_top1`` with its cells, ``occlusion_top1``, what `cue_conflict.decisions` returns, and by
        image ``shuffled_positions_top1`` and ``position_reliance``, by how much accuracy falls when the position
        embeddings of patches change places. Attacks by gradient are left out: code words give them none.
    """
    tests, classifier = bench.test_set(quick), bench.normalised(model, recipe)
    right = bench.correct(classifier, tests.clean, tests.labels)
    corrupted = bench.correct(classifier, tests.corrupted, tests.labels_of(len(bench.CORRUPTION_CELLS)))
    cells = {
        f"corruption_top1/{name}/{severity}": float(cell.mean())
        for (name, severity), cell in zip(bench.CORRUPTION_CELLS, corrupted, strict=True)
    }
    some = slice(cue_conflict.CELLS)
    shuffled = np.mean(
        [
            with_shuffled_positions(
                model, lambda: bench.correct(classifier, tests.clean[some], tests.labels[some]), seed
            )
            for seed in range(SHUFFLES)
        ],
        axis=0,
    )
    return {
        "top1": right,
        "corruption_top1": corrupted,
        **cells,
        "occlusion_top1": bench.correct(classifier, tests.occluded, tests.labels_of(len(bench.OCCLUSION_SHARES))),
        **cue_conflict.decisions(classifier, cue_conflict.test_conflicts(quick)),
        "shuffled_positions_top1": shuffled,
        "position_reliance": right[some] - shuffled,
    }


def with_shuffled_positions(model: Any, measured: Callable[[], np.ndarray], seed: int) -> np.ndarray:
    """What ``measured`` gives while the position embeddings of patches are in an order that ``seed`` draws."""
    positions, first = model.pos_embed.data, model.num_prefix_tokens
    order = torch.randperm(positions.shape[1] - first, generator=torch.Generator().manual_seed(seed))
    try:
        model.pos_embed.data = torch.cat([positions[:, :first], positions[:, first:][:, order]], dim=1)
        return measured()
    finally:
        model.pos_embed.data = positions


def changed_tokens(quick: bool) -> dict[tuple[str, int], tuple[Tensor, Tensor, Tensor]]:
    """What corruptions do to the code words of test images, by corruption and severity.

    Returns:
        Of each place of the cell's images, (n, h, w): whether its code word changed; how far its feature moved; how
        far it might have moved in any direction without changing it.
    """
    tests, (encoder, codebook) = bench.test_set(quick), quantiser()

    def features(images: Tensor) -> Tensor:
        return encoder(images.float() / 255).permute(0, 2, 3, 1)

    found = {}
    with torch.inference_mode():
        for cell, (key, images) in enumerate(zip(bench.CORRUPTION_CELLS, tests.corrupted, strict=True)):
            clean, corrupted = features(tests.clean[cell % bench.SUBSETS]), features(images)
            changed = nearest_code(clean, codebook) != nearest_code(corrupted, codebook)
            found[key] = (changed, (corrupted - clean).norm(dim=-1), margin(clean, codebook))
    return found
