"""What the Python of the README takes for granted; see ``tests.readmes``."""

import torch

from tests.readmes import Snippet, images


def _attention() -> dict[str, object]:
    import timm

    model = timm.create_model("early_conv_vit", num_classes=0, embed_dim=48, depth=2, num_heads=3, mlp_dim=96)
    return {**images(2, 32), "old_model": model, "new_model": model}


def _features() -> dict[str, object]:
    return {"features": torch.randn(6, 8), "labels": torch.tensor([0, 0, 1, 1, 2, 2]), "queries": torch.randn(3, 8)}


# Block 0 trains on CIFAR-100.
SNIPPETS = {1: Snippet(_attention), 2: Snippet(_features)}
