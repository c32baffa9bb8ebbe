"""How MixMIM's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from common import bench, figures
from common.bench.inference import findings as findings_on_features
from common.measurement import Finding, Picture, Result
from common.run import Run
from common.training.preparation import Preparation
from papers.mixmim.experiment import classifier, finetuning, mask_tokens, mixed
from papers.mixmim.method import mask_of, patches, pictures, unmixed
from papers.mixmim.model import MixMIMPretraining, WindowAttention
from papers.mixmim.training import hooks
from papers.simclr.experiment import probe

RECIPE = Path(__file__).with_name("recipe.toml")
SCRATCH = "mixmim_mini"
MIXED, MASK_TOKENS, FINETUNED = (f"{SCRATCH}.{name}" for name in ("mixed", "mask_tokens", "finetuned"))


def contenders() -> list[bench.Contender]:
    """The network without pre-training, fine-tuned after it, and as pre-trained on mixtures and with mask tokens."""
    pretrained = bench.Contender(MIXED, mixed, hooks, recipe=RECIPE)
    return [
        bench.Contender(SCRATCH, classifier),
        bench.Contender(FINETUNED, classifier, finetuning, teacher=pretrained),
        pretrained,
        bench.Contender(MASK_TOKENS, mask_tokens, hooks, recipe=RECIPE),
    ]


def pretraining(run: Run) -> Iterator[Result]:
    """Train with labels from random weights and from pre-trained ones, equally long; show what is reconstructed."""
    scores = bench.scores(run, contenders()[:2], bench.accuracy)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{FINETUNED} > {SCRATCH}: top1")
    pretrained = bench.trained(run, contenders()[2], run.seeds()[0])
    assert isinstance(pretrained, MixMIMPretraining)
    yield _reconstructions(pretrained, run)


def mixing(run: Run) -> Iterator[Result]:
    """Pre-train on mixtures and with mask tokens; a linear probe reads the features of whole images."""
    scores = bench.scores(run, contenders()[2:], probe)
    yield from bench.measurements(scores, scores.metrics)
    yield from findings_on_features(scores, *(f"{MIXED} > {MASK_TOKENS}: {metric}" for metric in scores.metrics))


def separation(run: Run) -> Iterator[Result]:
    """A small network of random weights in float64: what a mixture's features depend on, with and without the mask."""
    torch.manual_seed(run.settings.seed)
    model = mixed().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    images = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    mask = mask_of(torch.rand(model.places), 0.5)
    own, other = influence(model, images, mask)
    yield Finding.exactly(
        name="apart",
        statement="No feature of an image's own places depends on the other image.",
        holds=other == 0 and own > 0,
        evidence=f"Largest gradient by the other image {other:.1e} (bound 0, exactly), by the image itself {own:.1e}.",
        value=other,
    )
    attentions = [module for module in model.modules() if isinstance(module, WindowAttention)]
    unmasked = [attention.register_forward_pre_hook(lambda module, args: args[:1]) for attention in attentions]
    _, mingled = influence(model, images, mask)
    for handle in unmasked:
        handle.remove()
    yield Finding.exactly(
        name="mask_needed",
        statement="Without the mask of attention, features depend on the other image.",
        holds=mingled > 0,
        evidence=f"Largest gradient by the other image {mingled:.1e}.",
        value=mingled,
    )
    count = scored(model, images, mask)
    places = mask.numel()
    yield Finding.exactly(
        name="both_images",
        statement="The loss has the hidden patches of both images, each once, and no visible one.",
        holds=count == (places, 0),
        evidence=f"Scored of an image and its mirror: {count[0]} hidden patches of {places}, {count[1]} visible ones.",
        value=float(count[0]),
    )


def influence(model: MixMIMPretraining, images: Tensor, mask: Tensor) -> tuple[float, float]:
    """The largest gradient of the first mixture's own features by the first image and by the one that it is mixed with.

    Args:
        model: in eval mode.
        images: (2, C, H, W).
        mask: bool (rows, columns) of places that the second image fills.
    """
    images = images.clone().requires_grad_()
    own = model.encode(images, mask)[0, ~mask.flatten()]
    weights = torch.linspace(1, 2, own.numel(), dtype=own.dtype).view_as(own)  # a plain sum of normed features is 0
    (gradient,) = torch.autograd.grad((own * weights).sum(), images)
    return float(gradient[0].abs().max()), float(gradient[1].abs().max())


def scored(model: MixMIMPretraining, images: Tensor, mask: Tensor) -> tuple[int, int]:
    """How many hidden and how many visible patches of an image and its mirror have a gradient of the loss.

    Args:
        model: in eval mode.
        images: (2, C, H, W).
        mask: bool (rows, columns).
    """
    model.mask = mask
    latent = model.encode(images, mask)
    reconstructed = model.decode(latent, mask).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.loss(images, reconstructed), reconstructed)
    model.mask = None
    reached = gradient.abs().amax(dim=2) > 0  # (4, P): of both mixtures the image, then its mirror
    hidden = mask.flatten()
    first, second = reached[0], reached[2]
    return int(first[hidden].sum() + second[~hidden].sum()), int(first[~hidden].sum() + second[hidden].sum())


@torch.inference_mode()
def _reconstructions(model: MixMIMPretraining, run: Run) -> Picture:
    """Images, their mixtures and what is reconstructed of them where they are hidden."""
    recipe = contenders()[2].settings(quick=run.settings.quick)
    device = next(model.parameters()).device
    shown = bench.test_set(run.settings.quick).clean[0, :6].to(device)
    images = Preparation(recipe, device).normalise(shown)
    noise = torch.rand(model.places, generator=torch.Generator().manual_seed(0))
    mask = mask_of(noise, float(recipe.method["mask_ratio"])).to(device)
    hidden = mask.flatten()[:, None]
    whole = patches(images, model.stride)
    mixture = torch.where(hidden, whole.flip(0), whole)
    guessed = unmixed(model.decode(model.encode(images, mask), mask), mask)
    rows = {"image": whole, "mixture": mixture, "hidden part\nreconstructed": guessed}
    shown_rows = {label: pictures(values, model.stride)[:, 0].cpu() for label, values in rows.items()}
    svg = figures.pictures("reconstructions", shown_rows, width=6.5, height=3.6)
    return Picture(
        name="reconstructions",
        caption=(
            "Test images, each mixed with its mirror in the row (the first with the last), and the reconstruction of "
            "each patch from the mixture in which it is hidden."
        ),
        svg=svg,
    )
