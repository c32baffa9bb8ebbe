"""Training and evaluating by mmengine's Runner: a config, made ready for a machine and its data.

A config, in ``downstream`` of a paper's folder, holds what the paper says. What the user says goes on top of it here:
the model, the data, the device, mixed precision. Under torchrun, training and evaluation are distributed; every image
of an evaluation counts once.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dist import barrier
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from common.data.loading import watched_loaders
from common.declaration import Paper
from common.errors import UserError, nearest
from common.measurement import WeightsChoice
from common.shapes import shapes_only
from common.tensor_files import check_sums
from downstream import amp, backbone, hooks, layer_decay, loading, pyramid, segformer  # noqa: F401  (they register what configs name)
from downstream.backbone import TimmFeatures
from downstream.checkpoints import load_finetuned
from downstream.corruption import corrupt_pipeline

#: Configs that papers share, and those of the embedded composition.
CONFIGS = Path(__file__).with_name("configs")

#: Our name of a measure, mmengine's, and the factor to per cent.
METRICS = {
    "box_ap": ("coco/bbox_mAP", 100.0),
    "mask_ap": ("coco/segm_mAP", 100.0),
    "miou": ("mIoU", 1.0),
}


#: What reads data in place of OpenMMLab's classes, see `downstream.annotations` and `downstream.maps`.
_OURS = {
    "CocoDataset": "CocoImages",
    "CocoMetric": "CocoAccuracy",
    "BaseSegDataset": "VisibleSegDataset",
    "ADE20KDataset": "VisibleADE20KDataset",
    "CityscapesDataset": "VisibleCityscapesDataset",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model to train and evaluate.

    Attributes:
        config: file of the config.
        data: root of the data set.
        folder: where checkpoints and the log go.
        model: timm name of the backbone; None: the config's.
        model_args: arguments of the backbone's model, beside the config's.
        img_size: as the backbone's argument; None: the config's.
        checkpoint: the classifier's weights that training starts from, or None.
        checkpoint_weights: which ones of a file that has both.
        device: ``cpu`` or ``cuda``.
        seed: of the initialisation and the order of the data.
        amp: mixed precision.
        iterations: of training; None: the config's schedule.
        workers: processes that load images; None: the config's.
        progress: what lines of progress call it; empty: no progress.
        verbose: show mmengine's own log.
    """

    config: Path
    data: Path
    folder: Path
    model: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    img_size: int | None = None
    checkpoint: Path | None = None
    checkpoint_weights: WeightsChoice | None = None
    device: str = "cpu"
    seed: int = 0
    amp: bool = False
    iterations: int | None = None
    workers: int | None = None
    progress: str = ""
    verbose: bool = False


def settings(paper: Paper) -> dict[str, Path]:
    """The configs of a paper by their names."""
    return _configs(paper.folder / "downstream")


def _configs(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def load_config(path: Path) -> Config:
    """Read a config; what it inherits from OpenMMLab comes with the packages.

    Raises:
        UserError: the file is missing.
    """
    if not path.is_file():
        known = _configs(path.parent)
        raise UserError(f"There is no setting {path.stem!r}.{nearest(path.stem, known)} There are {', '.join(known)}.")
    loaded = Config.fromfile(path)
    # A Runner logs and keeps its config several times; laying it out as tidy Python would take seconds each time.
    return Config(loaded.to_dict(), filename=loaded.filename, format_python_code=False)


def prepare(job: Job) -> Config:
    """The config of ``job``, complete: model, channels, data, device.

    Raises:
        UserError: the setting or the model is unknown, or they do not fit each other.
    """
    config = load_config(job.config)
    own = config.model.backbone
    if job.model is not None:
        own.name = job.model
    # What the source sets otherwise for a backbone than for the config's own: its arguments, or, by names with dots,
    # anything in the config.
    for key, value in config.get("variants", {}).get(own.name, {}).items():
        config.merge_from_dict({key if "." in key else f"model.backbone.{key}": value})
    own = config.model.backbone
    if job.model_args:
        own.model_args = {**own.get("model_args", {}), **job.model_args}
    if job.img_size is not None:
        own.img_size = job.img_size
    if job.checkpoint is not None:
        own.checkpoint = str(job.checkpoint)
        own.checkpoint_weights = job.checkpoint_weights
    fit_channels(config)
    for split in ("train", "val", "test"):
        loader = config[f"{split}_dataloader"]
        innermost = _innermost(loader.dataset)
        innermost.data_root = f"{job.data}/"
        innermost.type = _OURS.get(innermost.type, innermost.type)
        if job.workers is not None:
            loader.num_workers = job.workers
        if loader.num_workers == 0:
            loader.persistent_workers = False
        loading.arrange(loader)
    for split in ("val", "test"):
        evaluator = config[f"{split}_evaluator"]
        if "ann_file" in evaluator:
            dataset = _innermost(config[f"{split}_dataloader"].dataset)
            evaluator.ann_file = str(job.data / dataset.ann_file)
        evaluator.type = _OURS.get(evaluator.type, evaluator.type)
    # It registers what was named above; here, since importing mmdet or mmseg takes seconds.
    importlib.import_module("downstream.annotations" if config.default_scope == "mmdet" else "downstream.maps")
    if job.iterations is not None:
        _shorten(config, job.iterations)
    config.work_dir = str(job.folder)
    # One name a folder: mmengine keeps loggers and default scopes under it for the life of the process.
    config.experiment_name = f"{config.default_scope}_{job.folder.parent.name}_{job.folder.name}"
    config.randomness = {"seed": job.seed}
    config.launcher = "pytorch" if "LOCAL_RANK" in os.environ else "none"
    if config.launcher != "none" and job.device == "cpu":
        _distribute_on_cpu(config)
    config.env_cfg = {**config.get("env_cfg", {}), "dist_cfg": {"backend": "nccl" if job.device == "cuda" else "gloo"}}
    config.custom_hooks = [*config.get("custom_hooks", []), {"type": "OwnStep"}, {"type": "Unpack"}]
    if job.progress:
        config.custom_hooks.append({"type": "Progress", "name": job.progress})
    config.default_hooks.pop("visualization", None)
    config.pop("visualizer", None)
    config.pop("vis_backends", None)
    # mmengine deletes before it saves: of two, one is whole whenever the process dies.
    config.default_hooks.checkpoint.update(max_keep_ckpts=2, save_last=True)
    if job.amp:
        own_amp = {"type": "AmpOptimWrapper", "dtype": "float16"}
        config.optim_wrapper.update({"type": "CpuAmpOptimWrapper"} if job.device == "cpu" else own_amp)
    return config


def _distribute_on_cpu(config: Config) -> None:
    """Make a config fit for several processes without accelerators, for which mmengine and SyncBN are not made."""

    def plain(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "SyncBN":
                node["type"] = "BN"
            for child in node.values():
                plain(child)
        elif isinstance(node, (list, tuple)):
            for child in node:
                plain(child)

    plain(config.model)
    config.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "device_ids": None,
        "broadcast_buffers": False,
        "find_unused_parameters": config.get("find_unused_parameters", False),
    }


def fit_channels(config: Config) -> None:
    """Give the neck, or heads without a neck, the channels and strides of the backbone's maps.

    A config can then name any backbone. What it states itself stays.
    """
    with shapes_only():
        maps = TimmFeatures(**{key: value for key, value in config.model.backbone.items() if key != "type"})
    neck = config.model.get("neck")
    if neck is not None:
        if neck.get("in_channels") is None:
            neck.in_channels = list(maps.channels)
        if neck.type == "SimplePyramid" and neck.get("in_strides") is None:
            neck.in_strides = list(maps.strides)
        return
    for name in ("decode_head", "auxiliary_head"):
        head = config.model.get(name)
        if head is not None and head.get("in_channels") is None:
            index = head.get("in_index", -1)
            head.in_channels = [maps.channels[i] for i in index] if isinstance(index, list) else maps.channels[index]


def _innermost(dataset: Any) -> Any:
    while "dataset" in dataset:
        dataset = dataset.dataset
    return dataset


def _shorten(config: Config, iterations: int) -> None:
    """Train for so many iterations; the schedule's own lengths shrink with it.

    Of a schedule in epochs, what counts iterations (the warm-up) takes a tenth of the training at most.
    """
    epochs = config.train_cfg.get("max_epochs")
    whole = epochs or config.train_cfg.max_iters
    for scheduler in config.param_scheduler:
        counts_iterations = not scheduler.get("by_epoch", True)
        for key in ("begin", "end", "total_steps", "milestones"):
            if key not in scheduler:
                continue
            if epochs and counts_iterations:
                scheduler[key] = min(scheduler[key], iterations // 10)
            elif key == "milestones":
                scheduler[key] = [round(each / whole * iterations) for each in scheduler[key]]
            else:
                scheduler[key] = round(scheduler[key] / whole * iterations)
        scheduler["by_epoch"] = False
    config.param_scheduler = [
        each for each in config.param_scheduler if "end" not in each or each["end"] > each.get("begin", 0)
    ]
    # No validation on the way: the measurement comes right after.
    config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": iterations, "val_begin": iterations + 1}
    config.log_processor = {**config.get("log_processor", {}), "by_epoch": False}
    config.default_hooks.checkpoint.update(by_epoch=False, interval=max(1, iterations // 10))


@contextlib.contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Let mmengine's log go to a file in the folder of the job, and to the terminal where ``verbose``."""
    if verbose:
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build_model(config: Config) -> Any:
    """The detector or segmenter of a config, on the CPU, as it is before training."""
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(config.default_scope)
    return MODELS.build(config.model)


class Training:
    """A job on mmengine's Runner; one at a time in a process.

    Args:
        job: what to train.

    Attributes:
        images: validation images of the last evaluation.
        losses: of the training in this process, as iterations done and mean loss.
    """

    images: int = 0

    def __init__(self, job: Job) -> None:
        self.job = job
        self.config = prepare(job)
        if job.device == "cpu":
            # mmengine takes the accelerator that it finds; so it finds none.
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
            if self.config.launcher != "none" and not torch.distributed.is_initialized():
                torch.distributed.init_process_group("gloo")  # mmengine asks for a GPU first
        with _quiet(job.verbose):
            self.runner = Runner.from_cfg(self.config)
        kept = hooks.Losses()
        self.runner.register_hook(kept)
        self.losses = kept.points

    @property
    def model(self) -> Any:
        """The detector or segmenter itself, not what distributes it."""
        model = self.runner.model
        return model.module if is_model_wrapper(model) else model

    @property
    def weights(self) -> Path:
        """The checkpoint of a finished training."""
        return Path(self.config.work_dir) / "model.pth"

    def train(self) -> Path:
        """Train, or go on where an interrupted training was, and return the checkpoint."""
        if self.weights.exists():
            load_finetuned(self.runner.model, self.weights)
            return self.weights
        last = Path(self.config.work_dir) / "last_checkpoint"
        self.runner._resume = last.exists()
        if last.exists():
            check_sums(Path(last.read_text().strip()))
        with watched_loaders(), _quiet(self.job.verbose):
            self.runner.train()
        if self.runner.rank == 0:
            pointer = self.weights.with_name("last_checkpoint")
            Path(pointer.read_text().strip()).replace(self.weights)
            pointer.unlink()
            for earlier in [*self.weights.parent.glob("iter_*.pth"), *self.weights.parent.glob("epoch_*.pth")]:
                earlier.unlink()
        if self.runner.distributed:
            # Batch norms gather statistics of their own in each process; all evaluate those that are kept.
            barrier()
            load_finetuned(self.runner.model, self.weights)
        return self.weights

    def load(self, weights: Path) -> None:
        """Take the weights of a released or own detector or segmenter, strictly."""
        load_finetuned(self.runner.model, weights)

    def evaluate(self, corruption: tuple[str, int] | None = None) -> dict[str, float]:
        """Measure the model as it is, on the validation set as it is or with one corruption; per cent by our names."""
        loader = self.config.copy().test_dataloader
        if corruption is not None:
            dataset = _innermost(loader.dataset)
            dataset.pipeline = corrupt_pipeline(list(dataset.pipeline), *corruption)
        with watched_loaders(), _quiet(self.job.verbose):
            self.runner._test_loop = {**self.config.test_cfg}
            self.runner._test_dataloader = loader
            self.runner._test_evaluator = self.config.test_evaluator
            found = self.runner.test()
        self.images = len(self.runner.test_dataloader.dataset)
        measured = {name: float(found[key]) * factor for name, (key, factor) in METRICS.items() if key in found}
        # mmdet gives no average precision where nothing at all was detected: it is 0.
        kinds = self.config.test_evaluator.get("metric", [])
        for kind, name in (("bbox", "box_ap"), ("segm", "mask_ap")):
            if kind in kinds:
                measured.setdefault(name, 0.0)
        return measured

    def predict(self, count: int) -> list[Any]:
        """The model's data samples for the first images of the validation set."""
        with _quiet(self.job.verbose), torch.no_grad():
            dataset = self.runner.test_dataloader.dataset
            self.runner.model.eval()
            return self.runner.model.test_step(pseudo_collate([dataset[index] for index in range(count)]))
