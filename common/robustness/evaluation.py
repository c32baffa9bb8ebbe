"""The evaluation loop: every cell of a benchmark on every image, resumable, by one or many processes.

A stage's pictures are read, decoded and resized once, and all its cells (75 corruptions, say) are computed on the
decoded batch; only the cells' per-image records stay, on disk (``common.robustness.records``). With several
processes (``torchrun`` or ``accelerate launch``) each takes every n-th image, so that each image counts once.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from common.checkpoints import taken_weights
from common.data.loading import collation, received, watched_loaders
from common.data.pixels import UnreadableImage
from common.data.preprocessing import Preprocessing
from common.errors import UserError
from common.files import write_atomic
from common.measurement import Measurement, Weights
from common.progress import console, track
from common.robustness.benchmarks import Benchmark, Stage, benchmark
from common.robustness.benchmarks.pictures import Pictures, collate
from common.robustness.benchmarks.videos import Videos
from common.robustness.normalisation import Normalized, evaluating
from common.robustness.protocols import versioned
from common.robustness.records import CellRecord
from common.run import Settings
from common.signed import checked, signed

#: Seconds between two times that records are brought to disk; an interruption loses no more than that.
SECONDS_BETWEEN_FLUSHES = 20.0


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, which on its machine, and a barrier for all."""

    index: int = 0
    count: int = 1
    local: int = 0
    wait: Callable[[], object] = lambda: None

    @classmethod
    def here(cls) -> Processes:
        """As the launcher's environment says; one process without a launcher."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        return cls(state.process_index, state.num_processes, state.local_process_index, state.wait_for_everyone)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How an evaluation is computed, whatever it measures.

    Attributes:
        device: torch device.
        batch_size: images per forward pass.
        workers: loader processes; 0 loads in this one.
        limit: evaluate on so many images only: the first of a fixed random order.
        amp: forward passes in mixed precision (float16); None: on CUDA. Attacks are always made in float32.
        processes: which share of the images is this process's.

    Raises:
        UserError: a number is too small.
    """

    device: str | torch.device = "cpu"
    batch_size: int = 64
    workers: int = 2
    limit: int | None = None
    amp: bool | None = None
    processes: Processes = field(default_factory=Processes.here)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0 or (self.limit is not None and self.limit < 1):
            raise UserError("batch size and limit must be at least 1, workers at least 0.")

    @classmethod
    def of(cls, settings: Settings) -> Execution:
        """As a run's user asks for."""
        return cls(
            device=settings.device, batch_size=settings.batch_size, workers=settings.workers, limit=settings.limit
        )

    @property
    def mixed(self) -> bool:
        """Whether forward passes are in mixed precision."""
        return torch.device(self.device).type == "cuda" if self.amp is None else self.amp


def evaluate(
    model: nn.Module,
    name: str,
    root: Path | str,
    *,
    model_name: str,
    weights: Weights = "released",
    execution: Execution | None = None,
    preprocessing: Preprocessing | None = None,
    output: Path | None = None,
    **options: Any,
) -> list[Measurement]:
    """Measure a model on a benchmark set.

    Args:
        model: takes normalised images, returns logits ``(B, 1000)``; it is evaluated in eval mode.
        name: of the benchmark, see ``common.robustness.benchmarks.BENCHMARKS``.
        root: where the data set is.
        model_name: for the measurements.
        weights: where the weights come from.
        execution: default: on the processor, all images.
        preprocessing: default: what timm's configuration of the model says.
        output: folder for per-image records; a call that was interrupted goes on from there. Default: a temporary
            folder.
        options: of the benchmark, see ``benchmark``.

    Returns:
        The benchmark's metrics with 95 % intervals over images. Other processes than the first get the same.

    Raises:
        UserError: the data set is missing or laid out otherwise, an image cannot be read, the model has other
            classes or gives no numbers, or ``output`` holds something else. What was computed stays in ``output``.
    """
    execution = execution or Execution()
    preprocessing = preprocessing or Preprocessing.of(model)
    bench = benchmark(name, root, preprocessing, **options)
    if output is None and execution.processes.count > 1:
        raise UserError("several processes need one folder to write to; give --output.")
    temporary = TemporaryDirectory() if output is None else nullcontext(str(output))
    with temporary as folder:
        run = Evaluation(
            model,
            bench,
            Path(folder) / name,
            identity={
                "model": model_name,
                "state": fingerprint(model),
                "benchmark": f"{name}: {bench.description}",
                "root": str(Path(root).resolve()) if Path(root).exists() else str(root),
                "preprocessing": str(preprocessing),
                "precision": f"amp float16 on {torch.device(execution.device).type}" if execution.mixed else "float32",
                "limit": execution.limit,
            },
            normalized=Normalized(model, preprocessing.mean, preprocessing.std),
            execution=execution,
        )
        return run.measure(model_name, weights)


class Evaluation:
    """An evaluation in its folder; ``evaluate`` is the way to it."""

    def __init__(
        self,
        model: nn.Module,
        bench: Benchmark,
        folder: Path,
        *,
        identity: dict[str, Any],
        normalized: Normalized,
        execution: Execution,
    ) -> None:
        self.model = model
        self.bench = bench
        self.folder = folder
        self.identity = identity
        self.execution = execution
        self.device = torch.device(execution.device)
        self.normalized = normalized.to(self.device)
        self.processes = execution.processes
        self.choice = ""
        self._said: set[str] = set()
        self.records: dict[str, CellRecord] = {}
        self.seconds = self._take_up()

    def measure(self, model_name: str, weights: Weights) -> list[Measurement]:
        """Evaluate what is left, then compute the metrics from all records."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.monotonic()
        worked = 0
        try:
            with watched_loaders(), evaluating(self.model):
                for done, stage in enumerate(self.bench.stages, start=1):
                    worked += self.run_stage(stage)
                    self._say_how_long(done, worked, time.monotonic() - start)
        finally:
            self.seconds += time.monotonic() - start
            self._note(self.seconds)
        self.processes.wait()
        peak = torch.cuda.max_memory_allocated(self.device) / 2**20 if self.device.type == "cuda" else None
        context = [
            self.bench.description,
            self.identity["preprocessing"],
            self.identity["precision"],
            self.choice,
            taken_weights(self.model),
        ]
        return [
            Measurement(
                model=model_name,
                dataset=value.dataset,
                metric=value.metric,
                value=value.value,
                unit=value.unit,
                weights=weights,
                interval=value.interval,
                n=value.n,
                seconds=round(self.seconds, 2),
                peak_memory=peak,
                protocol="; ".join([versioned(value.metric), *filter(None, context)]),
                detail=value.detail,
            )
            for value in self.bench.summarise({name: record.table() for name, record in self.records.items()})
        ]

    def run_stage(self, stage: Stage) -> bool:
        """Evaluate what is left of one stage; returns whether anything was."""
        pictures = stage.read()
        if pictures.left_out and self.processes.index == 0:
            console.print(f"{self.bench.name} {stage.name}: {pictures.left_out}.", markup=False, soft_wrap=True)
        self.choice = pictures.keep(self.execution.limit)
        records = [CellRecord(self.folder / f"{cell.name}.npy", stage.score.columns) for cell in stage.cells]
        for cell, record in zip(stage.cells, records, strict=True):
            if self.processes.index == 0 and record.create(len(pictures)):
                self._say(f"{record.path} is damaged; this cell is evaluated anew.")
            self.records[cell.name] = record
        self.processes.wait()
        for record in records:
            if damaged := record.open(len(pictures)):
                self._say(f"{record.path} is damaged or was cut off in writing; {damaged} images are evaluated anew.")
        left = np.flatnonzero(np.any([record.pending() for record in records], axis=0))
        # Everybody must have seen what is left before anybody writes.
        self.processes.wait()
        mine = left[self.processes.index :: self.processes.count]
        if not mine.size:
            return False
        loader = DataLoader(
            Subset(pictures, mine.tolist()),
            # A sequence is a batch already, and the next may have more frames.
            batch_size=1 if isinstance(pictures, Videos) else self.execution.batch_size,
            num_workers=self.execution.workers,
            collate_fn=collation(collate, self.execution.workers, self._batch_bytes(pictures, int(mine[0])), self._say),
            pin_memory=self.device.type == "cuda",
        )
        label = f"{self.bench.name} {stage.name}" if stage.name != self.bench.name else self.bench.name
        flushed = time.monotonic()
        try:
            for batch in map(received, track(loader, label) if self.processes.index == 0 else loader):
                if isinstance(batch, UnreadableImage):
                    raise UserError(
                        f"{batch.name} cannot be read ({batch.reason}); restore this file and run the same command "
                        "again, it goes on where it stopped."
                    )
                self._run_batch(stage, records, pictures.rows, *batch)
                if time.monotonic() - flushed > SECONDS_BETWEEN_FLUSHES:
                    flushed = time.monotonic()
                    for record in records:
                        record.flush()
        finally:
            for record in records:
                record.flush()
        return True

    def _batch_bytes(self, pictures: Pictures | Videos, position: int) -> int:
        """Of a batch of pictures like the one at ``position``."""
        sample = pictures[position]
        if isinstance(sample, UnreadableImage):
            return 0
        return sample[1].nbytes * (1 if isinstance(pictures, Videos) else self.execution.batch_size)

    def _say(self, sentence: str) -> None:
        """Say something once."""
        if self.processes.index == 0 and sentence not in self._said:
            self._said.add(sentence)
            console.print(sentence, highlight=False, soft_wrap=True)

    def _run_batch(
        self,
        stage: Stage,
        records: Sequence[CellRecord],
        rows: np.ndarray,
        positions: Tensor,
        images: Tensor,
        labels: Tensor,
    ) -> None:
        where = positions.numpy()
        seeds = rows[where]
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        results = []
        for cell, record in zip(stage.cells, records, strict=True):
            pending = record.pending(where)
            if not pending.any():
                continue
            if pending.all():
                part, its_labels = images, labels
            else:
                chosen = torch.from_numpy(pending).to(self.device)
                part, its_labels = images[chosen], labels[chosen]
            changed = cell.change(part, its_labels, seeds[pending].tolist(), self.normalized)
            logits = self._logits(changed)
            # A decision or a rank among NaN would be a number like any other.
            sound = logits.flatten(1).amax(1, keepdim=True).isfinite()
            values = stage.score(logits, its_labels).where(sound, torch.nan)
            results.append((record, where[pending], values))
        # Only here the device is waited for, once a batch.
        for record, which, values in results:
            record.write(which, values.cpu().numpy())

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images, ``(B, T, K)`` of sequences ``(B, T, 3, H, W)``."""
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.execution.mixed):
            if images.ndim == 4:
                return self.normalized(images)
            frames = images.flatten(0, 1).split(self.execution.batch_size)
            return torch.cat([self.normalized(part) for part in frames]).unflatten(0, images.shape[:2])

    def _take_up(self) -> float:
        """Check that the folder holds this evaluation or nothing; returns the seconds spent before."""
        path = self.folder / "evaluation.json"
        seconds = 0.0
        if path.exists():
            try:
                found = checked(json.loads(path.read_bytes()))
                identity, seconds = dict(found["identity"]), float(found["seconds"])
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path} is damaged; choose another --output.") from None
            for key, value in self.identity.items():
                if identity.get(key) != value:
                    raise UserError(
                        f"{self.folder} holds an evaluation with {key} {identity.get(key)!r} where {value!r} "
                        "is asked for now; choose another --output."
                    )
        self.processes.wait()
        self._note(seconds)
        return seconds

    def _note(self, seconds: float) -> None:
        if self.processes.index == 0:
            record = {"identity": self.identity, "seconds": seconds}
            write_atomic(self.folder / "evaluation.json", json.dumps(signed(record), indent=1))

    def _say_how_long(self, done: int, worked: int, elapsed: float) -> None:
        """Of ``done`` stages ``worked`` took the time; the others were evaluated by an earlier call."""
        total = len(self.bench.stages)
        if total > 1 and worked and elapsed > 10 and self.processes.index == 0:
            left = elapsed / worked * (total - done) / 60
            console.print(f"{self.bench.name}: {done} of {total} parts, about {left:.0f} min left", highlight=False)


def fingerprint(model: nn.Module) -> str:
    """Hash of a model's parameters and buffers, by which an evaluation is recognised."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
