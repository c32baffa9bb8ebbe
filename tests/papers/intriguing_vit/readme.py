"""What the Python of the README takes for granted; see ``tests.readmes``."""

import timm
import torch

from tests.readmes import Snippet, images

SNIPPETS = {
    0: Snippet(
        lambda: {
            **images(1, 512),
            "model": timm.create_model("vit_tiny_patch16_224").eval(),
            "loader": [(images(1)["images"], torch.tensor([0]))],
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
        }
    )
}
