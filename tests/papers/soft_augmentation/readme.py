"""What the Python of the README takes for granted; see ``tests.readmes``."""

import torch

from common.bench import hosts
from tests.readmes import Snippet, images

SNIPPETS = {0: Snippet(lambda: {**images(2, 28), "labels": torch.tensor([0, 1]), "model": hosts.resnet_mini().eval()})}
