"""timm's interface to the classifier of a network: reading it and replacing it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from common.errors import UserError


class HasClassifier(nn.Module):
    """A network whose classifier is ``head``, a linear layer of ``num_features``, after pooling or of every place.

    Attributes:
        architecture: the network's name in sentences.
    """

    architecture: ClassVar[str]

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier."""
        network: Any = self
        return network.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one.

        Args:
            num_classes: its outputs; 0: none.
            global_pool: ``avg``, or empty for none; None: as before.

        Raises:
            UserError: there is no such pooling.
        """
        network: Any = self
        if global_pool is not None:
            if global_pool not in ("avg", ""):
                raise UserError(f"{self.architecture} pools by 'avg' or not at all (''), not by {global_pool!r}.")
            network.global_pool = global_pool
        network.num_classes = num_classes
        like = next(self.parameters())
        head = nn.Linear(network.num_features, num_classes) if num_classes > 0 else nn.Identity()
        network.head = head.to(device=like.device, dtype=like.dtype)
