"""The reweighting mask: how much two patches may mix, by how alike their object labels are.

Shapes: B images, N patches, K object labels; labels (B, N, K) are, for each patch, a distribution over objects.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import UserError, nearest

DISTANCES = ("l1", "cosine")
FORMS = ("exp", "minus")


def distances(labels: Tensor, kind: str = "l1") -> Tensor:
    """How far the labels of any two patches are apart: (B, N, K) -> (B, N, N).

    ``l1`` is the sum of absolute differences, ``cosine`` 1 minus the cosine of the angle.
    """
    if kind == "l1":
        return torch.cdist(labels, labels, p=1)
    unit = labels / labels.norm(dim=-1, keepdim=True)
    return 1 - unit @ unit.transpose(1, 2)


class ObjectMask(nn.Module):
    """Mixed into a layer that mixes patches: it owns the layer's scale, and makes a mask of distances.

    The scale, kappa, is learned and starts at 0, where patches of all objects mix as in the host. With ``exp`` the mask
    is exp(-kappa d), with ``minus`` 1 - kappa d; kappa is at least 0, and at most 1 with ``minus``.

    Attributes:
        mask_scale: kappa, (1,).
        form: one of `FORMS`.
    """

    mask_scale: nn.Parameter
    form: str

    def add_mask(self, form: str) -> None:
        """Give the layer its scale.

        Raises:
            UserError: there is no such form.
        """
        if form not in FORMS:
            raise UserError(f"A mask is one of {', '.join(FORMS)}, not {form!r}.{nearest(form, FORMS)}")
        self.form, self.mask_scale = form, nn.Parameter(torch.zeros(1))

    @property
    def scale_of_mask(self) -> Tensor:
        """Kappa in its range."""
        return self.mask_scale.clamp(min=0, max=1 if self.form == "minus" else None)

    def mask(self, distance: Tensor) -> Tensor:
        """Factors for pairs of patches at ``distance`` (B, N, N)."""
        scaled = self.scale_of_mask * distance
        return (-scaled).exp() if self.form == "exp" else 1 - scaled

    def excess(self, distance: Tensor) -> Tensor:
        """One minus the mask, which is what a layer takes away."""
        scaled = self.scale_of_mask * distance
        return -torch.expm1(-scaled) if self.form == "exp" else scaled

    def on_optimizer_step(self, step: int) -> None:
        """Put the scale back into its range, where alone it has a gradient."""
        with torch.no_grad():
            self.mask_scale.copy_(self.scale_of_mask)
