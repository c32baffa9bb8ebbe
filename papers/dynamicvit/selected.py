"""Pictures of selection: the patches that are kept, step by step, and accuracy over the keep rate."""

from __future__ import annotations

from typing import Any

import torch

from common import bench, figures
from common.bench import hosts
from common.measurement import Picture
from common.run import Run
from papers.dynamicvit.mini import RATES

#: Which test images are shown.
SUBSET, SHOWN = 0, tuple(range(8))


@torch.no_grad()
def picture(run: Run, contender: bench.Contender) -> Picture:
    """Test images, and of each the patches that a trained network still has after each step."""
    model: Any = bench.trained(run, contender, run.seeds()[0])
    device = next(model.parameters()).device
    recipe = contender.settings(quick=run.settings.quick)
    shown = bench.test_set(run.settings.quick).clean[SUBSET, list(SHOWN)].to(device)
    mean, std = (torch.tensor(bench.per_channel(each)).view(-1, 1, 1).to(device) for each in (recipe.mean, recipe.std))
    decisions = model.forward_sparse((shown / 255 - mean) / std).decisions
    side = hosts.SIDE // hosts.PATCH
    rows = [torch.ones(len(shown), side**2, device=device), *decisions]
    with figures.figure("kept", width=0.95 * len(SHOWN) + 0.8, height=0.95 * len(rows)) as drawn:
        axes = drawn.subplots(len(rows), len(SHOWN), squeeze=False)
        for step, (line, kept) in enumerate(zip(axes, rows, strict=True)):
            masks = kept.view(-1, side, side).repeat_interleave(hosts.PATCH, 1).repeat_interleave(hosts.PATCH, 2)
            for axis, image, mask in zip(line, shown[:, 0], masks, strict=True):
                # A dropped patch is grey, between the black ground and the garment.
                axis.imshow((image * mask + 100 * (1 - mask)).cpu().numpy(), cmap="gray", vmin=0, vmax=255)
                axis.set_xticks([])
                axis.set_yticks([])
            line[0].set_ylabel("image" if step == 0 else f"step {step}")
        svg = figures.to_svg(drawn)
    counts = " and ".join(f"{int(decision[0].sum())}" for decision in decisions)
    return Picture(
        name="kept",
        caption=f"Test images, and which {counts} of {side**2} patches the network keeps; dropped ones are grey.",
        svg=svg,
    )


def by_rate(scores: bench.Scores) -> Picture:
    """Accuracy of each contender over the keep rate of inference."""
    with figures.figure("by_rate", width=4.6, height=3.0) as drawn:
        axis = drawn.subplots()
        for contender in scores.contenders:
            values = [scores.mean(contender, f"top1/keep_{rate}") for rate in RATES]
            axis.plot(RATES, values, "o-", label=contender, markersize=4, linewidth=1.5)
        axis.set_xlabel("keep rate of the first step")
        axis.set_ylabel("top-1 accuracy, %")
        axis.grid()
        axis.legend(fontsize="x-small")
        svg = figures.to_svg(drawn)
    return Picture(name="by_rate", caption="Accuracy over the keep rate of inference; training is at 0.7.", svg=svg)
