"""Small MixMIM for 28 x 28 images, its pre-training with mask tokens instead of a second image, and fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common import bench
from common.training.hooks import Hook, Training
from common.training.recipe import Recipe
from papers.mixmim.method import patches
from papers.mixmim.model import MixMIM, MixMIMPretraining

#: 14 x 14 tokens in four windows, then 7 x 7 in one, each for 4 x 4 pixels; ours, not the publication's.
SIZES: dict[str, Any] = {
    "img_size": 28, "num_classes": bench.hosts.CLASSES, "patch_size": 2, "embed_dim": 24, "depths": (1, 2),
    "num_heads": (1, 3), "window_sizes": (7, 7), "mlp_ratio": 2.0,
}  # fmt: skip
DECODER: dict[str, Any] = {"decoder_dim": 48, "decoder_depth": 1, "decoder_num_heads": 3}


class MaskTokens(MixMIMPretraining):
    """The same network as a masked autoencoder with mask tokens: hidden tokens of the first stage are one symbol.

    Attention sees all tokens, and the decoder gets what the encoder made of the symbols. One image is reconstructed,
    and the error is that of its hidden patches, as in SimMIM (Xie et al., CVPR 2022).
    """

    derived: ClassVar[tuple[str, ...]] = MixMIMPretraining.derived

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.symbol = nn.Parameter(torch.zeros(self.absolute_pos_embed.shape[2]))
        nn.init.trunc_normal_(self.symbol, std=0.02)

    def encode(self, images: Tensor, mask: Tensor) -> Tensor:
        """Hide places of each image, and encode: (B, P, C)."""
        fine = mask
        for _ in range(len(self.layers) - 1):
            fine = fine.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
        tokens = torch.where(fine.flatten()[:, None], self.symbol, self.patch_embed(images))
        x = (tokens + self.absolute_pos_embed).unflatten(1, self.patch_embed.grid_size)
        for stage in self.layers:
            x = stage.downsample(stage(x))  # type: ignore[operator]
        return self.norm(x).flatten(1, 2)

    def decode(self, latent: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct patches (B, P, S * S * in_chans)."""
        x = self.decoder_embed(latent) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))

    def loss(self, images: Tensor, reconstructed: Tensor, normalise: bool = False) -> Tensor:
        """Mean squared error of the hidden patches, a scalar."""
        assert self.mask is not None
        hidden = self.mask.flatten()
        return (reconstructed - patches(images, self.stride))[:, hidden].square().mean()


def classifier() -> MixMIM:
    """The encoder with a classifier."""
    model = MixMIM(**SIZES)
    bench.hosts.initialise(model)
    return model


def mixed() -> MixMIMPretraining:
    """The encoder with a decoder, to be pre-trained on mixtures."""
    model = MixMIMPretraining(**SIZES, **DECODER)
    bench.hosts.initialise(model)
    return model


def mask_tokens() -> MaskTokens:
    """The encoder with a decoder, to be pre-trained with mask tokens."""
    model = MaskTokens(**SIZES, **DECODER)
    bench.hosts.initialise(model)
    model.mask_token.requires_grad_(False)  # its decoder has no use for one
    return model


class Pretrained(Hook):
    """Start from the encoder of a pre-trained network, which the bench gives as the teacher; the classifier stays."""

    def __init__(self) -> None:
        self.teacher: nn.Module | None = None

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Take its weights."""
        assert self.teacher is not None, "the bench trains the teacher first"
        given = self.teacher.state_dict()
        own = {name: value for name, value in model.state_dict().items() if name.startswith("head.")}
        model.load_state_dict({name: own.get(name, given[name]) for name in model.state_dict()})


def finetuning(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a network that starts from a pre-trained one."""
    return [Pretrained()]
