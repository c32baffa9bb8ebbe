"""A small quantiser for the embedded data, trained once and kept in the data folder."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import bench
from common.bench.stored import check_sum, place
from common.files import write_atomic
from common.progress import console
from papers.drvit import vq
from papers.drvit.vq import Decoder, Encoder, quantisation_loss

#: Of the quantiser: a word stands for 4 x 4 pixels, as the host's tokens do.
SIZES: dict[str, Any] = {
    "code_dim": 16, "filters": 16, "multipliers": (1, 2), "depth": 1, "groups": 8, "unshuffle": 2,
}  # fmt: skip
WORDS = 128
STEPS, BATCH, LEARNING_RATE = 300, 32, 3e-3


@lru_cache(maxsize=1)
def quantiser() -> tuple[Encoder, Tensor]:
    """The trained encoder, and its codebook (`WORDS`, D); trained now where the data folder has none.

    Random draws elsewhere stay as they are.
    """
    path = place("quantiser", check_sum(__file__, vq.__file__), "pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, codebook = Encoder(**SIZES), torch.empty(WORDS, SIZES["code_dim"])
        if path.exists():
            state = torch.load(path, weights_only=True)
            codebook.copy_(state.pop("codebook"))
            encoder.load_state_dict(state)
        else:
            console.print("Training a quantiser for Dr. ViT, once.", highlight=False)
            error = train(encoder, codebook)
            console.print(f"It reconstructs images with a mean squared error of {error:.4f}.", highlight=False)
            state = {**encoder.state_dict(), "codebook": codebook}
            write_atomic(path, lambda handle: torch.save(state, handle))
    return encoder.eval().requires_grad_(False), codebook


@torch.enable_grad()
def train(encoder: Encoder, codebook: Tensor, steps: int = STEPS) -> float:
    """Train encoder and codebook on images drawn from a fixed seed, in place.

    Returns:
        The last reconstruction error: mean square over pixels in [0, 1].
    """
    generator = torch.Generator().manual_seed(0)
    decoder = Decoder(**SIZES)
    images = bench.training_data().train[0]

    def batch() -> Tensor:
        return images[torch.randint(len(images), (BATCH,), generator=generator)].float() / 255

    with torch.no_grad():  # words start as features of some places
        features = encoder(batch()).permute(0, 2, 3, 1).flatten(0, 2)
        words = nn.Parameter(features[torch.randperm(len(features), generator=generator)[: len(codebook)]].clone())
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), words], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        x = batch()
        features = encoder(x).permute(0, 2, 3, 1)
        # At the temperature of the release, 0.01, few of these words would be used.
        loss, chosen = quantisation_loss(features.flatten(0, 2), words, temperature=1.0)
        error = F.mse_loss(decoder(chosen.view_as(features).permute(0, 3, 1, 2)), x)
        optimizer.zero_grad()
        (error + loss).backward()
        optimizer.step()
        schedule.step()
    codebook.copy_(words.detach())
    return float(error.detach())
