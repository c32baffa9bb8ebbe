"""The bench's vision transformer under three kinds of supervision: labels, contrast, reconstruction.

Contrast is SimCLR's (papers/simclr) with the class token as the feature. Reconstruction is a masked autoencoder (He et
al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022): the encoder sees the visible patches alone, and a
decoder of one block fills in the pixels of the hidden ones. Beside either of them the classifier learns on features
through which no gradient flows, so that all three are classifiers for whoever measures them.

Axes: B images, N patches, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from common import bench
from common.errors import UserError
from common.training.hooks import Hook, Training
from common.training.recipe import Recipe
from papers.mixmim.method import patches
from papers.mixmim.training import Mixing
from papers.simclr.claims import RECIPE as SIMCLR_RECIPE
from papers.simclr.model import ProjectionHead
from papers.simclr.training import hooks as simclr_hooks

LABELS, CONTRAST, RECONSTRUCTION, UNTRAINED = (
    "vit_mini",
    "vit_mini.simclr",
    "vit_mini.masked",
    "vit_mini.untrained",
)
#: Share of the patches that are hidden, as in the publication of masked autoencoders.
MASK_RATIO = 0.75


class Contrastive(VisionTransformer):
    """With a projection head; in pre-training it returns logits and embeddings (B, 128) in training mode."""

    kept_layers = 0  # of the projection head, that the classifier stands on; SimCLR's hook asks

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.projection = ProjectionHead(self.num_features, layers=2)
        self.pretraining = False

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        """Logits (B, 10) of images (B, 3, 28, 28); in pre-training logits and embeddings."""
        features = self.forward_head(self.forward_features(x), pre_logits=True)
        if not (self.pretraining and self.training):
            return self.head(features)
        return self.head(features.detach()), self.projection(features)


class MaskedAutoencoder(VisionTransformer):
    """With a decoder; in pre-training it returns logits and reconstructed patches (B, N, pixels) in training mode.

    Attributes:
        mask: bool (rows, columns) of the hidden patches of all images of a step, set before each.
        places: rows and columns of patches.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        embed: Any = self.patch_embed
        self.patch, self.places = int(embed.patch_size[0]), tuple(embed.grid_size)
        blocks: Any = self.blocks
        self.mask_token = nn.Parameter(torch.zeros(self.embed_dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + embed.num_patches, self.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.decoder_pos_embed, std=0.02)
        self.decoder = Block(self.embed_dim, blocks[0].attn.num_heads, mlp_ratio=2.0, qkv_bias=True)
        self.decoder_norm = nn.LayerNorm(self.embed_dim)
        self.decoder_pred = nn.Linear(self.embed_dim, 3 * self.patch**2)
        self.pretraining = False
        self.mask: Tensor | None = None

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        """The class token and the visible patches of images (B, 3, H, W), (B, 1 + visible, C).

        Hidden pixels are grey before the stem, whose convolutions would let visible tokens see them.
        """
        fine = mask.repeat_interleave(self.patch, dim=0).repeat_interleave(self.patch, dim=1)
        tokens = self._pos_embed(self.patch_embed(x.masked_fill(fine, 0)))
        return self.norm(self.blocks(tokens[:, F.pad(~mask.flatten(), (1, 0), value=True)]))

    def decode(self, latent: Tensor, mask: Tensor) -> Tensor:
        """The pixels of all patches, (B, N, 3 * patch * patch), from what ``encode`` gave."""
        seen = F.pad(~mask.flatten(), (1, 0), value=True)
        tokens = self.mask_token.expand(len(latent), len(seen), -1).clone()
        tokens[:, seen] = latent
        return self.decoder_pred(self.decoder_norm(self.decoder(tokens + self.decoder_pos_embed)))[:, 1:]

    def loss(self, images: Tensor, reconstructed: Tensor, normalise: bool = False) -> Tensor:
        """Mean squared error of the hidden patches, a scalar; patches are predicted as they are."""
        assert self.mask is not None
        return (reconstructed - patches(images, self.patch))[:, self.mask.flatten()].square().mean()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        """Logits (B, 10) of images (B, 3, 28, 28); in pre-training logits and reconstructed patches."""
        if not (self.pretraining and self.training):
            return super().forward(x)
        assert self.mask is not None, "the hook draws a mask for each step"
        latent = self.encode(x, self.mask)
        return self.forward_head(latent.detach()), self.decode(latent, self.mask)


class Masking(Mixing):
    """MixMIM's hook, which draws a mask for each step and adds the model's loss, for a `MaskedAutoencoder`."""

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Have it reconstruct.

        Raises:
            UserError: it has no decoder.
        """
        if not isinstance(model, MaskedAutoencoder):
            raise UserError(f"{type(model).__name__} has no decoder to pre-train with; take a MaskedAutoencoder.")
        model.pretraining = True


def masking(recipe: Recipe) -> Sequence[Hook]:
    """The hook of reconstruction."""
    return [Masking(MASK_RATIO, normalise=False)]


#: No labels to smooth, and no norm in common with the classifier, which would let labels reach the encoder.
_WITHOUT_LABELS = ("label_smoothing=0.0", "clip_gradient=0.0")
#: Without a rate, training leaves the random weights as they are.
_STILL = ("learning_rate=0.0", "warmup_learning_rate=0.0", "min_learning_rate=0.0", "epoch_images=128")


def contenders() -> list[bench.Contender]:
    """The transformer trained with labels, by contrast and by reconstruction, and not at all."""
    vit = bench.hosts.vit_mini
    return [
        bench.host(LABELS),
        bench.Contender(CONTRAST, partial(vit, kind=Contrastive), simclr_hooks, recipe=SIMCLR_RECIPE),
        bench.Contender(RECONSTRUCTION, partial(vit, kind=MaskedAutoencoder), masking, _WITHOUT_LABELS),
        bench.Contender(UNTRAINED, vit, changes=_STILL),
    ]
