"""HorNet: a ConvNeXt-like hierarchy whose blocks mix positions by recursive gated convolutions.

Rao et al., "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions", NeurIPS 2022, arXiv
2207.14284. Self-attention multiplies features by features of other places once (a query with keys, the map
with values). A gated convolution does so n times at little cost: features of half, a quarter, ... of the channels are
gated by ever more channels of a depth-wise convolution. The output is a polynomial of degree n + 1 in the input.

Shapes: B images, H x W positions, C channels; within stages features have channels last, (B, H, W, C).

Names of modules and parameters are those of the released checkpoints, but for the MLP's, which is timm's.
"""

# Without postponed annotations, which torch.fx would write as names that TorchScript does not know.
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerNorm2d, Mlp, calculate_drop_path_rates, to_2tuple, trunc_normal_
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_module
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from common.classifier import HasClassifier
from common.errors import UserError, nearest

_GLOBAL = {"global_filter_stages": (2, 3)}

#: One row a variant. Those called ``gf`` have global filters in the last two stages; the size of their filters is that
#: of ``img_size``.
VARIANTS: dict[str, dict[str, Any]] = {
    "hornet_tiny_7x7": {"base_dim": 64},
    "hornet_tiny_gf": {"base_dim": 64, **_GLOBAL},
    "hornet_small_7x7": {"base_dim": 96},
    "hornet_small_gf": {"base_dim": 96, **_GLOBAL},
    "hornet_base_7x7": {"base_dim": 128},
    "hornet_base_gf": {"base_dim": 128, **_GLOBAL},
    "hornet_base_gf_img384": {"base_dim": 128, **_GLOBAL, "img_size": 384},
    "hornet_large_7x7": {"base_dim": 192},
    "hornet_large_gf": {"base_dim": 192, **_GLOBAL},
    "hornet_large_gf_img384": {"base_dim": 192, **_GLOBAL, "img_size": 384},
}


class DepthwiseConv(nn.Conv2d):
    """A depth-wise convolution with zero padding: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``; in memory it may stay with channels last."""
        return self._conv_forward(x.permute(0, 3, 1, 2), self.weight, self.bias).permute(0, 2, 3, 1)


@register_notrace_module
class GlobalFilter(nn.Module):
    """Half of the channels by a 3x3 convolution, half by a filter of the whole map: (B, H, W, C) -> (B, H, W, C).

    The filter multiplies the two-dimensional Fourier transform (Rao et al., "Global Filter Networks", NeurIPS 2021),
    which is a circular convolution as large as the map. The transform is taken in float32 whatever the precision.

    Args:
        dim: C.
        grid: H and W that the filter is stored for; at another size it is resized bilinearly, in the frequencies.
    """

    def __init__(self, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.dw = DepthwiseConv(dim // 2, 3, bias=False)
        # Real and imaginary parts; a real map has W / 2 + 1 frequencies along its width.
        self.complex_weight = nn.Parameter(torch.empty(dim // 2, grid[0], grid[1] // 2 + 1, 2))
        self.pre_norm = nn.LayerNorm(dim, eps=1e-6)
        self.post_norm = nn.LayerNorm(dim, eps=1e-6)
        trunc_normal_(self.complex_weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions of ``x``; channels of both halves alternate in the result."""
        near, far = self.pre_norm(x).chunk(2, dim=-1)
        near = self.dw(near)
        spectrum = torch.fft.rfft2(far.permute(0, 3, 1, 2).float(), norm="ortho")
        spectrum = spectrum * resized_filter(self.complex_weight, spectrum.shape[2], spectrum.shape[3])
        far = torch.fft.irfft2(spectrum, s=(x.shape[1], x.shape[2]), norm="ortho").permute(0, 2, 3, 1)
        return self.post_norm(torch.stack((near, far.to(near.dtype)), dim=-1).flatten(-2))


def resized_filter(weight: Tensor, height: int, width: int) -> Tensor:
    """A stored filter (C, h, w, 2) as a complex one (C, height, width), resized bilinearly with aligned corners."""
    weight = weight.float()
    if weight.shape[1] != height or weight.shape[2] != width:
        parts = weight.permute(3, 0, 1, 2)
        parts = F.interpolate(parts, size=(height, width), mode="bilinear", align_corners=True)
        weight = parts.permute(1, 2, 3, 0)
    return torch.view_as_complex(weight.contiguous())


class GatedConvolution(nn.Module):
    r"""The recursive gated convolution of order n: (B, H, W, C) -> (B, H, W, C).

    One projection gives p_0 with C / 2^(n-1) channels and q_0, ..., q_(n-1) with C / 2^(n-1), ..., C / 2, C channels;
    q is convolved depth-wise, and with projections g_k to the next width

    .. math:: p_{k+1} = g_k(p_k) \cdot \mathrm{scale} \cdot \mathrm{convolution}(q_k), \qquad g_0 = 1.

    Since widths double, all orders together cost less than 11/3 C + 2 K^2 + 2 times H W C multiply-adds for a K x K
    convolution: 2 C for the first projection, less than 2/3 C for those between widths, C for the last one, and K^2 + 1
    for each of less than 2 C convolved and gated channels.

    Args:
        dim: C, a multiple of 2^(n-1).
        order: n.
        grid: with it, positions are mixed by a :class:`GlobalFilter` of this size, else by a convolution.
        kernel_size: K, of the convolution.
        scale: see above.

    Raises:
        UserError: C is no such multiple.
    """

    def __init__(
        self,
        dim: int,
        order: int = 5,
        grid: tuple[int, int] | None = None,
        kernel_size: int = 7,
        scale: float = 1 / 3,
    ) -> None:
        super().__init__()
        if order < 1 or dim % 2 ** (order - 1):
            raise UserError(
                f"A gated convolution of order {order} halves its {dim} channels {order - 1} times; use a multiple of "
                f"{2 ** max(order - 1, 0)} channels or another order."
            )
        self.dims = [dim // 2**k for k in reversed(range(order))]
        self.scale = scale
        total = sum(self.dims)
        self.proj_in = nn.Linear(dim, 2 * dim)
        self.dwconv = DepthwiseConv(total, kernel_size) if grid is None else GlobalFilter(total, grid)
        self.pws = nn.ModuleList(nn.Linear(dim // 2 ** (k + 1), dim // 2**k) for k in reversed(range(order - 1)))
        self.proj_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions of ``x``."""
        x, q = self.proj_in(x).split([self.dims[0], sum(self.dims)], dim=-1)
        gates = (self.scale * self.dwconv(q)).split(self.dims, dim=-1)
        x = x * gates[0]
        for k, project in enumerate(self.pws):
            x = project(x) * gates[k + 1]
        return self.proj_out(x)


class Block(nn.Module):
    """A gated convolution, then an MLP, each normalised, scaled and residual: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: C.
        mixer: builds what mixes positions from C.
        drop_path: stochastic depth.
        ls_init_value: start of the scales gamma1 and gamma2; None for none.
    """

    def __init__(
        self, dim: int, mixer: Callable[[int], nn.Module], drop_path: float = 0.0, ls_init_value: float | None = 1e-6
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.gnconv = mixer(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)
        self.gamma1 = None if ls_init_value is None else nn.Parameter(torch.full((dim,), ls_init_value))
        self.gamma2 = None if ls_init_value is None else nn.Parameter(torch.full((dim,), ls_init_value))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform features ``x``."""
        mixed = self.gnconv(self.norm1(x))
        x = x + self.drop_path(mixed if self.gamma1 is None else self.gamma1 * mixed)
        hidden = self.mlp(self.norm2(x))
        return x + self.drop_path(hidden if self.gamma2 is None else self.gamma2 * hidden)


class Stage(nn.Sequential):
    """Blocks of one resolution: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, *blocks: Block) -> None:
        super().__init__(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks, with channels last."""
        x = x.permute(0, 2, 3, 1)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self, x)
        else:
            for block in self:
                x = block(x)
        return x.permute(0, 3, 1, 2)


class HorNet(HasClassifier):
    """HorNet: stages of :class:`Block` at strides 4, 8, 16 and 32, each twice as wide as the one before.

    Args:
        img_size: height and width in pixels that global filters are stored for. Images of other sizes may be given to
            any model at any time.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for features as they are.
        base_dim: C of the first stage.
        depths: blocks of each stage.
        orders: n of each stage's gated convolutions.
        global_filter_stages: stages, counted from 0, that have global filters instead of convolutions.
        patch_size: stride of the stem.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0.
        ls_init_value: see :class:`Block`.
        init_std: spread of first weights; None keeps PyTorch's own, right for narrow models.
        mixer: builds what mixes positions from ``(dim, order=, grid=)``; the grid is None without a global filter.

    Raises:
        UserError: an image of ``img_size`` is smaller than the last stage's stride, or channels cannot be halved.
    """

    architecture = "HorNet"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        base_dim: int = 64,
        depths: Sequence[int] = (2, 3, 18, 2),
        orders: Sequence[int] = (2, 3, 4, 5),
        global_filter_stages: Sequence[int] = (),
        patch_size: int = 4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        ls_init_value: float | None = 1e-6,
        init_std: float | None = 0.02,
        mixer: Callable[..., nn.Module] = GatedConvolution,
    ) -> None:
        super().__init__()
        dims = [base_dim * 2**stage for stage in range(len(depths))]
        strides = [patch_size * 2**stage for stage in range(len(depths))]
        height, width = to_2tuple(img_size)
        if min(height, width) < strides[-1]:
            raise UserError(f"img_size is {height}x{width}; HorNet needs at least {strides[-1]} pixels a side.")
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = dims[-1]
        self.feature_info = [
            {"module": f"stages.{stage}", "num_chs": dim, "reduction": stride}
            for stage, (dim, stride) in enumerate(zip(dims, strides, strict=True))
        ]

        patches = nn.Conv2d(in_chans, dims[0], patch_size, stride=patch_size)
        self.downsample_layers = nn.ModuleList([nn.Sequential(patches, LayerNorm2d(dims[0], eps=1e-6))])
        for dim in dims[:-1]:
            halving = nn.Conv2d(dim, 2 * dim, 2, stride=2)
            self.downsample_layers.append(nn.Sequential(LayerNorm2d(dim, eps=1e-6), halving))
        rates_of_stages: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.ModuleList()
        for stage, rates in enumerate(rates_of_stages):
            grid = (height // strides[stage], width // strides[stage]) if stage in global_filter_stages else None
            build = partial(mixer, order=orders[stage], grid=grid)
            self.stages.append(Stage(*(Block(dims[stage], build, rate, ls_init_value) for rate in rates)))
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes > 0 else nn.Identity()
        for part in self.modules():
            if init_std is not None and isinstance(part, (nn.Conv2d, nn.Linear)):
                trunc_normal_(part.weight, std=init_std)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Any:
        """Layers for layer-wise learning rates; finely as released: two blocks of the long third stage are one."""
        if coarse:
            return {"stem": r"^downsample_layers\.0", "blocks": r"^(?:stages|downsample_layers)\.(\d+)"}
        depths = [len(list(stage.children())) for stage in self.stages]
        layers = [depth // 2 if depth > 3 else 1 for depth in depths]

        def layer(name: str) -> int:
            kind, *position = name.split(".")
            if kind not in ("stages", "downsample_layers"):
                return 1 + sum(layers)
            if kind == "downsample_layers" and position[0] == "0":
                return 0
            stage, block = int(position[0]), int(position[1]) if kind == "stages" else 0
            return 1 + sum(layers[:stage]) + min(block // 2, layers[stage] - 1)

        return layer

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        stages: Any = self.stages
        for stage in stages:
            stage.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to features (B, C, H, W), not yet normalised."""
        for downsample, stage in zip(self.downsample_layers, self.stages):  # noqa: B905, which TorchScript lacks
            x = stage(downsample(x))
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C, H, W) to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        x = x.permute(0, 2, 3, 1)
        if self.global_pool:
            x = x.mean(dim=(1, 2))
        x = self.head_drop(self.norm(x))
        x = x if pre_logits else self.head(x)
        return x if self.global_pool else x.permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features (B, C, H, W) of chosen stages, as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: stages; the last n for an int, all for None.
            norm: whether the final norm is applied to the last stage's.
            stop_early: whether to stop after the last chosen stage.
            output_fmt: NCHW.
            intermediates_only: whether the final features are left out.
        """
        if output_fmt != "NCHW":
            raise UserError(f"HorNet gives features as NCHW, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.stages), indices)
        features = []
        for index, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            if stop_early and index > last:
                break
            x = stage(downsample(x))
            if index in take:
                normed = norm and index == len(self.stages) - 1
                features.append(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if normed else x)
        return features if intermediates_only else (x, features)


#: Names of timm's MLP and the release's; linear maps that are 1x1 convolutions there.
_MLP = (("mlp.fc1", "pwconv1"), ("mlp.fc2", "pwconv2"))
_POINTWISE = re.compile(r"stages\..*\.gnconv\.(proj_in|proj_out|pws\.\d+)\.weight")


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released tensors to ours; names of ours stay."""
    ours = {}
    for name, value in state_dict.items():
        for new, old in _MLP:
            name = name.replace(old, new)
        ours[name] = value.flatten(1) if _POINTWISE.fullmatch(name) else value
    return ours


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our tensors to released ones; the inverse of :func:`checkpoint_filter_fn`."""
    released = {}
    for name, value in state_dict.items():
        if _POINTWISE.fullmatch(name) and value.ndim == 2:
            value = value[:, :, None, None]
        for new, old in _MLP:
            name = name.replace(new, old)
        released[name] = value
    return released


def resize_grid(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our tensors with global filters in the size of the model's, as the release does for fine-tuning (main.py)."""
    own = dict(model.named_parameters())
    return {
        name: torch.view_as_real(resized_filter(value, own[name].shape[1], own[name].shape[2]))
        if name.endswith("complex_weight") and name in own and len(value) == len(own[name])
        else value
        for name, value in state_dict.items()
    }


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: as released.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`HorNet`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no HorNet called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    size = VARIANTS[name].get("img_size", 224)
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, size, size), "fixed_input_size": False,
        "pool_size": (size // 32, size // 32), "crop_pct": 0.875 if size == 224 else 1.0, "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "first_conv": "downsample_layers.0.0",
        "classifier": "head",
    }  # fmt: skip
    features = {"out_indices": kwargs.pop("out_indices", (0, 1, 2, 3)), "feature_cls": "getter"}
    return build_model_with_cfg(
        HorNet, name, False, pretrained_cfg=cfg, feature_cfg=features, **{**VARIANTS[name], **kwargs}
    )
