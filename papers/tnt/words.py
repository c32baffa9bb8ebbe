"""What the inner transformer adds to a vision transformer: what its words see, and what it costs.

Axes: B images, n patches (sentences), m words of a patch, c channels of a word, d of a patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import timm
import torch
from timm.models.tnt import TNT
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common.measurement import Finding
from common.profiling import flops


def by_block(model: TNT, images: Tensor) -> list[Tensor]:
    """Words (B n, m, c) after each block of ``model``, of ``images`` (B, 3, H, W); patches have no part in them."""
    words = model.pixel_embed(images, model.pixel_pos)
    patches = words.new_zeros(len(images), model.num_patches + 1, model.embed_dim)
    after = []
    for block in model.blocks:
        words, _ = block(words, patches)
        after.append(words)
    return after


def pixels_seen(legacy: bool) -> int:
    """The number of pixels that the words of one patch of 16 x 16 pixels depend on, for a small TNT of 3 x 3 patches.

    ``legacy``: the network of the earlier release, whose convolution reads across the borders of patches.
    """
    torch.manual_seed(0)
    model = TNT(img_size=48, embed_dim=48, inner_dim=8, depth=2, num_heads_outer=4, legacy=legacy).double().eval()
    images = torch.randn(1, 3, 48, 48, dtype=torch.float64, requires_grad=True)
    middle = by_block(model, images)[-1][4]
    (gradient,) = torch.autograd.grad((middle * torch.randn_like(middle)).sum(), images)
    return int((gradient[0].abs().amax(dim=0) > 0).sum())


def sentences() -> Iterator[Finding]:
    """Words see their own patch and nothing else; where the convolution comes before the unfolding they see more."""
    seen, legacy = pixels_seen(legacy=False), pixels_seen(legacy=True)
    yield Finding.exactly(
        name="own_patch",
        statement="After all blocks the words of a patch depend on the pixels of that patch and on no other.",
        holds=seen == 16 * 16,
        evidence=f"The gradient of a patch's words is other than zero at {seen} pixels; a patch has 256.",
        value=float(seen),
    )
    yield Finding.exactly(
        name="legacy_reach",
        statement="In the earlier release they also depend on three rows above and three columns to the left of it.",
        holds=legacy == 19 * 19,
        evidence=f"The gradient is other than zero at {legacy} pixels; 19 x 19 are 361.",
        value=float(legacy),
    )


def plain(model: Any) -> VisionTransformer:
    """The vision transformer that is left of ``model`` where no word is added to a patch after the embedding."""
    first = model.blocks[0]
    vit: Any = VisionTransformer(
        img_size=model.pixel_embed.img_size,
        patch_size=model.pixel_embed.patch_size,
        num_classes=model.num_classes,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=first.attn_out.num_heads,
        mlp_ratio=first.mlp.fc1.out_features / model.embed_dim,
        qkv_bias=False,
        norm_layer=partial(nn.LayerNorm, eps=model.norm.eps),
    ).to(model.cls_token.dtype)
    vit.patch_embed = _Embedding(model)
    state: dict[str, Tensor] = {"cls_token": model.cls_token, "pos_embed": model.patch_pos}
    for name, module in (("norm", model.norm), ("head", model.head)):
        state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    for index, block in enumerate(model.blocks):
        attention = block.attn_out
        state[f"blocks.{index}.attn.qkv.weight"] = torch.cat([attention.qk.weight, attention.v.weight])
        parts = {"norm1": block.norm_out, "attn.proj": attention.proj, "norm2": block.norm_mlp, "mlp": block.mlp}
        for name, module in parts.items():
            state |= {f"blocks.{index}.{name}.{key}": value for key, value in module.state_dict().items()}
    missing, unexpected = vit.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith("patch_embed.") for name in missing)
    return vit


class _Embedding(nn.Module):
    """The patches with which a TNT begins: images (B, 3, H, W) to (B, n, d)."""

    def __init__(self, model: TNT) -> None:
        super().__init__()
        self.tnt = model

    def forward(self, images: Tensor) -> Tensor:
        words = self.tnt.pixel_embed(images, self.tnt.pixel_pos).reshape(len(images), self.tnt.num_patches, -1)
        return self.tnt.norm2_proj(self.tnt.proj(self.tnt.norm1_proj(words)))


def small() -> TNT:
    """A small TNT in float64 and eval mode, whose norms and positions are drawn at random."""
    torch.manual_seed(0)
    model = TNT(img_size=32, embed_dim=48, inner_dim=8, depth=3, num_heads_outer=4, num_classes=7).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def silence(model: Any) -> None:
    """Let no word reach a patch after the embedding: the last norm before the addition gives zeros."""
    for block in model.blocks:
        nn.init.zeros_(block.norm2_proj.weight)
        nn.init.zeros_(block.norm2_proj.bias)


@torch.no_grad()
def without_words() -> Finding:
    """A TNT whose blocks add nothing to the patches is a vision transformer; with the addition it is none."""
    model = small()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = plain(model)(images)

    def difference() -> float:
        return float((model(images) - expected).abs().max() / expected.abs().max())

    added = difference()
    silence(model)
    error = difference()
    return Finding.exactly(
        name="vision_transformer",
        statement="TNT is a plain vision transformer but for the words that its blocks add to the patches.",
        holds=error < 1e-12 < added,
        evidence=f"Largest relative difference {error:.1e} in float64 without them (bound 1e-12), {added:.1e} with.",
        value=error,
    )


def closed_form(n: int, m: int, c: int, d: int) -> tuple[int, int]:
    """Multiply-adds of a block's inner part (with its projection) and outer part, norms left out.

    A transformer block of N tokens of width C with an MLP of 4 C takes 12 N C^2 for its linear layers and 2 N^2 C for
    its attention; the projection takes the m c numbers of a patch to d. The class token attends, but has no words.
    """
    inner = n * (12 * m * c**2 + 2 * m**2 * c) + n * m * c * d
    outer = 12 * (n + 1) * d**2 + 2 * (n + 1) ** 2 * d
    return inner, outer


def cost() -> Finding:
    """The multiply-adds of a block as counted, against the closed form, for both sizes."""
    differences, shares = [], []
    for name in ("tnt_s_patch16_224", "tnt_b_patch16_224"):
        with torch.device("meta"):
            model: Any = timm.create_model(name)
            n, (m, c, d) = model.num_patches, _widths(model.blocks[0])
            inputs = torch.empty(n, m, c), torch.empty(1, n + 1, d)
            counted = flops(model.blocks[0], inputs=inputs).without("layer_norm")
        inner, outer = closed_form(n, m, c, d)
        differences.append(abs(counted - inner - outer))
        shares.append(f"{inner / outer:.1%} in {name}")
    return Finding.exactly(
        name="closed_form",
        statement="The inner transformer adds n (12 m c^2 + 2 m^2 c + m c d) multiply-adds to a block.",
        holds=max(differences) == 0,
        evidence=f"Largest difference to the count {max(differences)}, norms left out; it adds {' and '.join(shares)}.",
        value=float(max(differences)),
    )


def _widths(block: Any) -> tuple[int, int, int]:
    """Words of a patch and the channels of a word and of a patch."""
    c, d = block.norm_in.normalized_shape[0], block.norm_out.normalized_shape[0]
    return block.proj.in_features // c, c, d
