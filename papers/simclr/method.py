"""NT-Xent, the normalised temperature-scaled cross-entropy of two views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.training.gathering import gather, world


def nt_xent(embeddings: Tensor, temperature: float) -> Tensor:
    """The contrastive loss of the publication (Eq. 1), the mean over all 2N views; a scalar.

    Each view is to be told, by cosine similarity, from all others which one is of the same image. Negatives come from
    all processes. The gradient of the mean over processes is that of one process with the whole batch.

    Args:
        embeddings: (2 n, d) of this process, views i and n + i of the same image; any scale.
        temperature: above 0.

    Raises:
        UserError: the temperature is not above 0, or the number of views is odd.
    """
    if temperature <= 0:
        raise UserError(f"The temperature of NT-Xent must be above 0, not {temperature}.")
    count = len(embeddings)
    if count % 2:
        raise UserError(f"NT-Xent takes two views of each image; {count} embeddings are not pairs.")
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings.float(), dim=1)
        rank, _ = world()
        similarity = (unit / temperature) @ gather(unit).T  # (2 n, world x 2 n)
        similarity[:, rank * count : (rank + 1) * count].fill_diagonal_(-torch.inf)  # a view is no candidate for itself
        partner = (torch.arange(count, device=unit.device) + count // 2) % count + rank * count
        return F.cross_entropy(similarity, partner)


@torch.no_grad()
def contrast_accuracy(embeddings: Tensor) -> Tensor:
    """Share of first views whose nearest second view, by cosine similarity, is of the same image; a scalar in [0, 1].

    Args:
        embeddings: (2 n, d), views i and n + i of the same image.
    """
    first, second = F.normalize(embeddings.float(), dim=1).chunk(2)
    return ((first @ second.T).argmax(dim=1) == torch.arange(len(first), device=first.device)).float().mean()
