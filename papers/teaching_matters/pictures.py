"""Figures as published: attention distance over depth, maps of offset heads, tasks by block, CKA between networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from common import bench, figures
from common.measurement import Picture
from papers.teaching_matters.experiment import BLOCKS


def distances(scores: bench.Scores, names: Sequence[str]) -> Picture:
    """Mean attention distance by block, a line a network and a point a head and seed."""
    heads = sorted({name.rpartition(".")[2] for name in scores.metrics if name.startswith("head_offset/")})
    with figures.figure("attention_distance", width=5.5, height=3.4) as drawn:
        axis = drawn.subplots()
        for place, name in enumerate(names):
            colour, shift = figures.COLOURS[place], 0.08 * (place - 1)
            for block in BLOCKS:
                of_heads = [scores.per_seed(name, f"relative_attention_distance/{block}.{head}") for head in heads]
                values = [value for head in of_heads for value in head]
                axis.plot([block + shift] * len(values), values, "o", color=colour, markersize=3, alpha=0.5)
            means = [scores.mean(name, f"relative_attention_distance/{block}") for block in BLOCKS]
            axis.plot([block + shift for block in BLOCKS], means, color=colour, linewidth=1.5, label=name)
        axis.set_xticks(BLOCKS)
        axis.set_xlabel("block")
        axis.set_ylabel("attention distance, % of the side")
        axis.grid(axis="y")
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        svg = figures.to_svg(drawn)
    return Picture(
        name="attention_distance",
        caption=f"Mean distance of what patches attend to; a point is a head of one of {len(scores.seeds)} seeds.",
        svg=svg,
    )


def aligned_maps(maps: Mapping[str, Tensor]) -> Picture:
    """Attention by displacement of every head, (L, h, 2 g - 1, 2 g - 1) a network: a row a block."""
    return heads_picture(
        "offset_heads",
        maps,
        "Attention by displacement from the patch that asks, in the middle; a row is a block, a column a head.",
    )


def heads_picture(name: str, maps: Mapping[str, Tensor], caption: str) -> Picture:
    """Maps (L, h, rows, columns) side by side, a panel a network; each head has a scale of its own."""
    blocks, heads = next(iter(maps.values())).shape[:2]
    with figures.figure(name, width=0.6 * heads * len(maps) + 0.5, height=0.6 * blocks + 0.5) as drawn:
        panels = drawn.subfigures(1, len(maps), squeeze=False)[0]
        for panel, (title, values) in zip(panels, maps.items(), strict=True):
            panel.suptitle(title, fontsize=8, color=figures.INK)
            axes = panel.subplots(blocks, heads, squeeze=False)
            for line, row in zip(axes, values.cpu(), strict=True):
                for axis, one in zip(line, row, strict=True):
                    axis.imshow(one.numpy(), cmap="viridis", vmin=0)
                    axis.set_axis_off()
        svg = figures.to_svg(drawn)
    return Picture(name=name, caption=caption, svg=svg)


def tasks(by_block: bench.Scores, names: Sequence[str]) -> Picture:
    """Tasks by block, a panel a task and a line a network; contenders are called ``NAME.block_BLOCK``."""
    labels = {
        "knn_top1": "k-NN, %",
        "keypoint_pck": "keypoints found, %",
        "attention_iou": "attention on the object, IoU in %",
    }
    with figures.figure("best_block", width=8.0, height=3.0) as drawn:
        axes = drawn.subplots(1, len(labels))
        for axis, (metric, label) in zip(axes, labels.items(), strict=True):
            for place, name in enumerate(names):
                values = [by_block.mean(f"{name}.block_{block}", metric) for block in BLOCKS]
                axis.plot(BLOCKS, values, "o-", color=figures.COLOURS[place], markersize=4, linewidth=1.5, label=name)
            axis.set_xticks(BLOCKS)
            axis.set_xlabel("block")
            axis.set_ylabel(label)
            axis.grid(axis="y")
        handles, texts = axes[0].get_legend_handles_labels()
        drawn.legend(handles, texts, loc="outside upper center", ncols=len(names))
        svg = figures.to_svg(drawn)
    return Picture(
        name="best_block",
        caption=f"What each block is good for without any training; mean over {len(by_block.seeds)} seeds.",
        svg=svg,
    )


def similarities(values: Tensor, names: Sequence[str]) -> Picture:
    """CKA of blocks (names x blocks, names x blocks), the blocks of a network beside each other."""
    with figures.figure("cka", width=4.8, height=4.2) as drawn:
        axis = drawn.subplots()
        shown = axis.imshow(values.cpu().numpy(), vmin=0, vmax=1, cmap="viridis")
        each = len(values) // len(names)
        middles = [each * place + (each - 1) / 2 for place in range(len(names))]
        axis.set_xticks(middles, [name.replace(".", "\n") for name in names], fontsize=7)
        axis.set_yticks(middles, [name.replace(".", "\n") for name in names], fontsize=7)
        for place in range(1, len(names)):
            axis.axhline(each * place - 0.5, color="white", linewidth=1)
            axis.axvline(each * place - 0.5, color="white", linewidth=1)
        drawn.colorbar(shown, ax=axis, label="CKA")
        svg = figures.to_svg(drawn)
    return Picture(
        name="cka", caption="CKA of patch tokens between all blocks of all networks, mean over seeds.", svg=svg
    )
