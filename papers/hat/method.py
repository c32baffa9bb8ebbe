"""HAT: perturbations of an image's high frequencies that raise the loss, and the loss of training with them.

A step makes ``passes`` passes through the network, the first one on the clean images x, whose prediction is p. Each
pass but the last moves the perturbation delta, which starts at zero, up the gradient of its loss:

    delta <- clip(delta + step * sign(d loss / d delta), -epsilon, epsilon)

Passes after the first are on x + H(delta) and have the loss ce_weight * CE(q) + kl_weight * D(p, q), where q is their
prediction, H keeps the frequencies above a radius, and D is the symmetric divergence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError, nearest
from common.robustness.frequency import high_pass

FORMS = ("published", "released")


@dataclass(frozen=True)
class HatSettings:
    """The recipe's ``method`` table.

    Attributes:
        form: ``published`` perturbs high frequencies alone, by epsilon in pixel units; of the passes after the first,
            the last one trains the network and the others only move the perturbation. ``released`` perturbs all
            frequencies of the normalised image by epsilon, and the gradients of all passes add up, those after the
            first as a mean.
        passes: through the network in a step, at least 1, the clean one included; 1 is plain training.
        epsilon: the largest perturbation of a pixel, white less black being 1; as released, of a normalised one.
        step: by which a pass moves it, in the same unit.
        ce_weight: of the cross-entropy of perturbed images.
        kl_weight: of the divergence between the predictions of clean and of perturbed images.
        adversarial_epochs: how many epochs are trained so, or what fraction of one; those that follow are plain.
        radius: above which frequencies are perturbed, see ``common.robustness.frequency``; no effect as released.

    Raises:
        UserError: a value is out of range.
    """

    form: str
    passes: int
    epsilon: float
    step: float
    ce_weight: float
    kl_weight: float
    adversarial_epochs: float
    radius: float

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"form must be one of {', '.join(FORMS)}, not {self.form!r}.{nearest(self.form, FORMS)}")
        if self.passes < 1:
            raise UserError(f"passes counts the clean one, too: at least 1, not {self.passes}.")
        for name in ("epsilon", "step", "ce_weight", "kl_weight", "adversarial_epochs", "radius"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative: {getattr(self, name)}.")

    def perturbed(self, images: Tensor, delta: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) with the perturbation ``delta`` of the same shape; nothing is clipped."""
        return images + (high_pass(delta, self.radius) if self.form == "published" else delta)

    def loss(self, cross_entropy: Tensor, clean: Tensor, perturbed: Tensor) -> Tensor:
        """The loss of a pass on perturbed images, a scalar.

        Args:
            cross_entropy: of the perturbed images, a scalar.
            clean, perturbed: logits (B, classes).
        """
        total = self.ce_weight * cross_entropy + self.kl_weight * divergence(clean, perturbed)
        return total / (self.passes - 1) if self.form == "released" else total


def moved(delta: Tensor, gradient: Tensor, step: Tensor, epsilon: Tensor) -> Tensor:
    """The perturbation after a step up the gradient.

    Where a gradient overflowed, as in half precision before the loss is scaled well, nothing moves.

    Args:
        delta, gradient: (B, C, H, W).
        step, epsilon: (C, 1, 1) or scalars, in the unit of ``delta``.
    """
    return (delta + step * gradient.nan_to_num(nan=0.0).sign()).clamp(-epsilon, epsilon)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Mean over images of (KL(p, q) + KL(q, p)) / 2 for the predictions p and q of logits (B, classes), a scalar."""
    p, q = F.log_softmax(first.float(), dim=1), F.log_softmax(second.float(), dim=1)
    # Both divergences together: the sum of (p - q) (log p - log q).
    return ((p.exp() - q.exp()) * (p - q)).sum(dim=1).mean() / 2
