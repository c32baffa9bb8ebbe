"""The two observations on a user's own vision transformer and ImageNet's validation images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from common.checkpoints import taken_weights
from common.data.pixels import UnreadableImage
from common.data.preprocessing import Preprocessing
from common.errors import UserError
from common.measurement import Measurement
from common.progress import track
from common.robustness.benchmarks import benchmark
from common.robustness.benchmarks.pictures import Pictures, collate
from common.robustness.full_scale_measures import load_model
from common.run import Run
from common.statistics import mean_interval
from papers.fcvit.observations import HELD, of_images

#: Pictures of ImageNet's validation set, where the user states no number: means of a block need no more.
PICTURES = 1000


def measure(run: Run) -> Iterator[Measurement]:
    """Both quantities of each block of the user's checkpoint, means over pictures.

    Raises:
        UserError: the network has no attention that can be read, or a picture cannot be read.
    """
    model, name, weights = load_model(run)
    declared = Preprocessing.of(model)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (declared.mean, declared.std))
    device = next(model.parameters()).device
    stage = benchmark("imagenet", run.settings.folders["imagenet"], declared).stages[0]
    pictures = stage.read()
    assert isinstance(pictures, Pictures)
    chosen = pictures.keep(run.settings.limit or PICTURES)
    loader = DataLoader(
        pictures, batch_size=run.settings.batch_size, num_workers=run.settings.workers, collate_fn=collate
    )
    found: dict[str, list[Tensor]] = defaultdict(list)
    for batch in track(loader, "attention by block"):
        if isinstance(batch, UnreadableImage):
            raise UserError(f"{batch.name} cannot be read ({batch.reason}); restore this file.")
        images = ((batch[1] / 255 - mean) / std).to(device)
        for key, values in of_images(model, images).items():
            found[key].append(values.cpu())
    protocol = f"attention/1 patches to patches, {HELD:.0%} held, {declared}; {chosen or 'all images'}"
    for key, parts in found.items():
        estimate = mean_interval(100 * torch.cat(parts).double().numpy())
        yield Measurement(
            model=name,
            dataset="imagenet-1k",
            metric=key,
            value=estimate.value,
            unit="%",
            weights=weights,
            interval=estimate.interval,
            n=len(pictures),
            protocol="; ".join(filter(None, [protocol, taken_weights(model)])),
        )
