"""What the Python of the README takes for granted; see ``tests.readmes``."""

import torch

from tests.readmes import Snippet

SNIPPETS = {
    0: Snippet(
        lambda: {
            "decisions": ["cat", "car", "dog"],
            "shapes": ["cat", "dog", "bear"],
            "textures": ["dog", "car", "clock"],
            "content_features": torch.randn(2, 4, 8, 8),
            "style_features": torch.randn(2, 4, 6, 6),
        }
    )
}
