"""Parameter groups for fine-tuning: weight decay where it belongs, and learning rates that decay towards the stem."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from timm.optim import param_groups_layer_decay
from torch import nn

from common.errors import UserError
from downstream.backbone import find_backbones

_KNOWN = ("layer_decay", "head_lr_mult", "layers")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecay:
    """Builds an optimizer wrapper whose groups are timm's for the backbone, and two for everything else.

    Vectors (biases, norms) and what the architecture names in ``no_weight_decay`` are not decayed.

    Args:
        optim_wrapper_cfg: mmengine's, with ``optimizer`` (``lr`` and ``weight_decay`` in it).
        paramwise_cfg: ``layer_decay``: factor on the learning rate from a layer to the one before it (Clark et al.,
            ELECTRA, 2020; Bao et al., BEiT, 2022), 1 by default: none; the heads are the layer behind the backbone's
            last. ``head_lr_mult``: factor on the learning rate of everything but the backbone, 1 by default.
            ``layers``: pairs of the beginning of a name in the backbone's model and how many layers it is before the
            heads, where these are not timm's.

    Raises:
        UserError: an unknown key in ``paramwise_cfg``.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        self.wrapper = dict(optim_wrapper_cfg)
        self.settings = {"layer_decay": 1.0, "head_lr_mult": 1.0, "layers": (), **(paramwise_cfg or {})}
        unknown = set(self.settings) - set(_KNOWN)
        if unknown:
            raise UserError(f"LayerDecay knows no {sorted(unknown)[0]!r} in paramwise_cfg; it takes {_KNOWN}.")

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper for ``model``, a detector or segmenter, wrapped for distribution or not."""
        inner: Any = model.module if is_model_wrapper(model) else model
        optimizer = dict(self.wrapper.pop("optimizer"))
        optimizer["params"] = self.groups(inner, optimizer["lr"], optimizer.get("weight_decay", 0.0))
        wrapper = {"type": "OptimWrapper", **self.wrapper, "optimizer": OPTIMIZERS.build(optimizer)}
        return OPTIM_WRAPPERS.build(wrapper)

    def groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups with their own ``lr`` and ``weight_decay`` that hold every trained parameter once."""
        groups, taken = [], set()
        for backbone in find_backbones(model).values():
            # Classifiers name what they do not decay.
            exempt = backbone.model.no_weight_decay() if hasattr(backbone.model, "no_weight_decay") else ()
            for group in self._layers(backbone.model, weight_decay, exempt):
                scale = group.pop("lr_scale")
                groups.append({**group, "lr": lr * scale})
                taken |= {id(parameter) for parameter in group["params"]}
        rest = [each for each in model.parameters() if each.requires_grad and id(each) not in taken]
        head = {"lr": lr * self.settings["head_lr_mult"]}
        decayed = [each for each in rest if each.ndim > 1]
        vectors = [each for each in rest if each.ndim <= 1]
        groups.append({"params": decayed, "weight_decay": weight_decay, **head})
        groups.append({"params": vectors, "weight_decay": 0.0, **head})
        return [group for group in groups if group["params"]]

    def _layers(self, model: nn.Module, weight_decay: float, exempt: Collection[str]) -> list[dict[str, Any]]:
        """Groups of a backbone with their ``weight_decay`` and the ``lr_scale`` of their layer."""
        decay = self.settings["layer_decay"]
        if not self.settings["layers"]:
            # The last of timm's layers is the classifier's, which backbones have lost.
            layers = param_groups_layer_decay(model, weight_decay, exempt, layer_decay=decay)
            return [{**group, "lr_scale": decay * group["lr_scale"]} for group in layers]
        groups = []
        for start, distance in self.settings["layers"]:
            own = {name: each for name, each in model.named_parameters() if name.startswith(start)}
            plain = {name for name, each in own.items() if each.ndim <= 1 or name in exempt}
            for names, factor in ((own.keys() - plain, weight_decay), (plain, 0.0)):
                params = [each for name, each in own.items() if name in names and each.requires_grad]
                groups.append({"params": params, "weight_decay": factor, "lr_scale": decay**distance})
        return groups
