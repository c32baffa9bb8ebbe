"""The one adapter that makes any timm model a backbone of mmdet and mmseg.

A model's own feature interface (``forward_intermediates`` and ``feature_info``) gives the maps, so that nothing is
needed per architecture, and parameters keep the names that they have in the classifier, behind ``model.``.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.models import group_parameters, is_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.checkpoints import choose, load_strictly, ours_resized, read, take_form, unwrap
from common.errors import UserError
from common.measurement import WeightsChoice
from common.shapes import shapes_only


@MODELS.register_module()
class TimmFeatures(BaseModule):
    """Maps (B, C_i, H / s_i, W / s_i) of a timm model.

    Images whose sides are no multiples of a patch are padded with zeros at the right and below, as Swin's detectors
    pad them.

    Args:
        name: timm's name of the model, of this suite or of timm.
        out_indices: which entries of the model's ``feature_info`` to give; by default the last one of every stride.
        img_size: height and width that a model is built for which is tied to a size (VARS-S, VARS-SD and the starred
            RVT; absolute position embeddings); weights of another size are resized when ``checkpoint`` is loaded. By
            default, models that can take any size do, and resize position embeddings in every forward pass.
        checkpoint: pre-trained weights of the classifier (released or our own) with which training starts.
        checkpoint_weights: which ones of a file that has those of the last step and averaged ones.
        frozen_stages: that many stages and the stem are not trained; 0: the stem alone, -1: nothing.
        drop_path_rate: stochastic depth.
        grad_checkpointing: recompute activations in the backward pass, for memory.
        norm_eval: batch norms keep their statistics in training.
        output_norm: a layer norm on each map (``norm0``, ``norm1``, ...), as Swin's detectors have.
        downsample: channels of a 3x3 convolution with stride 2 on the last map (``learnable_downsample``), by which
            FAN-Hybrid's detectors come to a stride of 32; or None.
        model_args: more arguments of the model.

    Attributes:
        channels: C_i of the maps.
        strides: s_i of the maps.
        left_out: names of the classifier's tensors that the maps do not need.

    Raises:
        UserError: the model is unknown or cannot give maps; the checkpoint does not fit.
    """

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] | None = None,
        img_size: int | Sequence[int] | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_weights: WeightsChoice | None = None,
        frozen_stages: int = -1,
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
        norm_eval: bool = False,
        output_norm: bool = False,
        downsample: int | None = None,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not is_model(name):
            raise UserError(f"timm has no model called {name!r}; ./reproduce.sh list shows those of this suite.")
        arguments: dict[str, Any] = {"drop_path_rate": drop_path_rate, **(model_args or {})}
        if img_size is None:
            arguments = {**_any_size(name), **arguments}
        else:
            arguments["img_size"] = img_size if isinstance(img_size, int) else tuple(img_size)
        # timm's conventions (feature_info, group_matcher, ...) are no part of nn.Module's type.
        model: Any = timm.create_model(name, **arguments)
        if not hasattr(model, "forward_intermediates"):
            raise UserError(f"{name} has no forward_intermediates, by which timm's models give maps; choose another.")
        infos = [dict(info) for info in model.feature_info]
        wanted = _last_of_each_stride(infos) if out_indices is None else list(out_indices)
        indices, _ = feature_take_indices(len(infos), wanted)
        self.channels = [int(infos[index]["num_chs"]) for index in indices]
        self.strides = [int(infos[index]["reduction"]) for index in indices]
        classifier = set(model.state_dict())
        prune = getattr(model, "prune_intermediate_layers", None)
        if prune is not None:
            # What comes after the last map would be parameters without a gradient.
            indices = prune(indices, prune_norm=True, prune_head=True)
        elif hasattr(model, "norm"):
            model.norm = nn.Identity()
        model.reset_classifier(0)
        self.left_out = classifier - set(model.state_dict())
        if grad_checkpointing:
            model.set_grad_checkpointing(True)
        self.model: Any = model
        self.out_indices = list(indices)
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
        self.patch = (patch, patch) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))
        self.checkpoint_weights = checkpoint_weights
        self.checkpoint, self.frozen_stages, self.norm_eval = checkpoint, frozen_stages, norm_eval
        self.output_norm = output_norm
        if output_norm:
            for position, channels in enumerate(self.channels):
                self.add_module(f"norm{position}", nn.LayerNorm(channels))
        self.learnable_downsample: nn.Module | None = None
        if downsample is not None:
            self.learnable_downsample = nn.Conv2d(self.channels[-1], downsample, 3, stride=2, padding=1)
            self.channels[-1], self.strides[-1] = downsample, 2 * self.strides[-1]
        self._freeze()

    def init_weights(self) -> None:
        """Load ``checkpoint``; without one, keep the initialisation of the model itself."""
        if self.checkpoint is not None:
            self.load_classifier(self.checkpoint, self.checkpoint_weights)

    def load_classifier(self, source: str | Path, weights: WeightsChoice | None = None) -> None:
        """Load a classifier's weights, of a release or of our own training.

        Tensors that are tied to the size of the images (position embeddings, relative biases, VARS's learned
        templates) are resized to the model's, which the log says. The classifier, and what follows the last map, is
        left out.

        Args:
            source: the file.
            weights: which ones of a file that has both.

        Raises:
            UserError: names the first tensor that is missing, unexpected or of another shape.
        """
        content, what = choose(read(source), weights, source)
        if what:
            print_log(f"Of {source}, the {what} are taken.", logger="current")
        state, changed = ours_resized(unwrap(content), self.model, trained="step" in content)
        if changed:
            print_log(f"Resized to the model's grid of tokens: {changed}.", logger="current")
        needed = {name: value for name, value in state.items() if name not in self.left_out}
        load_strictly(self.model, needed, str(source))
        take_form(self.model, content)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The chosen maps of images (B, 3, H, W), finest first."""
        x = F.pad(x, (0, -x.shape[3] % self.patch[1], 0, -x.shape[2] % self.patch[0]))
        maps = self.model.forward_intermediates(
            x, indices=self.out_indices, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        if self.output_norm:
            norms = [getattr(self, f"norm{position}") for position in range(len(maps))]
            maps = [norm(each.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for norm, each in zip(norms, maps, strict=True)]
        if self.learnable_downsample is not None:
            maps = [*maps[:-1], self.learnable_downsample(maps[-1])]
        return tuple(each.contiguous() for each in maps)

    def train(self, mode: bool = True) -> TimmFeatures:
        """As any module, but frozen parts stay in evaluation mode, and all batch norms do with ``norm_eval``."""
        super().train(mode)
        if mode:
            for module in self.model.modules():
                own = list(module.parameters())
                frozen = bool(own) and not any(parameter.requires_grad for parameter in own)
                if (frozen and self.frozen_stages >= 0) or (self.norm_eval and isinstance(module, _BatchNorm)):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        if not hasattr(self.model, "group_matcher"):
            raise UserError(f"{type(self.model).__name__} does not name its stages; leave out frozen_stages.")
        groups = group_parameters(self.model, self.model.group_matcher(coarse=True))
        parameters = dict(self.model.named_parameters())
        # timm numbers the stem 0 and stages from 1, without gaps.
        for names in list(groups.values())[: self.frozen_stages + 1]:
            for name in names:
                parameters[name].requires_grad_(False)


def _last_of_each_stride(infos: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({int(info["reduction"]): index for index, info in enumerate(infos)}.values())


def _any_size(name: str) -> dict[str, Any]:
    """Arguments by which the architecture of ``name`` takes images of any size, where it has such an argument."""
    with shapes_only():
        classes = type(timm.create_model(name)).__mro__
    known = {argument for each in classes if each is not object for argument in inspect.signature(each).parameters}
    if "dynamic_img_size" in known:
        return {"dynamic_img_size": True}
    if "strict_img_size" in known:
        return {"strict_img_size": False}
    return {}


def find_backbones(module: nn.Module) -> dict[str, TimmFeatures]:
    """The adapters inside a detector or segmenter, by their name in it."""
    return {name: each for name, each in module.named_modules() if isinstance(each, TimmFeatures)}
