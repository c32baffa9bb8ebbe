"""What the Python of the README takes for granted; see ``tests.readmes``."""

import torch

from tests.readmes import Snippet, images

# Block 1 needs TensorFlow.
SNIPPETS = {
    0: Snippet(lambda: {**images(4, 32), "generator": torch.Generator(), "embeddings": torch.randn(8, 16)}),
}
