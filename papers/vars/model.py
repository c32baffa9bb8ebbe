"""RVT and vision transformers with kernelised attention or one of the VARS attentions.

Shi et al., "Visual Attention Emerges from Recurrent Sparse Reconstruction", ICML 2022, arXiv 2204.10962. A model is
called ``<attention>_<host>``: ``vars_d_rvt_tiny``, ``vars_sd_deit_small``.

Hosts. ``rvt_*``: those of :mod:`papers.rvt`. Under VARS-S an RVT block has no norm before attention and a batch norm
before the feed-forward network, as released. ``rvt_*_plus``: position-aware scaling multiplies attention scores, which
these attentions never form, and neither publication nor release defines it for them, so that these hosts are the plain
architecture, to be trained with patch-wise augmentation (:mod:`papers.rvt.patch_augmentation`). ``deit_*``: timm's
vision transformer with patches of 16 pixels. Performer, VARS-D and VARS-SD treat the class token as one more token;
VARS-S convolves over the grid, so that its host has no class token and pools by averaging. ``fan_*``: the FAN-ViTs of
:mod:`papers.fan`, where VARS takes the place of attention over tokens; attention over channels and the class token's
attention to the tokens, which comes after them, stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.layers import DropPath, LayerScale, Mlp, to_2tuple
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common.errors import UserError, nearest
from papers.fan.model import VARIANTS as FAN_VARIANTS
from papers.fan.model import FullyAttentionalNetwork
from papers.fan.model import default_cfg as fan_cfg
from papers.rvt.layers import TokenBatchNorm
from papers.rvt.model import VARIANTS as RVT_VARIANTS
from papers.rvt.model import RobustTransformer, build
from papers.rvt.model import default_cfg as rvt_cfg
from papers.vars.dynamic import VARSDynamic, VARSStaticDynamic
from papers.vars.kernelized import KernelizedAttention
from papers.vars.resizing import resize_grid  # noqa: F401  (looked for beside the class)
from papers.vars.static import VARSStatic

ATTENTIONS: dict[str, Callable[..., nn.Module]] = {
    "performer": KernelizedAttention,
    "vars_s": VARSStatic,
    "vars_d": VARSDynamic,
    "vars_sd": VARSStaticDynamic,
}

#: Attentions with learned templates for one grid of tokens.
TIED = ("vars_s", "vars_sd")

#: One row a host: the arguments of its class. DeiT: Touvron et al., 2021, table 1.
HOSTS: dict[str, dict[str, Any]] = {
    **{
        name: {key: value for key, value in row.items() if key != "scaled_blocks"} for name, row in RVT_VARIANTS.items()
    },
    "deit_tiny": {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3},
    "deit_small": {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6},
    "deit_base": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
    **{
        "_".join(name.split("_")[:2]): row
        for name, row in FAN_VARIANTS.items()
        if name.endswith("_p16_224")  # the FAN-ViTs
    },
}

#: One row a variant: its attention and its host's arguments.
VARIANTS: dict[str, dict[str, Any]] = {
    f"{attention}_{host}": {"attention": attention, **row} for attention in ATTENTIONS for host, row in HOSTS.items()
}


def _attention(attention: str, arguments: Mapping[str, Any] | None) -> Callable[..., nn.Module]:
    if attention not in ATTENTIONS:
        raise UserError(
            f"There is no attention called {attention!r}.{nearest(attention, ATTENTIONS)} There are "
            f"{', '.join(ATTENTIONS)}."
        )
    return partial(ATTENTIONS[attention], **(arguments or {}))


class VARSRobustTransformer(RobustTransformer):
    """RVT with the attention called ``attention``.

    Args:
        attention: a key of :data:`ATTENTIONS`.
        attention_args: arguments of the attention (``steps``, ``sparsity``, ``shrinkage``, ...).
        **kwargs: as :class:`papers.rvt.model.RobustTransformer`; ``scaled_blocks`` must be 0.
    """

    def __init__(self, attention: str, attention_args: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if kwargs.get("scaled_blocks"):
            raise UserError(
                f"Position-aware scaling multiplies attention scores, which {attention} never forms; leave out "
                f"scaled_blocks."
            )
        if attention == "vars_s":
            kwargs = {"norm1": lambda dim: nn.Identity(), "norm2": TokenBatchNorm, **kwargs}
        super().__init__(attention=_attention(attention, attention_args), **kwargs)


class TokenBlock(nn.Module):
    """timm's pre-norm block around any attention: (B, N, C) -> (B, N, C)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention: Callable[..., nn.Module],
        mlp_ratio: float,
        qkv_bias: bool,
        proj_bias: bool,
        proj_drop: float,
        attn_drop: float,
        init_values: float | None,
        drop_path: float,
        norm_layer: Callable[[int], nn.Module],
        act_layer: type[nn.Module],
        **unused: Any,
    ) -> None:
        super().__init__()
        for name in ("qk_norm", "scale_attn_norm", "scale_mlp_norm"):
            if unused.get(name):
                raise UserError(f"{name} is not defined for kernelised attention and VARS; leave it out.")
        self.norm1 = norm_layer(dim)
        self.attn = attention(
            dim, num_heads=num_heads, qkv_bias=qkv_bias, proj_bias=proj_bias, attn_drop=attn_drop, proj_drop=proj_drop
        )
        self.ls1 = LayerScale(dim, init_values=init_values) if init_values else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, bias=proj_bias, drop=proj_drop)
        self.ls2 = LayerScale(dim, init_values=init_values) if init_values else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Transform tokens; ``x`` has shape (B, N, C)."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class VARSVisionTransformer(VisionTransformer):
    """timm's vision transformer with the attention called ``attention``.

    Args:
        attention: a key of :data:`ATTENTIONS`.
        attention_args: arguments of the attention.
        **kwargs: as timm's ``VisionTransformer``.
    """

    def __init__(self, attention: str, attention_args: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if attention == "vars_s":
            kwargs = {"class_token": False, "global_pool": "avg", **kwargs}
        if attention in TIED and (kwargs.get("dynamic_img_size") or kwargs.get("patch_drop_rate")):
            raise UserError(
                f"{attention} has learned templates for a fixed grid of tokens; leave out dynamic_img_size and "
                f"patch_drop_rate and build the model with img_size=<the size you use>."
            )
        height, width = to_2tuple(kwargs.get("img_size", 224))
        patch_height, patch_width = to_2tuple(kwargs.get("patch_size", 16))
        bound = partial(
            _attention(attention, attention_args),
            grid=(height // patch_height, width // patch_width),
            num_prefix_tokens=int(kwargs.get("class_token", True)) + kwargs.get("reg_tokens", 0),
        )
        super().__init__(block_fn=partial(TokenBlock, attention=bound), **kwargs)

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """As timm's, where no block is tied to its grid of tokens."""
        if isinstance(self.blocks[0].attn, (VARSStatic, VARSStaticDynamic)):
            raise UserError("Learned templates are tied to their grid of tokens; build a new model with img_size=...")
        super().set_input_size(img_size, patch_size)

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """Where each block attends: images (B, in_chans, height, width) to one map (B, heads, H, W) a block."""
        grid = self.patch_embed.dynamic_feat_size(x.shape[-2:])
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        maps = []
        for block in self.blocks:
            attended = block.attn.attention_map(block.norm1(x))[..., self.num_prefix_tokens :]
            maps.append(attended.unflatten(-1, grid))
            x = block(x)
        return maps


class VARSFullyAttentionalNetwork(FullyAttentionalNetwork):
    """FAN-ViT whose attention over tokens is the one called ``attention``.

    Args:
        attention: a key of :data:`ATTENTIONS`.
        attention_args: arguments of the attention.
        **kwargs: as :class:`papers.fan.model.FullyAttentionalNetwork`.
    """

    def __init__(self, attention: str, attention_args: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(attention=_attention(attention, attention_args), **kwargs)


#: VARS-S keeps a block's attention in the block itself in the release, and in a module of its own here.
_RELEASED_BLOCK = re.compile(r"^(transformers\.\d+\.blocks\.\d+)\.(kernel2?|kernel_norm|L|v\.\w+|proj\.\w+)$")
_RELEASED_NORM = re.compile(r"^(transformers\.\d+\.blocks\.\d+)\.norm1\.(bn\.\w+)$")
_OUR_NORM = re.compile(r"^(transformers\.\d+\.blocks\.\d+)\.attn\.norm\.(bn\.\w+)$")
_OUR_BLOCK = re.compile(r"^(transformers\.\d+\.blocks\.\d+)\.attn\.(.*)$")


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to ours; they differ for VARS-S on RVT only."""
    renamed = {}
    for name, value in state_dict.items():
        name = _RELEASED_BLOCK.sub(r"\1.attn.\2", name)
        renamed[_RELEASED_NORM.sub(r"\1.attn.norm.\2", name)] = value
    return renamed


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our names to released ones; the inverse of :func:`checkpoint_filter_fn`."""
    if not any(isinstance(module, VARSStatic) for module in model.modules()):
        return dict(state_dict)
    renamed = {}
    for name, value in state_dict.items():
        name = _OUR_NORM.sub(r"\1.norm1.\2", name)
        renamed[_OUR_BLOCK.sub(r"\1.\2", name)] = value
    return renamed


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build the variant ``name`` of :data:`VARIANTS`.

    Keyword arguments are those of the host (:class:`VARSRobustTransformer`, :class:`VARSVisionTransformer` or
    :class:`VARSFullyAttentionalNetwork`); ``attention_args`` go to the attention.
    """
    if name not in VARIANTS:
        raise UserError(f"VARS has no model called {name!r}.{nearest(name, VARIANTS)}")
    tied, model_cls, cfg = VARIANTS[name]["attention"] in TIED, VARSRobustTransformer, None
    if "_fan_" in name:
        cfg = fan_cfg(architecture=name, fixed_input_size=tied)
        model_cls = VARSFullyAttentionalNetwork
    elif "_deit_" in name:
        # A vision transformer of timm's has a position embedding of one size.
        cfg = rvt_cfg(architecture=name, first_conv="patch_embed.proj", fixed_input_size=True)
        model_cls = VARSVisionTransformer
    kwargs["pretrained_cfg"] = kwargs.get("pretrained_cfg") or cfg
    return build(name, pretrained, model_cls, VARIANTS[name], tied, **kwargs)
