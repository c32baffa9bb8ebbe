"""What the Python of TL-Align's README takes for granted."""

import torch

from common import bench
from common.training.hooks import Batch
from common.training.mixing import Mixed
from tests.readmes import Snippet


def _mixed_batch() -> dict[str, object]:
    """``model`` and ``batch``, of which the lower half of each image is its partner's."""
    images, labels, mask = torch.rand(2, 3, 28, 28), torch.eye(10)[:2], torch.zeros(2, 28, 28)
    mask[:, 14:] = 1
    batch = Batch(images, labels.argmax(dim=1), labels, Mixed(labels, labels.flip(0), mask))
    return {"model": bench.hosts.vit_mini(), "batch": batch}


SNIPPETS = {0: Snippet(_mixed_batch)}
