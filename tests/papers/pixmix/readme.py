"""What the Python of the README takes for granted; see ``tests.readmes``."""

import torch

from tests.readmes import Snippet

SNIPPETS = {0: Snippet(lambda: {"images": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)})}
