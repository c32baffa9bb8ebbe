"""What the Python of the README takes for granted; see ``tests.readmes``."""

import torch

from papers.imagenet_r.networks import CAE
from tests.readmes import Snippet

SNIPPETS = {
    0: Snippet(
        lambda: {
            "state": CAE().state_dict(),
            "image": torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8),
            "images": torch.randn(3, 3, 16, 16),
        }
    )
}
