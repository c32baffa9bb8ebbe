"""What of OAMixer's training the command ``train`` can do: that of networks without masks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from common.errors import UserError
from common.training.hooks import Hook, Training
from common.training.recipe import Recipe


class WithoutLabels(Hook):
    """Refuses networks with masks: they would be trained as their hosts, since no labels of patches are read."""

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Look at the network.

        Raises:
            UserError: it has masks.
        """
        if getattr(model, "masked", False):
            raise UserError(
                f"{type(model).__name__} learns its masks from labels of patches, which this command does not read; "
                "train its host, or call the network with images and labels in a loop of your own."
            )


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe that has method settings, which say what the release trains with."""
    return (WithoutLabels(),) if recipe.method else ()
