"""The publication's figures of what the embedded claims measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from common import bench, figures
from common.attention import attention_masks
from common.bench.cue_conflict import test_conflicts
from common.data.fashion_mnist import CLASSES
from common.measurement import Measurement, Picture
from common.robustness.occlusion_curves import SHARES, Condition
from common.robustness.report import occlusion_panels
from common.statistics import Estimate
from common.training.recipe import Recipe
from papers.intriguing_vit import objects
from papers.intriguing_vit.experiment import SHUFFLE_GRIDS, garment_tiles, three_channels


def line(scores: bench.Scores, name: str, columns: Sequence[str], x: Sequence[float]) -> figures.Line:
    """The accuracy of a model over conditions."""
    measured = {m.metric: m for m in bench.measurements(scores, columns) if m.model == name}
    return x, [Estimate(m.value, *(m.interval or (-torch.inf, torch.inf))) for m in map(measured.get, columns) if m]


def occlusion_picture(scores: bench.Scores) -> Picture:
    """Accuracy against information loss, a panel a kind of drop, as the publication's figures."""
    panels = {
        title: figures.Panel({name: line(scores, name, columns, x) for name in scores.contenders}, "share lost")
        for title, (columns, x) in loss_columns(SHARES).items()
    }
    return Picture(
        name="occlusion",
        caption=(
            "Top-1 accuracy against the share that is lost: of all patches (random), of the garment's pixels in the "
            "patches with most of it (salient), and in all other patches, background included (non-salient). Mean over "
            f"seeds{_bands(scores)}."
        ),
        svg=figures.accuracy_panels("occlusion", panels),
    )


def loss_columns(shares: Sequence[float]) -> dict[str, tuple[list[str], list[float]]]:
    """Kind of drop to the metrics of its curve and the share that each loses."""
    panels = {}
    for kind in ("random", "salient", "non-salient"):
        lost = {share: 1 - share if kind == "non-salient" else share for share in shares}
        ordered = sorted(shares, key=lambda share: lost[share])
        columns = [f"{kind.replace('-', '')}_drop_top1/{share:g}" for share in ordered]
        panels[kind] = ["top1", *columns], [0.0, *(lost[share] for share in ordered)]
    return panels


def shuffling_picture(scores: bench.Scores) -> Picture:
    """Accuracy against the number of tiles that are shuffled."""
    columns = ["top1", *(f"shuffle_top1/{grid}x{grid}" for grid in SHUFFLE_GRIDS)]
    tiles = [1, *(grid**2 for grid in SHUFFLE_GRIDS)]
    lines = {name: line(scores, name, columns, tiles) for name in scores.contenders}
    return Picture(
        name="shuffling",
        caption=(
            "Top-1 accuracy against the number of tiles that are shuffled; 49 tiles are the ViT's patches. Mean over "
            f"seeds{_bands(scores)}."
        ),
        svg=figures.accuracy_panels(
            "shuffling", {"shuffled tiles": figures.Panel(lines, "number of tiles", logarithmic=True)}
        ),
    )


def shares_picture(scores: bench.Scores) -> Picture:
    """Jaccard index against the share of attention that is kept."""
    names = [f"jaccard/{share:g}" for share in objects.SHARES]
    lines = {one: (objects.SHARES, [scores.mean(one, name) for name in names]) for one in scores.contenders}
    whole = scores.mean(scores.contenders[0], "jaccard/whole")
    return Picture(
        name="shares",
        caption=(
            "Jaccard index of the best head against the share of attention that is kept, mean over seeds. The level "
            "line is the whole canvas."
        ),
        svg=figures.curves(
            "shares",
            {**lines, "whole canvas": (objects.SHARES, [whole] * len(names))},
            xlabel="share of the attention that is kept",
            ylabel="Jaccard index, %",
        ),
    )


def _bands(scores: bench.Scores) -> str:
    return ", with 95 % intervals" if len(scores.seeds) > 1 else "; one seed, no interval"


def examples_picture(images: Tensor, conditions: Mapping[str, Condition], shown: int = 3) -> Picture:
    """The first of images (N, 3, H, W) under some of the conditions."""
    chosen = {
        "whole": "top1",
        "random 0.5": "random_drop_top1/0.5",
        "salient 0.5": "salient_drop_top1/0.5",
        "non-salient 0.5": "nonsalient_drop_top1/0.5",
        **{f"shuffled {grid}x{grid}": f"shuffle_top1/{grid}x{grid}" for grid in SHUFFLE_GRIDS},
    }
    first = images[:shown]
    columns = {
        title: conditions[name](first.float() / 255, range(shown), garment_tiles(first))
        for title, name in chosen.items()
    }
    return Picture(
        name="examples",
        caption=f"The first {shown} test images and what is done to them; numbers are the share lost, or the grid.",
        svg=image_grid("examples", columns, shown),
    )


def image_grid(name: str, columns: Mapping[str, Tensor], shown: int) -> str:
    """Pictures (shown, 3, H, W) in [0, 1], or masks and maps (shown, H, W), a column each, as SVG."""
    with figures.figure(name, width=1.0 * len(columns), height=1.05 * shown + 0.3) as drawn:
        axes = drawn.subplots(shown, len(columns), squeeze=False)
        for column, (title, pictures) in enumerate(columns.items()):
            axes[0][column].set_title(title, fontsize=7)
            for row in range(shown):
                picture = pictures[row].to(torch.float32)
                axis = axes[row][column]
                if picture.ndim == 3:
                    axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
                else:
                    axis.imshow(picture.numpy(), cmap="viridis", vmin=0, interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
        return figures.to_svg(drawn)


def conflict_picture(quick: bool, shown: int = 4) -> Picture:
    """The first test images as cue conflicts, and either cue alone."""
    tests = bench.test_set(quick)
    images, made = tests.clean[0, :, 0], test_conflicts(quick)[0]
    columns = {
        title: three_channels(pictures[:shown]).float() / 255
        for title, pictures in (
            ("whole", images),
            ("cue conflict", made.conflict),
            ("shape alone", made.shape),
            ("texture alone", made.texture),
        )
    }
    pairs = [f"{CLASSES[int(made.labels[i])]} / {CLASSES[int(made.texture_labels[i])]}" for i in range(shown)]
    return Picture(
        name="cue_conflicts",
        caption=f"The first {shown} test images; shape / texture, from above: {', '.join(pairs)}.",
        svg=image_grid("cue_conflicts", columns, shown),
    )


def objects_picture(model: nn.Module, recipe: Recipe, quick: bool, shown: int = 4) -> Picture:
    """The first canvases, their garments, and the patches that hold most of each head's attention."""
    composition = objects.test_canvases(quick)[0]
    images, masks = objects.enlarged(composition, bench.per_channel(recipe.mean), bench.per_channel(recipe.std))
    model = objects.finer(model)
    share = objects.best_share(model, recipe, quick)
    device = next(model.parameters()).device
    kept = attention_masks(model, images[:shown].to(device), share=share).cpu()
    columns = {
        "canvas": three_channels(composition.images[:shown]).float() / 255,
        "garment": masks[:shown, 0],
        **{f"head {head + 1}": kept[:, head] for head in range(kept.shape[1])},
    }
    return Picture(
        name="objects",
        caption=(
            f"The first {shown} test canvases, the garment's mask, and the patches that hold {100 * share:.0f} % of "
            "each head's attention (first seed)."
        ),
        svg=image_grid("objects", columns, shown),
    )


def measured_picture(name: str, measured: Sequence[Measurement]) -> Picture:
    """The curves of one network on ImageNet, from what ``evaluate`` measured."""
    return Picture(
        name="imagenet_occlusion",
        caption=(
            "Top-1 accuracy against the share of patches, or of their salience, that is lost, and against the number "
            "of shuffled tiles; 95 % intervals."
        ),
        svg=figures.accuracy_panels("imagenet_occlusion", occlusion_panels({name: measured})),
    )
