"""GETAM: where a vision transformer looks when it decides for a class.

Sun et al., "GETAM: Gradient-weighted Element-wise Transformer Attention Map for Weakly-supervised Semantic
segmentation", arXiv 2112.02841. The gradient of a class's logit by an attention map says, element by element, which
attention the decision rests on. Attention is weighted by that gradient, and weighted again, so that what gradient and
attention both name stands out:

    layer = mean over heads of relu(gradient * attention) * mean over heads of relu(gradient)

Layers add up, and the class token's row, over the patches, is the map of the class.

Axes: L layers, B images, h heads, N tokens (the first ``prefix`` of them are no patches), K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn

from common.errors import UserError

#: Attention and gradients of L layers, each (B, h, N, N), to a map over all tokens (B, N).
Reading = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def layer_maps(attention: Tensor, gradient: Tensor, *, square: bool = True) -> Tensor:
    """What the class token takes from each token for the sake of a class, layer by layer.

    Args:
        attention: (..., h, N, N), after softmax.
        gradient: of the class's logit by it, likewise.
        square: weight by the gradient a second time, which the publication's ablation leaves out.

    Returns:
        (..., N), not negative.
    """
    attention, gradient = attention[..., 0, :], gradient[..., 0, :]
    coupled = (gradient * attention).relu().mean(dim=-2)
    return coupled * gradient.relu().mean(dim=-2) if square else coupled


def class_activation(
    attention: Sequence[Tensor], gradient: Sequence[Tensor], *, start_layer: int = 0, square: bool = True
) -> Tensor:
    """GETAM over all tokens, (B, N): `layer_maps` of the layers from ``start_layer`` on, added up."""
    layers = zip(attention[start_layer:], gradient[start_layer:], strict=True)
    return torch.stack([layer_maps(a, g, square=square) for a, g in layers]).sum(dim=0)


def raw_attention(attention: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """The class token's attention in the last layer, mean over heads, (B, N); the same for every class."""
    return attention[-1].mean(dim=1)[:, 0]


def rollout(attention: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """Attention rollout (Abnar and Zuidema, ACL 2020): layers multiplied, half of each the identity; (B, N)."""
    row = torch.eye(attention[0].shape[-1], device=attention[0].device)[0].expand(len(attention[0]), 1, -1)
    for layer in reversed(attention):
        row = (row + row @ layer.mean(dim=1)) / 2
    return row[:, 0]


def grad_cam(attention: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017) with the last layer's heads as channels, (B, N).

    Each head's map has one weight, the mean gradient of the class token's row.
    """
    rows, weights = attention[-1][:, :, 0], gradient[-1][:, :, 0].mean(dim=-1, keepdim=True)
    return (weights * rows).mean(dim=1).relu()


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[list[Tensor]]:
    """Keep each attention's map, (B, h, N, N) after softmax and dropout, as long as the context lasts.

    Maps are part of the graph; attention is computed without the fused kernel, which has none.

    Raises:
        UserError: the model has no attention of timm's kind.
    """
    # Any, since timm declares final what it also sets from outside.
    modules: list[Any] = [module for module in model.modules() if isinstance(module, Attention)]
    if not modules:
        raise UserError(f"{type(model).__name__} has no attention to read: take a vision transformer of timm.")
    maps: list[Tensor] = []
    fused = [module.fused_attn for module in modules]
    handles = [module.attn_drop.register_forward_hook(lambda _, args, out: maps.append(out)) for module in modules]
    try:
        for module in modules:
            module.fused_attn = False
        yield maps
    finally:
        for module, was, handle in zip(modules, fused, handles, strict=True):
            module.fused_attn = was
            handle.remove()


def class_maps(
    model: nn.Module, images: Tensor, present: Tensor, read: Reading = class_activation, *, prefix: int = 1
) -> Tensor:
    """A map for each class that is in an image.

    Images do not see each other behind the patch embedding, so one backward pass serves the next class of every image;
    the parameters' gradients stay as they are.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        images: normalised.
        present: (B, K) bool, the image-level labels.
        read: what is made of attention and gradients.
        prefix: tokens that are no patches: 1, or 2 with a distillation token.

    Returns:
        (B, K, N - prefix), zeros for classes that are not there.
    """
    with torch.inference_mode(False), torch.enable_grad(), recorded_attention(model) as attention:
        logits = model(images)
        attention = list(attention)  # as it is: checkpointed blocks compute theirs again on the way back
        logits = logits[0] if isinstance(logits, tuple) else logits
        todo = present.clone()
        maps = images.new_zeros(*present.shape, attention[0].shape[-1] - prefix)
        while todo.any():
            image = todo.any(dim=1).nonzero()[:, 0]
            label = todo[image].float().argmax(dim=1)
            todo[image, label] = False
            gradient = torch.autograd.grad(logits[image, label].sum(), attention, retain_graph=bool(todo.any()))
            with torch.no_grad():
                maps[image, label] = read(attention, gradient)[image, prefix:]
    return maps
