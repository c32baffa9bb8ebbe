"""Pre-training without labels: two views of each image, and a contrast across them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from common.errors import UserError, nearest
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.dense_ssl_vit.method import contrast_across_views
from papers.simclr.augmentation import AugmentationSettings
from papers.simclr.training import Contrastive

FEATURES = ("local", "global")


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings.

    ``features``: what the global representation of one view is compared with in the other, ``local`` features or the
    ``global`` representation. ``temperature``, and ``group``, the images that are contrasted with one another, 0 for
    all; see ``method.contrast_across_views``. ``colour_strength``, ``colour_probability``, ``grey_probability``,
    ``blur_probability``: of the views, see ``papers.simclr.augmentation.AugmentationSettings``.

    Raises:
        UserError: a value is out of range, or the recipe asks for what contrastive learning has no form of.
    """
    return [AcrossViews(recipe)]


class AcrossViews(Contrastive):
    """SimCLR's views, with a loss between the views' global and local representations in place of its own.

    Args:
        recipe: with the method's settings.
    """

    def __init__(self, recipe: Recipe) -> None:
        method = recipe.method
        self.features = str(method["features"])
        if self.features not in FEATURES:
            raise UserError(
                f"features must be one of {', '.join(FEATURES)}, not {self.features!r}."
                f"{nearest(self.features, FEATURES)}"
            )
        for key in ("mixup", "cutmix", "random_erasing", "label_smoothing"):
            if getattr(recipe, key):
                raise UserError(f"Contrastive pre-training has no labels to mix or smooth: set {key}=0.")
        settings = AugmentationSettings(
            strength=float(method["colour_strength"]),
            colour=float(method["colour_probability"]),
            grey=float(method["grey_probability"]),
            blur=float(method["blur_probability"]),
        )
        super().__init__(settings, float(method["temperature"]), False, recipe.mean, recipe.std, False, False)
        self.group = int(method["group"])
        if self.temperature <= 0 or self.group < 0:
            raise UserError("Set method.temperature above 0, and method.group to 0 or more.")

    def train(self, model: nn.Module) -> None:
        """Pre-train.

        Raises:
            UserError: the model has no projection heads.
        """
        projection = getattr(model, "local_projection", None)
        if not isinstance(projection, nn.Module):
            raise UserError(f"{type(model).__name__} has no projection heads: choose a model named dense_ssl_vit_...")
        super().train(model)
        if self.features == "global":
            for parameter in projection.parameters():
                parameter.requires_grad_(False)  # it is not used

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Add the contrast to the loss of the classifier, which shares no parameter with it."""
        _, whole, local = batch.outputs
        compared = local if self.features == "local" else whole[:, None]
        return loss + contrast_across_views(whole, compared, self.temperature, self.group)
