"""What the Python of the README takes for granted; see ``tests.readmes``."""

import torch

from tests.readmes import Snippet

# Block 1 needs JAX and dill.
SNIPPETS = {0: Snippet(lambda: {"online": torch.randn(4, 8), "target": torch.randn(4, 8)})}
