"""What sparsification computes, exactly: the host's output where all is kept, attention to kept tokens alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common.measurement import Finding
from papers.dynamicvit.hierarchies import DynamicConvNeXt, DynamicSwin
from papers.dynamicvit.selection import Sparse
from papers.dynamicvit.vit import DynamicViT, KeptAttention

#: Float64 rounding of a few layers.
TOLERANCE = 1e-10

#: Small networks of each kind: the host's class, the sparsified one's, and arguments of both.
KINDS: dict[str, tuple[type[nn.Module], type[Sparse], dict[str, Any]]] = {
    "ViT": (
        VisionTransformer, DynamicViT,
        {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2},
    ),
    "ConvNeXt": (ConvNeXt, DynamicConvNeXt, {"depths": (1, 1, 4, 1), "dims": (8, 16, 24, 32), "ls_init_value": 1.0}),
    "Swin": (
        SwinTransformer, DynamicSwin,
        {"img_size": 64, "embed_dim": 8, "depths": (2, 2, 4, 2), "num_heads": (1, 2, 2, 2), "window_size": 2},
    ),
}  # fmt: skip
SIDE = {"ViT": 32, "ConvNeXt": 64, "Swin": 64}


def small(kind: str, locations: tuple[int, ...] = (1, 2, 3), keep_rate: float = 0.7) -> tuple[Any, Any, Tensor]:
    """A host, its sparsified form of the same weights, and images for both, in float64."""
    torch.manual_seed(0)
    plain, sparse, arguments = KINDS[kind]
    arguments = {"num_classes": 10, "drop_path_rate": 0.0, **arguments}
    host = plain(**arguments).double().eval()
    for parameter in host.parameters():  # large enough that every part can be seen in the output
        nn.init.normal_(parameter, std=0.3)
    network: Any = sparse(locations=locations, keep_rate=keep_rate, **arguments).double().eval()
    network.load_state_dict(host.state_dict(), strict=False)
    for name, parameter in network.named_parameters():
        if network.group_matcher()(name):
            nn.init.normal_(parameter, std=0.3)
    return host, network, torch.randn(2, 3, SIDE[kind], SIDE[kind], dtype=torch.float64)


def relative(ours: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    return float((ours - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def keeping_all() -> Iterator[Finding]:
    """At keep rate 1 a sparsified network is its host."""
    errors = {}
    for kind in KINDS:
        host, network, images = small(kind, keep_rate=1.0)
        errors[kind] = relative(network(images), host(images))
    yield _exact("host", "At keep rate 1 the output is the host's.", errors, TOLERANCE)
    sparser = {kind: relative(small(kind)[1](small(kind)[2]), small(kind)[0](small(kind)[2])) for kind in KINDS}
    yield Finding.exactly(
        name="selects",
        statement="At keep rate 0.7 it is not: selection changes what is computed.",
        holds=min(sparser.values()) > 1e-3,
        evidence=f"Relative difference {_list(sparser)}.",
        value=min(sparser.values()),
    )


@torch.no_grad()
def masking_is_dropping() -> Iterator[Finding]:
    """Training's masks and inference's smaller batches of tokens give the same."""
    torch.manual_seed(0)
    attention = KeptAttention(24, 3, qkv_bias=True).double()
    x, kept = torch.randn(2, 9, 24, dtype=torch.float64), torch.tensor([1, 1, 0, 1, 0, 0, 1, 1, 0]).expand(2, 9)
    alone = attention(x[:, kept[0] == 1])
    rounding = relative(attention(x, kept.double())[:, kept[0] == 1], alone)
    attention.rounding = 0.0
    exact = relative(attention(x, kept.double())[:, kept[0] == 1], alone)
    yield _exact(
        "attention", "Masked attention is attention to the kept tokens alone.", {"attention": exact}, TOLERANCE,
        f" With the rounding term of 1e-6, as released, the difference is {rounding:.1e}.",
    )  # fmt: skip

    _, network, images = small("ViT")
    for block in network.blocks:
        block.attn.rounding = 0.0
    yield _exact(
        "transformer",
        "A transformer in training gives what it gives in inference, where the same tokens are dropped for real.",
        {"ViT": forced_difference(network, images)},
        TOLERANCE,
    )
    once = {kind: forced_difference(*small(kind, locations=(1,))[1:]) for kind in ("ConvNeXt", "Swin")}
    often = {kind: forced_difference(*small(kind)[1:]) for kind in ("ConvNeXt", "Swin")}
    yield _exact(
        "streams",
        "So do ConvNeXt and Swin where places are chosen once; chosen again, a place that changes its path goes on "
        "with features of the new path's stream, as released.",
        once,
        TOLERANCE,
        f" With three choices the outputs differ by {_list(often)}.",
    )


def forced_difference(network: Any, images: Tensor) -> float:
    """How far logits of training are from those of inference, with noise that forces the decisions of inference."""
    network.eval()
    inference = network.forward_sparse(images)
    certain = 100.0  # so that a decision's straight-through value is 0 or 1, but for rounding
    noise = [certain * torch.stack((kept, 1 - kept), dim=-1).to(images.dtype) for kept in inference.decisions]
    network.train()
    training = network.forward_sparse(images, noise)
    network.eval()
    assert all(
        torch.equal(a.round(), b.round().to(a.dtype))
        for a, b in zip(training.decisions, inference.decisions, strict=True)
    )
    return relative(training.logits, inference.logits)


def _exact(name: str, statement: str, errors: dict[str, float], bound: float, rest: str = "") -> Finding:
    return Finding.exactly(
        name=name,
        statement=statement,
        holds=max(errors.values()) <= bound,
        evidence=f"Largest relative difference {_list(errors)} (bound {bound:.0e}).{rest}",
        value=max(errors.values()),
    )


def _list(values: dict[str, float]) -> str:
    return ", ".join(f"{value:.1e} ({name})" for name, value in values.items())
