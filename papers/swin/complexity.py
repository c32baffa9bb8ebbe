"""What windows cost over the area of an image, beside global attention (section 3.2, equations 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter, process_time

import numpy as np
import timm
import torch
from timm.models.swin_transformer import SwinTransformer, WindowAttention, window_partition, window_reverse
from torch import Tensor, nn

from common import figures
from common.measurement import Finding, Picture, Result
from common.profiling import flops
from common.statistics import Estimate, median_interval
from common.verdicts import of_bound, of_difference

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


def exponent(areas: Sequence[float], costs: Sequence[float]) -> float:
    """The power of the area by which a cost grows: the slope in log-log."""
    return float(np.polyfit(np.log(areas), np.log(costs), 1)[0])


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
    linear = abs(fits[WINDOWS] - 1) < 1e-6
    yield Finding.exactly(
        name="linear",
        statement="The multiply-adds of Swin grow linearly with the area of the image, with global attention faster.",
        holds=linear and fits[GLOBAL] > 1.1,
        evidence=(
            f"Exponent {fits[WINDOWS]:.4f} for Swin-T's four stages from {sizes[0]} to {sizes[-1]} pixels, "
            f"{counted[WINDOWS][0]:.2f} G to {counted[WINDOWS][-1]:.1f} G; {fits[GLOBAL]:.2f} with one window for all "
            f"tokens, at {sizes[-1]} pixels {counted[GLOBAL][-1] / counted[WINDOWS][-1]:.0f} times as many."
        ),
        value=fits[WINDOWS],
    )
    yield Picture(
        name="multiply_adds",
        caption="Multiply-adds of Swin-T's stages over the area of a square image, with windows and without.",
        svg=figures.curves(
            "multiply_adds",
            {f"{name}, area^{fits[name]:.2f}": (areas, numbers) for name, numbers in counted.items()},
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
    return Finding.exactly(
        name="formulas",
        statement="A layer takes the multiply-adds of the publication's equations 1 (global) and 2 (windows).",
        holds=not any(differences),
        evidence=f"Largest difference {max(map(abs, differences))} over 4 sizes of the feature map, both forms.",
        value=float(max(map(abs, differences))),
    )


def time(quick: bool, device: str) -> Iterator[Result]:
    """A forward pass of one layer over the number of tokens, which is the image's area over 16.

    On a CPU both have one core, and the time is that of the core: what else runs there does not count.
    """
    sides = (14, 28) if quick else (14, 28, 42, 56)
    rounds = 6 if quick else 10
    seconds = _seconds(sides, rounds, device)
    areas = [16 * side**2 for side in sides]
    slopes = {
        name: [exponent(areas, [seconds[name, side][i] for side in sides]) for i in range(rounds)]
        for name in (WINDOWS, GLOBAL)
    }
    medians = {name: [1000 * float(np.median(seconds[name, side])) for side in sides] for name in slopes}
    fits = {name: median_interval(values) for name, values in slopes.items()}
    faster = median_interval([g - w for g, w in zip(slopes[GLOBAL], slopes[WINDOWS], strict=True)])
    where = f"median of {rounds} rounds for Swin-T's first layer on {device}, {4 * sides[0]} to {4 * sides[-1]} pixels"
    yield Finding(
        name="time_of_windows",
        statement="The time of attention within windows grows at most linearly with the area, up to a tenth.",
        verdict=of_bound(fits[WINDOWS], 1.1),
        evidence=f"Exponent {_with_interval(fits[WINDOWS])}, {where}.",
        value=fits[WINDOWS].value,
        interval=fits[WINDOWS].interval,
        over="rounds" if fits[WINDOWS].interval else "",
    )
    yield Finding(
        name="time_of_global_attention",
        statement="The time of global attention grows faster with the area than that of windows.",
        verdict=of_difference(faster),
        evidence=(
            f"Exponents differ by {_with_interval(faster)}, {where}; global attention takes "
            f"{medians[GLOBAL][-1] / medians[WINDOWS][-1]:.1f} times the time of windows at {4 * sides[-1]} pixels."
        ),
        value=faster.value,
        interval=faster.interval,
        over="rounds" if faster.interval else "",
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


def _with_interval(estimate: Estimate) -> str:
    spread = f"95 % interval {estimate.low:.2f} to {estimate.high:.2f}" if estimate.interval else "no interval"
    return f"{estimate.value:.2f} ({spread})"


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
