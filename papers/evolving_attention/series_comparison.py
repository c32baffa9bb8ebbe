"""Time series with and without evolving attention: networks of equal width, trained alike on real data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from common.bench.scores import Scores
from common.run import Run
from papers.evolving_attention.series import EADCTransformer
from papers.evolving_attention.timeseries import DataSet, load

PLAIN, RESIDUAL, EVOLVING, DILATED = (f"ea_dc.{name}" for name in ("plain", "residual", "evolving", "dilated"))
#: What each network changes. The mixing weights are those of the release's example (README.md).
CHANGES: dict[str, dict[str, Any]] = {
    PLAIN: {"alpha": 0.0, "beta": 0.0, "dilated": False},
    RESIDUAL: {"alpha": 0.0, "beta": 0.3, "dilated": False},
    EVOLVING: {"alpha": 0.5, "beta": 0.3, "dilated": False},
    DILATED: {"alpha": 0.5, "beta": 0.3, "dilated": True},
}
#: Of what the library aeon ships, those with short series: maps cost the square of the steps.
CLASSIFICATION, REGRESSION = ("JapaneseVowels", "ItalyPowerDemand"), ("Covid3Month",)
#: Share of the test set that is classified rightly, and error over that of predicting the mean of the training set.
TOP1, ERROR = "series_top1", "series_error"
SIZE: dict[str, Any] = {"dim": 32, "hidden": 32, "depth": 2, "mlp_dim": 64}
#: Steps of the optimizer, a quick run's, series of a step, and the rate (the release's, options.py).
STEPS, QUICK_STEPS, BATCH, RATE = 200, 2, 16, 1e-3


def train(data: DataSet, changes: dict[str, Any], seed: int, steps: int) -> EADCTransformer:
    """Train one network with Adam at a rate that falls to zero along a cosine; in eval mode."""
    torch.manual_seed(seed)
    _, length, variables = data.train.x.shape
    model = EADCTransformer(variables, length, data.classes or 1, **SIZE, **changes)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    part = data.train
    for _ in range(steps):
        chosen = torch.randint(len(part.x), (BATCH,), generator=generator)
        output = model(part.x[chosen], part.mask[chosen])
        target = part.y[chosen]
        loss = F.cross_entropy(output, target) if data.classes else F.mse_loss(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def measure(model: EADCTransformer, data: DataSet) -> float:
    """The share of test series that is classified rightly, or the error of values over that of the training mean."""
    outputs = [model(x, mask) for x, mask in zip(data.test.x.split(256), data.test.mask.split(256), strict=True)]
    output = torch.cat(outputs)
    if data.classes:
        return float((output.argmax(dim=1) == data.test.y).double().mean())
    return float(((output - data.test.y).square().mean() / data.test.y.square().mean()).sqrt())


def scores(run: Run, folder: Path, names: Sequence[str], metric: str) -> Scores:
    """Train every network with every seed on every data set; ``metric`` is their mean, ``metric/NAME`` that of one."""
    steps = QUICK_STEPS if run.settings.quick else STEPS
    values: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for seed in run.seeds():
        for contender, changes in CHANGES.items():
            own = {}
            for name in names:

                def compute(name: str = name, changes: dict[str, Any] = changes, seed: int = seed) -> float:
                    data = load(folder, name)
                    return measure(train(data, changes, seed, steps), data)

                key = f"series {folder} {name} {contender} {changes} {SIZE} {steps} {seed}"
                own[f"{metric}/{name}"] = np.asarray(run.memo(run.key(key), compute))
            mean = np.asarray(np.mean(list(own.values())))
            values[contender, seed] = {metric: mean, **own}
    return Scores(values)
