"""What the embedded claims yield: measurements, paired findings, and the publication's figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

import pandas as pd
import torch
from torch import Tensor, nn

from common import figures
from common.data.composition import Composition
from common.data.fashion_mnist import CLASSES
from common.measurement import Measurement, Picture, Result
from common.robustness import embedded
from common.robustness.embedded.robustness import per_channel
from common.robustness.occlusion_curves import Condition
from common.robustness.report import occlusion_panels
from common.segmentation import attention_masks
from common.statistics import mean_interval
from common.training.recipe import Recipe
from common.verdicts import mean_measurement
from papers.intriguing_vit.cue_conflict import conflicts
from papers.intriguing_vit.experiment import (
    DATASET,
    GRIDS,
    PROTOCOL,
    RESNET,
    SHARES,
    VIT,
    garment_tiles,
    three_channels,
)
from papers.intriguing_vit.objects import enlarged, finer


def measurements(table: pd.DataFrame, metrics: Sequence[str], count: int) -> Iterator[Measurement]:
    """Mean over seeds of each metric and model, with what it is the mean of."""
    for name in table.index.unique("model"):
        scores = table.loc[name]
        for metric in metrics:
            cells: dict[str, object] = {
                str(column): float(scores[column].mean()) for column in table if str(column).startswith(f"{metric}/")
            }
            yield mean_measurement(
                list(scores[metric]),
                model=str(name),
                dataset=DATASET,
                metric=metric,
                unit="%",
                weights="trained",
                n=count,
                protocol=PROTOCOL,
                detail=cells,
            )


def more(table: pd.DataFrame, metrics: Mapping[str, str]) -> Iterator[Result]:
    """One finding a metric: is the ViT's higher than the ResNet's? ``metrics`` gives what it is, in words."""
    for metric, words in metrics.items():
        estimate = embedded.differences(table, RESNET, metric)[VIT]
        yield embedded.difference_finding(f"{VIT} {words} than {RESNET}.", estimate, len(table.loc[VIT]))


def line(table: pd.DataFrame, name: str, columns: Sequence[str], x: Sequence[float]) -> figures.Line:
    """The accuracy of a model over conditions."""
    return x, [mean_interval(list(table.loc[name][column])) for column in columns]


def occlusion_picture(table: pd.DataFrame) -> Picture:
    """Accuracy against information loss, a panel a kind of drop, as the publication's figures."""
    panels = {
        title: figures.Panel(
            {str(name): line(table, str(name), columns, x) for name in table.index.unique("model")}, "share lost"
        )
        for title, (columns, x) in loss_columns(SHARES).items()
    }
    return Picture(
        name="occlusion",
        caption=(
            "Top-1 accuracy against the share that is lost: of all patches (random), of the garment's pixels in the "
            "patches with most of it (salient), and in all other patches, background and clutter included "
            f"(non-salient). Mean over seeds{_bands(table)}."
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


def shuffling_picture(table: pd.DataFrame) -> Picture:
    """Accuracy against the number of tiles that are shuffled."""
    columns = ["top1", *(f"shuffle_top1/{grid}x{grid}" for grid in GRIDS)]
    lines = {
        str(name): line(table, str(name), columns, [1, *(grid**2 for grid in GRIDS)])
        for name in table.index.unique("model")
    }
    return Picture(
        name="shuffling",
        caption=(
            "Top-1 accuracy against the number of tiles that are shuffled; 49 tiles are the ViT's patches. Mean over "
            f"seeds{_bands(table)}."
        ),
        svg=figures.accuracy_panels(
            "shuffling", {"shuffled tiles": figures.Panel(lines, "number of tiles", logarithmic=True)}
        ),
    )


def _bands(table: pd.DataFrame) -> str:
    return ", with 95 % intervals" if table.index.get_level_values("seed").nunique() > 1 else "; one seed, no interval"


def examples_picture(composition: Composition, conditions: Mapping[str, Condition], shown: int = 3) -> Picture:
    """The first canvases under some of the conditions."""
    chosen = {
        "whole": "top1",
        "random 0.5": "random_drop_top1/0.5",
        "salient 0.5": "salient_drop_top1/0.5",
        "non-salient 0.5": "nonsalient_drop_top1/0.5",
        **{f"shuffled {grid}x{grid}": f"shuffle_top1/{grid}x{grid}" for grid in GRIDS},
    }
    images = three_channels(composition.images[:shown]).float() / 255
    saliency = garment_tiles(composition)[:shown]
    columns = {title: conditions[name](images, range(shown), saliency) for title, name in chosen.items()}
    return Picture(
        name="examples",
        caption=f"The first {shown} test canvases and what is done to them; numbers are the share lost, or the grid.",
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


def conflict_picture(composition: Composition, shown: int = 4) -> Picture:
    """The first canvases as cue conflicts, and either cue alone."""
    first = first_of(composition, 100)  # the partners, whose texture it is, are among these
    made = conflicts(first)
    columns = {
        "whole": three_channels(first.images).float() / 255,
        **{
            title: three_channels(made[name]).float() / 255
            for title, name in (("cue conflict", "conflict"), ("shape alone", "shape"), ("texture alone", "texture"))
        },
    }
    pairs = [f"{CLASSES[int(made['labels'][i])]} / {CLASSES[int(made['texture_labels'][i])]}" for i in range(shown)]
    return Picture(
        name="cue_conflicts",
        caption=f"The first {shown} test canvases; shape / texture, from above: {', '.join(pairs)}.",
        svg=image_grid("cue_conflicts", columns, shown),
    )


def objects_picture(
    model: nn.Module, recipe: Recipe, composition: Composition, share: float, shown: int = 4
) -> Picture:
    """The first canvases, their garments, and the patches that hold ``share`` of each head's attention."""
    images, masks = enlarged(first_of(composition, shown), per_channel(recipe.mean), per_channel(recipe.std))
    device = next(model.parameters()).device
    kept = attention_masks(finer(model), images.to(device), share=share).cpu()
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


def first_of(composition: Composition, count: int) -> Composition:
    """The first canvases."""
    return Composition(*(getattr(composition, field.name)[:count] for field in fields(Composition)))
