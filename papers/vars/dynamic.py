"""The modules of VARS-D and VARS-SD: sparse reconstruction from templates that depend on the input.

Equations: papers/vars/attention.py, :func:`papers.vars.attention.vars_d` and :func:`papers.vars.attention.vars_sd`.
Names of parameters are the released ones. The usual scale ``1 / sqrt(d)`` has no place, as q has unit length.

Self-attention is the case of one step without sparsity: with ``normalization="rows"``, ``initial="zero"``,
``step_size=1``, ``steps=1``, ``sparsity=0`` and K the identity, u_1 = P^T v for unnormalised P, and
``out_i = sum_j (P P^T)_ij v_j / sum_j (P P^T)_ij``, which is :class:`KernelizedAttention` with ``shared_qk=True``.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from common.errors import UserError
from common.linear import Linear
from papers.vars import fast
from papers.vars.attention import (
    SHRINKAGES,
    Dynamics,
    Grid,
    Shrinkage,
    Trajectory,
    beside,
    codes_of,
    features,
    objective,
    reconstruct,
    step_size,
    token_energy,
    unit,
)
from papers.vars.fast import dynamic as fast_dynamic
from papers.vars.kernelized import refuse_masks
from papers.vars.precision import without_autocast


@register_notrace_module
class VARSDynamic(nn.Module):
    """VARS-D: sparse reconstruction from random features of the input: (B, N, C) -> (B, N, C).

    Equations: :func:`papers.vars.attention.vars_d`. Defaults are the release's but for the shrinkage.

    Args:
        dim: C.
        num_heads: h; a head has d = C / h channels.
        qkv_bias: whether the projection to q (= k) and v has a bias.
        proj_bias: whether the output projection has one.
        attn_drop: must be 0; there is no attention map to drop.
        proj_drop: dropout of the output.
        grid: accepted for uniformity; nothing depends on it here.
        num_prefix_tokens: likewise.
        feature_ratio: m / d of the dynamic templates.
        steps: T.
        sparsity: lambda.
        shrinkage: ``soft`` (publication) or ``gelu`` (release), see :func:`papers.vars.attention.shrink`. By default
            soft, until a released file is loaded, whose weights were trained with GELU.
        normalization: ``tokens``: each template has unit norm over tokens (released); ``rows``: templates are left as
            they are and the output is divided by ``P P^T 1``, as in self-attention.
        initial: the code before the first step: ``shrunk`` is ``S_lambda(P^T v)`` (released), ``zero`` is zero.
        step_size: s; None for the adaptive one above.
    """

    #: State that a released file may lack.
    derived: ClassVar[tuple[str, ...]] = ("L",)

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        grid: Grid | None = None,
        num_prefix_tokens: int = 0,
        feature_ratio: int = 2,
        steps: int = 5,
        sparsity: float = 0.3,
        shrinkage: Shrinkage | None = None,
        normalization: Literal["tokens", "rows"] = "tokens",
        initial: Literal["shrunk", "zero"] = "shrunk",
        step_size: float | None = None,
    ) -> None:
        super().__init__()
        if attn_drop > 0:
            raise UserError("VARS never forms an attention map; use attn_drop_rate=0 (proj_drop_rate works).")
        if shrinkage is not None and shrinkage not in SHRINKAGES:
            raise UserError(f"shrinkage is {shrinkage!r}; it can be {' or '.join(SHRINKAGES)}.")
        head_dim = dim // num_heads
        self.num_heads = num_heads
        self.steps, self.sparsity = steps, sparsity
        self.shrinkage: Shrinkage = shrinkage or "soft"
        self._shrinkage_given = shrinkage is not None
        self.normalization, self.initial, self.step_size = normalization, initial, step_size
        self.num_features = head_dim * feature_ratio
        self.qkv = Linear(dim, dim * 2, bias=qkv_bias)
        self.proj = Linear(dim, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        # Frozen parameters, not buffers: the release counts them among the parameters. Nothing reads L here; it is
        # kept so that released files load and can be written back.
        self.rand_matrix = nn.Parameter(torch.randn(num_heads, head_dim, self.num_features), requires_grad=False)
        self.L = nn.Parameter(torch.full((num_heads,), 25.0), requires_grad=False)
        self.learned_k = nn.Parameter(torch.eye(self.num_templates))
        self.learned_lam = nn.Parameter(torch.ones(1))
        self.learned_L = nn.Parameter(torch.ones(1))

    @property
    def num_templates(self) -> int:
        """m, all templates of a head."""
        return self.num_features

    @torch.no_grad()
    def recompute_derived(self) -> None:
        """Give ``L`` the value that it has at construction."""
        self.L.fill_(25.0)

    def use_released_form(self) -> None:
        """Take the shrinkage that released weights were trained with, unless one was chosen at construction."""
        if not self._shrinkage_given:
            self.shrinkage = "gelu"

    def _static(self) -> Tensor | None:
        """Columns of P that are the same for all images, (h, N, k), the last ones."""
        return None

    def _qv(self, x: Tensor) -> Tensor:
        """Queries and values, (B, N, 2 C)."""
        self._check_tokens(x.shape[1])
        # In the parameters' precision also under autocast: half of it has too few bits for the dynamics.
        return self.qkv(x).to(self.learned_k.dtype)

    def _check_tokens(self, tokens: int) -> None:
        """Refuse a number of tokens that there are no templates for."""

    def _sparsity(self) -> Tensor:
        return self.learned_lam * self.sparsity

    def _dynamics(self) -> Dynamics:
        return Dynamics(self.steps, self.shrinkage, self.initial == "zero")

    def _step(self, templates: Tensor) -> Tensor | float:
        return step_size(templates, self.learned_L) if self.step_size is None else self.step_size

    def _templates_and_input(self, qv: Tensor) -> tuple[Tensor, Tensor]:
        q, v = qv.unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        templates, static = features(q, self.rand_matrix), self._static()
        if self.normalization == "tokens":
            templates = unit(templates)
        return templates if static is None else beside(templates, static), v

    def reconstruction_problem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be reconstructed from what: templates P (B, h, N, m) and input v (B, h, N, d) of tokens ``x``."""
        qv = self._qv(x)
        with without_autocast(x):
            return self._templates_and_input(qv)

    def _reconstruct(self, templates: Tensor, v: Tensor) -> Tensor:
        """P u_T, (B, h, N, d)."""
        with without_autocast(v):
            step, sparsity = self._step(templates), self._sparsity()
            x = reconstruct(templates, v, self.learned_k, step, sparsity, self._dynamics())
            return x if self.normalization == "tokens" else x / (templates @ templates.sum(dim=-2).unsqueeze(-1))

    def _attend(self, x: Tensor) -> Tensor:
        """P u_T for tokens ``x``, (B, N, C)."""
        if self.normalization == "tokens" and self.steps > 0 and fast.allowed():
            qv = self._qv(x)
            with without_autocast(x):
                scale = self.learned_L if self.step_size is None else float(self.step_size)
                return fast_dynamic.reconstruct(
                    qv, self.rand_matrix, self._static(), self.learned_k, scale, self._sparsity(), self._dynamics()
                )
        return self._reconstruct(*self.reconstruction_problem(x)).transpose(1, 2).flatten(2)

    def trajectory(self, x: Tensor, steps: int | None = None) -> Trajectory:
        """The dynamics on tokens ``x`` (B, N, C), for ``steps`` steps (None: as forward does).

        Returns:
            Codes (T + 1, B, h, m, d) and objectives (T + 1, B, h), summed over the d channels of a head.
        """
        templates, v = self.reconstruction_problem(x)
        dynamics, sparsity = self._dynamics()._replace(steps=self.steps if steps is None else steps), self._sparsity()
        found = list(codes_of(templates, v, self.learned_k, self._step(templates), sparsity, dynamics))
        code, lateral = torch.stack(found), self.learned_k @ (templates.mT @ templates) @ self.learned_k
        energy = v.square().sum(dim=(-2, -1))
        return Trajectory(code, objective(code, lateral @ code, templates.mT @ v, energy, sparsity))

    def attention_map(self, x: Tensor) -> Tensor:
        """The share of the reconstruction's energy on each token: (B, N, C) -> (B, h, N), summing to 1.

        The response to v is not linear, so there is no matrix of weights; what the dynamics keep of each token is the
        map.
        """
        return token_energy(self._reconstruct(*self.reconstruction_problem(x)))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; ``x`` has shape (B, N, C). Masks are refused."""
        refuse_masks(attn_mask, is_causal)
        return self.proj_drop(self.proj(self._attend(x)))


@register_notrace_module
class VARSStaticDynamic(VARSDynamic):
    """VARS-SD: VARS-D with learned templates beside the dynamic ones: (B, N, C) -> (B, N, C).

    A learned template has one weight a token, which ties the module to one number of tokens.

    Args:
        dim: C.
        num_heads: h.
        grid: (H, W), the grid of tokens.
        num_prefix_tokens: tokens before the grid's (a class token); they have weights as well.
        **kwargs: as :class:`VARSDynamic`.
    """

    def __init__(self, dim: int, num_heads: int = 8, *, grid: Grid, num_prefix_tokens: int = 0, **kwargs: object):
        super().__init__(dim, num_heads, grid=grid, num_prefix_tokens=num_prefix_tokens, **kwargs)
        self.grid = tuple(grid)
        tokens = grid[0] * grid[1] + num_prefix_tokens
        self.kernel = nn.Parameter(torch.randn(1, num_heads, tokens, self.num_features))

    @property
    def num_templates(self) -> int:
        """m, dynamic and learned templates of a head."""
        return 2 * self.num_features

    def _static(self) -> Tensor:
        static = self.kernel.squeeze(0)
        return unit(static) if self.normalization == "tokens" else static

    def _check_tokens(self, tokens: int) -> None:
        if tokens != self.kernel.shape[-2]:
            raise UserError(
                f"VARS-SD has learned templates of {self.kernel.shape[-2]} tokens (grid {self.grid[0]}x{self.grid[1]}) "
                f"and got {tokens} tokens; build the model with img_size=<the size you use>."
            )
