"""Token fluctuation: how far the mixing ratio of a network's output is from that of its input, by depth and step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common import bench, figures
from common.measurement import Picture
from common.run import Run
from common.training.hooks import Batch, Hook, Training
from common.training.loop import train
from common.training.mixing import Mixing
from common.training.optimisation import make_mixing
from common.training.options import Options
from common.training.preparation import Preparation
from common.training.randomness import preserved_global_state, seed_global
from common.training.recipe import Recipe
from papers.tl_align.method import TokenBoxes, token_labels
from papers.tl_align.training import TLAlign

GAP = "mixing_ratio_gap"
#: Images that are mixed with each other with one box; one of a pair is measured.
MIXED = 20
#: Subsets of the test images that are mixed.
CELLS = 2


def by_depth(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """How far the class token's share of the partner is from the partner's area, after each block.

    Returns:
        ``top1``, and ``mixing_ratio_gap/BLOCK`` from block 1 on, in [0, 1]; each (CELLS, pairs).
    """
    always = recipe.with_changes("cutmix=1.0", "mixup=0.0", "mix_probability=1.0", "mix_switch_probability=1.0")
    tests, device = bench.test_set(quick), next(model.parameters()).device
    mixup = make_mixing(always, lambda **arguments: TokenBoxes(grid=(7, 7), **arguments))
    assert mixup is not None
    prepare, mixing, labels = Preparation(always, device), Mixing(mixup), token_labels(model)
    found: list[Tensor] = []
    with preserved_global_state(), torch.inference_mode():
        seed_global(0, "token fluctuation")
        for images, classes in zip(
            tests.clean[:CELLS].flatten(0, 1).split(MIXED), tests.labels[:CELLS].flatten().split(MIXED), strict=True
        ):
            mixed_images, _, mixed = mixing(prepare.normalise(images.to(device)), classes.to(device))
            model(mixed_images)
            shares = torch.stack([labels.pooled(tokens) for tokens in labels.by_block(mixed.mask)])
            found.append((shares - mixed.share).abs()[1:, : len(images) // 2].cpu())
    labels.close()
    by_block = torch.cat(found, dim=1).unflatten(1, (CELLS, -1))
    measured: dict[str, np.ndarray | float] = {
        f"{GAP}/{number}": block.double().numpy() for number, block in enumerate(by_block, start=1)
    }
    classifier = bench.normalised(model, recipe)
    return {"top1": bench.correct(classifier, tests.clean[:CELLS], tests.labels[:CELLS]), **measured}


class _Gaps(Hook):
    """Keeps the gap of each batch that is mixed, in points, mean over its images."""

    def __init__(self, alignment: TLAlign) -> None:
        self.alignment = alignment
        self.values: list[float] = []

    def on_output(self, run: Training, batch: Batch) -> None:
        """Compare the share that TL-Align has just taken with the area."""
        mixed, aligned = batch.mixed, self.alignment.share
        if mixed is not None and aligned is not None and float(mixed.mask.max()) > 0:
            self.values.append(100 * float((aligned - mixed.share).abs().mean()))


def over_training(run: Run, contender: bench.Contender) -> list[float]:
    """The gap in every step of a training with TL-Align, in points; a training of its own."""
    recipe, seed = contender.settings(quick=run.settings.quick, epochs=run.settings.epochs), run.settings.seed
    torch.manual_seed(seed)
    model, (alignment,) = contender.build(), contender.hooks(recipe)
    assert isinstance(alignment, TLAlign)
    hooks = (alignment, kept := _Gaps(alignment))
    train(model, recipe, contender.data(), seed=seed, hooks=hooks, options=Options(device=run.settings.device))
    return kept.values


def picture(scores: bench.Scores, steps: list[float]) -> Picture:
    """The gap by depth, for every contender of ``scores``, and by step of a training."""
    blocks = [int(name.rpartition("/")[2]) for name in scores.cells(GAP)]
    with figures.figure("fluctuation", width=7.0, height=2.8) as drawn:
        left, right = drawn.subplots(1, 2, sharey=True)
        for contender in scores.contenders:
            left.plot(blocks, [scores.mean(contender, f"{GAP}/{block}") for block in blocks], "o-", label=contender)
        left.set_xticks(blocks)
        left.set_xlabel("block")
        left.set_ylabel("gap of the mixing ratio, points")
        left.legend()
        window = max(1, len(steps) // 40)
        smooth = np.convolve(steps, np.ones(window) / window, mode="valid") if steps else np.array([])
        right.plot(np.arange(len(smooth)) + window, smooth, "-")
        right.set_xlabel("batch that was mixed")
        for axes in (left, right):
            axes.grid(axis="y")
        svg = figures.to_svg(drawn)
    return Picture(
        name="fluctuation",
        caption=(
            f"How far the class token's mixing ratio is from the area: by depth on test images (mean over seeds), and "
            f"over a training with TL-Align (one seed, mean over {window} batches)."
        ),
        svg=svg,
    )
