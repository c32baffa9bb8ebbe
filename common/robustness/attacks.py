"""Adversarial attacks in pixel space: FGSM, PGD, patch PGD and AutoAttack behind one signature.

Every attack is a frozen set of settings that is called as ``attack(model, images, labels, generator=...)`` and
returns adversarial images. ``model`` takes images in [0, 1] (see ``common.robustness.normalisation.Normalized``),
so ``epsilon`` and ``step`` are in pixel units whatever the model's normalisation is. A model in training mode is
attacked in eval mode and then left as it was: its batch statistics do not move and its parameters get no gradients.

Sources: FGSM, Goodfellow et al., arXiv 1412.6572; PGD, Madry et al., arXiv 1706.06083; AutoAttack, Croce and Hein,
arXiv 2003.01690; the patch attack, Gu et al., arXiv 2111.10659. The settings in ``PROTOCOLS`` are those of the
released evaluations of RVT (arXiv 2105.07926) and VARS (arXiv 2204.10962).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError, nearest
from common.outputs import logits_of
from common.robustness.draws import draw, given
from common.robustness.normalisation import check_range, evaluating

Norm = Literal["linf", "l2"]
#: Names of norms in AutoAttack's package.
_PACKAGE_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


class Attack(Protocol):
    """What all attacks have in common."""

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        draws: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Adversarial images of the shape and type of ``images``.

        Args:
            model: takes images in [0, 1], returns logits ``(B, K)``.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)`` integers: the true classes, or the classes to reach where the attack is targeted.
            generator: where random numbers are drawn from.
            seeds: one seed an image instead, which makes the result independent of the batch that it is in.
            draws: the random numbers themselves, by name, instead.

        The model is fed images of its own floating-point type, the labels may be of any integer type, a batch may be
        empty, and the caller may be in inference mode.

        Raises:
            UserError: images, labels, model or draws are others than said here.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Pgd:
    """Projected gradient ascent on the cross-entropy within a ball around each image.

    With one step, no random start and ``step == epsilon`` this is FGSM (``l_inf``) or the normalised gradient step
    (``l_2``). Labels may be probabilities ``(B, K)``, too, as images have that are mixed.

    Attributes:
        epsilon: radius of the ball, in pixel units (1.0 is white minus black); for ``l2`` over the whole image.
        step: length of a step: the change of each pixel (``linf``) or of the image (``l2``).
        steps: number of gradient steps.
        norm: ``linf`` or ``l2``.
        random_start: start from a point drawn uniformly from the ball. Draws: ``start_uniform01`` (B, C, H, W) in
            [0, 1) for ``linf``; ``start_normal`` (B, C, H, W) and ``start_radius01`` (B,) for ``l2``.
        targeted: descend towards the given labels instead of ascending away from them.
    """

    epsilon: float
    step: float
    steps: int
    norm: Norm = "linf"
    random_start: bool = False
    targeted: bool = False

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise UserError(f"norm {self.norm!r} is not known; use 'linf' or 'l2'.")
        if self.epsilon < 0 or self.step < 0 or self.steps < 0:
            raise UserError("epsilon, step and steps must not be negative.")

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        draws: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """See ``Attack``."""
        model, images, labels = prepared(model, images, labels, soft=True)
        adversarial = images
        if self.random_start:
            adversarial = (images + self._start(images, generator, seeds, draws or {})).clamp(0, 1)
        for _ in range(self.steps):
            gradient = loss_gradient(model, adversarial, labels)
            if self.targeted:
                gradient = -gradient
            if self.norm == "linf":
                moved = adversarial + self.step * gradient.sign()
                adversarial = torch.minimum(torch.maximum(moved, images - self.epsilon), images + self.epsilon)
            else:
                direction = gradient / _lengths(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
                change = adversarial + self.step * direction - images
                adversarial = images + change * _shrink(change, self.epsilon)
            adversarial = adversarial.clamp(0, 1)
        return adversarial

    def _start(
        self,
        images: Tensor,
        generator: torch.Generator | None,
        seeds: Sequence[int] | None,
        draws: Mapping[str, Tensor],
    ) -> Tensor:
        shape = tuple(images.shape)
        if self.norm == "linf":
            uniform = given(draws, "start_uniform01", images, shape)
            if uniform is None:
                uniform = draw(torch.rand, shape, images, generator, seeds)
            return self.epsilon * (2 * uniform - 1)
        normal = given(draws, "start_normal", images, shape)
        radius = given(draws, "start_radius01", images, shape[:1])
        if normal is None:
            normal = draw(torch.randn, shape, images, generator, seeds)
        if radius is None:
            # Other seeds than the direction's, so that radius and direction are independent.
            others = None if seeds is None else [((int(seed) + 1) * 2**32 - 1) % 2**64 for seed in seeds]
            radius = draw(torch.rand, shape[:1], images, generator, others)
        # The volume within radius r grows as r^d, so u^(1/d) makes the point uniform in the ball.
        share = radius ** (1 / math.prod(shape[1:]))
        return self.epsilon * share.view(-1, 1, 1, 1) * normal / _lengths(normal)


def fgsm(epsilon: float, *, norm: Norm = "linf", targeted: bool = False) -> Pgd:
    """The fast gradient sign method: one full step from the image itself."""
    return Pgd(epsilon=epsilon, step=epsilon, steps=1, norm=norm, targeted=targeted)


@dataclass(frozen=True, kw_only=True)
class PatchPgd:
    """Projected gradient ascent on one square patch, whose pixels may take any value in [0, 1].

    The patch starts from the image. Where it lies is drawn for each image from the cells of a grid of ``size``
    pixels, which for a vision transformer with that patch size means: exactly one of its tokens (Gu et al., arXiv
    2111.10659, attack patches aligned with the tokens).

    Attributes:
        size: side of the patch in pixels.
        step: change of each attacked pixel per step.
        steps: number of gradient steps.
        aligned: draw the position from the grid; otherwise from all positions where the patch fits.
        targeted: descend towards the given labels.
    """

    size: int
    step: float = 2 / 255
    steps: int = 40
    aligned: bool = True
    targeted: bool = False

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        draws: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """See ``Attack``. Draws: ``position01`` (B, 2) in [0, 1), vertical and horizontal."""
        model, images, labels = prepared(model, images, labels)
        mask = patch_mask(images, self.size, aligned=self.aligned, generator=generator, seeds=seeds, draws=draws)
        adversarial = images
        sign = -1 if self.targeted else 1
        for _ in range(self.steps):
            gradient = loss_gradient(model, adversarial, labels)
            adversarial = (adversarial + sign * self.step * gradient.sign() * mask).clamp(0, 1)
        return adversarial


def patch_mask(
    images: Tensor,
    size: int,
    *,
    aligned: bool = True,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | None = None,
    draws: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """One square of ones an image on zeros, ``(B, 1, H, W)``, of the type of ``images``.

    Args:
        images: ``(B, C, H, W)``.
        size: side of the square in pixels.
        aligned: the square is a cell of the grid of ``size`` pixels; otherwise it lies anywhere.
        generator: where the positions are drawn from.
        seeds: one seed an image instead.
        draws: ``position01`` (B, 2) in [0, 1) instead.
    """
    batch, _, height, width = images.shape
    if not 0 < size <= min(height, width):
        raise UserError(f"a patch of {size} pixels does not fit into images of {height}x{width}.")
    single = images.new_empty(0, dtype=torch.float32)  # in half precision a draw just below 1 would be 1
    position = given(draws or {}, "position01", single, (batch, 2))
    if position is None:
        position = draw(torch.rand, (batch, 2), single, generator, seeds)
    extent = torch.tensor([height, width], device=images.device)
    places = extent // size if aligned else extent - size + 1
    first = (position * places).long() * (size if aligned else 1)
    rows = torch.arange(height, device=images.device) - first[:, :1]
    columns = torch.arange(width, device=images.device) - first[:, 1:]
    inside = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None, :]
    return inside[:, None].to(images.dtype)


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """The standard ensemble of Croce and Hein through their own package: APGD-CE, APGD-T, FAB-T and Square.

    Needs the package ``pyautoattack`` (``pip install 'resight[attacks]'``).

    Attributes:
        epsilon: radius in pixel units.
        norm: ``linf``, ``l2`` or ``l1``.
        attacks: names of the package's attacks to run instead of the standard four, e.g. ``("apgd-ce",)``, as often
            and as long as in the ensemble.
    """

    epsilon: float
    norm: Literal["linf", "l2", "l1"] = "linf"
    attacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.norm not in _PACKAGE_NORMS or self.epsilon < 0:
            known = ", ".join(map(repr, _PACKAGE_NORMS))
            raise UserError(f"AutoAttack has the norms {known}, not {self.norm!r}, and an epsilon of at least 0.")
        for name in self.attacks:
            if name not in _CLASSES_NEEDED:
                known = ", ".join(_CLASSES_NEEDED)
                raise UserError(f"AutoAttack has no {name!r}.{nearest(name, _CLASSES_NEEDED)} It has {known}.")

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        draws: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """See ``Attack``; the generator gives one seed for the whole batch, and there are no named draws."""
        model, images, labels = prepared(model, images, labels)
        if draws:
            raise UserError("AutoAttack draws its random numbers itself; pass a generator instead of draws.")
        if not len(images):
            return images
        seed = int(draw(torch.rand, (len(images),), torch.zeros(1, dtype=torch.float64), generator, seeds)[0] * 2**31)
        try:
            package: Any = importlib.import_module("pyautoattack")
        except ImportError:
            raise UserError(
                "AutoAttack needs the package pyautoattack; install it with: pip install 'resight[attacks]'."
            ) from None
        devices = [images.device] if images.is_cuda else []
        # The package seeds torch's global generators, works in float32, and differentiates with respect to its input.
        with (
            torch.random.fork_rng(devices=devices),
            torch.inference_mode(False),
            torch.autocast(images.device.type, enabled=False),
            evaluating(model),
        ):
            clean, labels = images.clone().float(), labels.clone()
            classes = self._classes(model, clean, labels)
            adversary = package.AutoAttack(
                _Single(model),
                norm=_PACKAGE_NORMS[self.norm],
                eps=self.epsilon,
                seed=seed,
                device=images.device,
            )
            if self.attacks:  # the version "custom" would restart APGD five times, where the ensemble does it once
                adversary.attacks_to_run = list(self.attacks)
            for targeted in (adversary.apgd_targeted, adversary.fab):
                targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
            found = adversary.run_standard_evaluation(clean, labels, batch_size=len(images))
        adversarial = found[0] if isinstance(found, tuple) else found
        return adversarial.detach().clamp(0, 1).to(images.dtype)

    def _classes(self, model: nn.Module, images: Tensor, labels: Tensor) -> int:
        """How many classes the model has, enough for the losses of these attacks."""
        with torch.no_grad():
            logits = model(images[:1])
        _checked(labels, logits)
        classes = logits.shape[1]
        for name in self.attacks or STANDARD:
            if classes < _CLASSES_NEEDED[name]:
                raise UserError(
                    f"the model has {classes} classes and AutoAttack's {name} needs {_CLASSES_NEEDED[name]} for its "
                    "loss: attack with AutoAttack(attacks=('apgd-ce', 'fab-t', 'square')) or with Pgd."
                )
        return classes


#: The attacks of the standard ensemble, arXiv 2003.01690.
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
#: Fewest classes of each attack: the DLR loss (equation 6) has the third largest logit, its targeted form the fourth.
_CLASSES_NEEDED = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}

#: The settings under which printed numbers were measured, by the metric that they belong to.
PROTOCOLS: dict[str, Pgd] = {
    "fgsm_top1": fgsm(1 / 255),
    "pgd_top1": Pgd(epsilon=1 / 255, step=0.5 / 255, steps=5, random_start=True),
    "pgd_eps4_top1": Pgd(epsilon=4 / 255, step=8 / 3 / 255, steps=3, random_start=True),
}


def loss_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each image's cross-entropy with respect to that image, in the precision of ``images``.

    Labels are classes ``(B,)`` or probabilities ``(B, K)``. The loss is summed over the batch, so an image's gradient
    does not depend on what else is in the batch and does not underflow. Parameters get no gradients. Autocast is off,
    as in the released evaluations. The loss itself is computed in double precision: in single precision the gradient of
    a very confident prediction is rounding noise, and its sign would lead the attack anywhere.
    """
    # Callers may be in inference mode, whose tensors cannot take part in a gradient; copies made outside of it can.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(images.device.type, enabled=False),
        evaluating(model),
    ):
        leaf = images.detach().clone().requires_grad_(True)
        logits = model(leaf)
        loss = F.cross_entropy(logits.double(), _checked(labels.clone(), logits), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


def _checked(labels: Tensor, logits: Tensor) -> Tensor:
    """``labels`` as int64, which are classes of a model with these logits, or as probabilities of its classes."""
    if logits.ndim != 2:
        raise UserError(f"the model's output has shape {tuple(logits.shape)}; attacks need logits (B, K).")
    if labels.is_floating_point():
        if labels.shape != logits.shape:
            raise UserError(f"labels have shape {tuple(labels.shape)} and logits {tuple(logits.shape)}.")
        return labels.double()
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise UserError(
            f"labels lie in [{int(labels.min())}, {int(labels.max())}] and the model has {logits.shape[1]} classes; "
            "give the model and the labels of one data set."
        )
    return labels.long()


def prepared(
    model: nn.Module, images: Tensor, labels: Tensor, *, soft: bool = False
) -> tuple[nn.Module, Tensor, Tensor]:
    """The model behind a check of what it returns, the images without gradients, and the labels as int64.

    Args:
        model, images, labels: see ``Attack``.
        soft: whether labels may be probabilities ``(B, K)``, which stay floating-point numbers.

    Raises:
        UserError: the images are not ``(B, C, H, W)`` in [0, 1], the labels not as said, or the model was made in
            inference mode, so that nothing can be differentiated through it.
    """
    probabilities = soft and labels.ndim == 2 and len(labels) == len(images) and labels.is_floating_point()
    if images.ndim != 4:
        raise UserError(f"images have shape {tuple(images.shape)}; attacks need a batch (B, C, H, W).")
    hard = labels.shape == images.shape[:1] and not labels.is_floating_point() and labels.dtype != torch.bool
    if not hard and not probabilities:
        raise UserError(
            f"labels have shape {tuple(labels.shape)} and type {labels.dtype}; {len(images)} class indices are needed."
        )
    check_range(images)
    if not isinstance(model, nn.Module):
        raise UserError(f"the model is a {type(model).__name__}; attacks need a torch.nn.Module.")
    if any(value.is_inference() for value in model.parameters()):
        raise UserError(
            "the model was made inside torch.inference_mode, where gradients are impossible: make it outside."
        )
    kind = labels.dtype if probabilities else torch.int64
    return _Logits(model), images.detach(), labels.detach().to(device=images.device, dtype=kind)


class _Logits(nn.Module):
    """A model that takes images of any floating-point type, and whose output is known to be logits ``(B, K)``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.precision = next((value.dtype for value in model.parameters() if value.is_floating_point()), None)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        logits = logits_of(self.model(images if self.precision is None else images.to(self.precision)))
        if logits.ndim != 2:
            raise UserError(f"the model's output has shape {tuple(logits.shape)}; attacks need logits (B, K).")
        return logits


class _Single(nn.Module):
    """A model with logits in float32, in which AutoAttack's package computes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)``, float32."""
        return self.model(images).float()


def _lengths(batch: Tensor) -> Tensor:
    """L2 norm of each image, ``(B, 1, 1, 1)``."""
    return batch.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _shrink(change: Tensor, epsilon: float) -> Tensor:
    """Factors ``(B, 1, 1, 1)`` of at most 1 that bring each change to a length of at most ``epsilon``."""
    tiny = torch.finfo(change.dtype).tiny
    return (epsilon / _lengths(change).clamp_min(tiny)).clamp(max=1)
