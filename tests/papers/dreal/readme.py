"""What the Python of the README takes for granted; see ``tests.readmes``."""

import torch

from tests.readmes import Snippet


def _names() -> dict[str, object]:
    from papers.dreal.experiment import attentive_resnet

    return {
        "model": attentive_resnet("se"),
        "images": torch.rand(4, 3, 28, 28),
        "labels": torch.arange(4),
    }


# Block 1 computes gradients, without which the others run.
SNIPPETS = {0: Snippet(_names)}
