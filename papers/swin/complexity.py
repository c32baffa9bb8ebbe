"""What windows cost over the area of an image, beside global attention (section 3.2, equations 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter, process_time

import numpy as np
import timm
import torch
from scipy import stats
from timm.models.swin_transformer import SwinTransformer, WindowAttention, window_partition, window_reverse
from torch import Tensor, nn

from common import figures
from common.measurement import Finding, Picture, Result
from common.profiling import flops
from common.statistics import Estimate, mean_interval, paired_interval

#: Width, heads and window of Swin-T's first stage.
CHANNELS, HEADS, WINDOW = 96, 3, 7
WINDOWS, GLOBAL = "windows", "global attention"


class Attention(nn.Module):
    """Attention within windows: tokens (B, H, W, C), H and W multiples of ``window``, to the same."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = (window, window)
        self.attn = WindowAttention(CHANNELS, num_heads=HEADS, window_size=window)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend within each window."""
        inside = self.attn(window_partition(tokens, self.window).flatten(1, 2))
        return window_reverse(inside.unflatten(1, self.window), self.window, tokens.shape[1], tokens.shape[2])


def exponent(areas: Sequence[float], costs: Sequence[float]) -> Estimate:
    """The power of the area by which a cost grows: slope in log-log with its 95 % interval from the residuals."""
    fit = stats.linregress(np.log(areas), np.log(costs))
    half = float(stats.t.ppf(0.975, len(areas) - 2) * fit.stderr)
    return Estimate(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)


def stages(size: int, everywhere: bool) -> SwinTransformer:
    """Swin-T for images of ``size`` pixels, with windows of 7 x 7 tokens or, ``everywhere``, one for all tokens."""
    window = [size // (4 * 2**stage) for stage in range(4)] if everywhere else WINDOW
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=size, window_size=window)


def multiply_adds(quick: bool) -> Iterator[Result]:
    """One layer against the publication's formulas; Swin-T's stages over the area of the image."""
    yield _formulas()
    sizes = (224, 448, 672) if quick else (224, 448, 672, 896, 1120)
    counted: dict[str, list[float]] = {WINDOWS: [], GLOBAL: []}
    for size in sizes:
        for name, numbers in counted.items():
            # Shapes alone decide, so nothing is computed: a map of global attention would not fit into memory.
            with torch.device("meta"):
                model = stages(size, everywhere=name == GLOBAL)
                tokens = torch.empty(1, size // 4, size // 4, CHANNELS)
            numbers.append(flops(model.layers, inputs=tokens).total / 1e9)
    areas = [size**2 for size in sizes]
    fits = {name: exponent(areas, numbers) for name, numbers in counted.items()}
    linear, more = fits[WINDOWS], fits[GLOBAL]
    yield Finding(
        statement="The multiply-adds of Swin grow linearly with the area of the image.",
        verdict="holds" if abs(linear.value - 1) < 1e-6 else "does not hold",
        evidence=(
            f"Exponent {linear.value:.4f} for Swin-T's four stages from {sizes[0]} to {sizes[-1]} pixels, "
            f"{counted[WINDOWS][0]:.2f} G to {counted[WINDOWS][-1]:.1f} G."
        ),
        value=linear.value,
        interval=linear.interval,
        exact=True,
    )
    yield Finding(
        statement="With global attention in place of windows they grow faster than linearly.",
        verdict="holds" if more.low > 1 else "unclear" if more.high > 1 else "does not hold",
        evidence=(
            f"Exponent {more.value:.2f} (95 % interval of the fit {more.low:.2f} to {more.high:.2f}), "
            f"{counted[GLOBAL][0]:.1f} G to {counted[GLOBAL][-1]:.0f} G, at {sizes[-1]} pixels "
            f"{counted[GLOBAL][-1] / counted[WINDOWS][-1]:.0f} times that of windows."
        ),
        value=more.value,
        interval=more.interval,
    )
    yield Picture(
        name="multiply_adds",
        caption="Multiply-adds of Swin-T's stages over the area of a square image, with windows and without.",
        svg=figures.curves(
            "multiply_adds",
            {f"{name}, area^{fits[name].value:.2f}": (areas, numbers) for name, numbers in counted.items()},
            xlabel="pixels",
            ylabel="multiply-adds, G",
            logx=True,
            logy=True,
        ),
    )


def _formulas() -> Finding:
    """Equations 1 and 2: 4 hw C^2 + 2 (hw)^2 C for global attention, 4 hw C^2 + 2 M^2 hw C within windows."""
    differences = []
    for side in (14, 28, 56, 112):
        area = side**2
        for window in (WINDOW, side):
            with torch.device("meta"):
                counted = flops(Attention(window), inputs=torch.empty(1, side, side, CHANNELS)).total
            differences.append(counted - (4 * area * CHANNELS**2 + 2 * window**2 * area * CHANNELS))
    return Finding(
        statement="A layer takes the multiply-adds of the publication's equations 1 (global) and 2 (windows).",
        verdict="holds" if not any(differences) else "does not hold",
        evidence=f"Largest difference {max(map(abs, differences))} over 4 sizes of the feature map, both forms.",
        value=float(max(map(abs, differences))),
        exact=True,
    )


def time(quick: bool, device: str) -> Iterator[Result]:
    """A forward pass of one layer over the number of tokens, which is the image's area over 16.

    On a CPU both have one core, and the time is that of the core: what else runs there does not count.
    """
    sides = (14, 28, 42) if quick else (14, 28, 42, 56)
    rounds = 5 if quick else 10
    seconds = _seconds(sides, rounds, device)
    areas = [16 * side**2 for side in sides]
    slopes = {
        name: [exponent(areas, [seconds[name, side][i] for side in sides]).value for i in range(rounds)]
        for name in (WINDOWS, GLOBAL)
    }
    fits = {name: mean_interval(values) for name, values in slopes.items()}
    difference = paired_interval(slopes[GLOBAL], slopes[WINDOWS])
    medians = {name: [1000 * float(np.median(seconds[name, side])) for side in sides] for name in slopes}
    linear, more = fits[WINDOWS], fits[GLOBAL]
    yield Finding(
        statement="The time of attention within windows grows at most linearly with the area, up to a tenth.",
        verdict="holds" if linear.high <= 1.1 else "does not hold" if linear.low > 1.1 else "unclear",
        evidence=(
            f"Exponent {linear.value:.2f} (95 % interval {linear.low:.2f} to {linear.high:.2f}, {rounds} rounds) for "
            f"Swin-T's first layer on {device}, {4 * sides[0]} to {4 * sides[-1]} pixels."
        ),
        value=linear.value,
        interval=linear.interval,
    )
    yield Finding(
        statement="The time of global attention grows faster with the area than that of windows.",
        verdict="holds" if difference.low > 0 else "does not hold" if difference.high < 0 else "unclear",
        evidence=(
            f"Exponent {more.value:.2f} (95 % interval {more.low:.2f} to {more.high:.2f}), {difference.value:+.2f} "
            f"({difference.low:+.2f} to {difference.high:+.2f}) beside windows; "
            f"{medians[GLOBAL][-1] / medians[WINDOWS][-1]:.1f} times their time at {4 * sides[-1]} pixels."
        ),
        value=more.value,
        interval=more.interval,
    )
    yield Picture(
        name="time",
        caption=f"Median time of attention in Swin-T's first layer over the area of a square image, on {device}.",
        svg=figures.curves(
            "time",
            {f"{name}, area^{fits[name].value:.2f}": (areas, medians[name]) for name in slopes},
            xlabel="pixels",
            ylabel="ms",
            logx=True,
            logy=True,
        ),
    )


def _seconds(sides: Sequence[int], rounds: int, device: str) -> dict[tuple[str, int], list[float]]:
    """The time of each form at each size of the feature map, round by round after one that fills caches."""
    clock = perf_counter if device != "cpu" else process_time
    torch.manual_seed(0)
    layers = {
        (name, side): (
            Attention(WINDOW if name == WINDOWS else side).to(device).eval(),
            torch.randn(1, side, side, CHANNELS, device=device),
        )
        for side in sides
        for name in (WINDOWS, GLOBAL)
    }
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in layers}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(rounds + 1):
                for key, (layer, tokens) in layers.items():
                    # Small maps are done several times, so that every sample is long enough for the clock.
                    repeats = (max(sides) // key[1]) ** 2
                    start = clock()
                    for _ in range(repeats):
                        layer(tokens).sum().item()  # waits for the device
                    seconds[key].append((clock() - start) / repeats)
    finally:
        torch.set_num_threads(threads)
    return {key: samples[1:] for key, samples in seconds.items()}
