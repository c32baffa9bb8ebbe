"""VARS-D and VARS-SD: attention as sparse reconstruction from templates that depend on the input.

Per image and head, with tokens' unit vectors q_i and a fixed standard normal projection W (d, m):

    P_ij = exp(q_i^T w_j) / sqrt(sum_i exp(q_i^T w_j)^2)                    templates, columns of unit norm (N, m)
    G = K P^T P K,  d = P^T v                                               lateral connections, drive
    u_0 = S_lambda(d),  u_{t+1} = S_{lambda s}(u_t - s (G u_t - d))         dynamics, T steps
    out = P u_T

K is learned (the identity at first), ``lambda`` is the sparsity times a learned factor, and the step size is
``s = learned_L / (max_i sum_j |P^T P|_ij + 1)``, within the Lipschitz bound while ``learned_L <= 1`` and ``K`` is the
identity. VARS-SD has learned columns, one weight a token and template, beside the dynamic ones in P.

Factors of the features that are the same for all tokens, ``1 / sqrt(m)`` and ``exp(-||q||^2 / 2)``, cancel in the
normalisation over tokens, so they are left out. So does the scale ``1 / sqrt(d)`` of q, which has unit length.

Self-attention is the case of one step without sparsity: with ``normalization="rows"``, ``initial="zero"``,
``step_size=1``, ``steps=1``, ``sparsity=0`` and K the identity, u_1 = P^T v for unnormalised P, and
``out_i = sum_j (P P^T)_ij v_j / sum_j (P P^T)_ij``, which is :class:`KernelizedAttention` with ``shared_qk=True``.

On a CPU with a C compiler all of it is computed by dynamic_compiled.py; here it is written for every device and
precision.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.linear import Linear
from papers.vars import dynamic_compiled
from papers.vars.kernelized import Grid, random_features, refuse_masks
from papers.vars.lateral import ByFactors, ByMatrix, Lateral
from papers.vars.precision import plain_backward, without_autocast
from papers.vars.reconstruction import reconstruct, step_size
from papers.vars.sparse import (
    SHRINKAGES,
    Dynamics,
    Shrinkage,
    Trajectory,
    code_unit,
    iterate,
    objective,
    token_energy,
)


def _exponentials(q: Tensor, projection: Tensor, static: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """P of :class:`_Templates`, the unit vectors (h, B N, d) and the inverse norms (B, N, h, 1) of q."""
    (batch, tokens, heads, _), own = q.shape, projection.shape[-1]
    inverse = q.square().sum(dim=-1, keepdim=True).sqrt_().clamp_min_(1e-12).reciprocal_()
    unit = (q * inverse).permute(2, 0, 1, 3).flatten(1, 2)  # without a copy
    dynamic = (unit @ projection).exp_().unflatten(1, (batch, tokens))
    norm = dynamic.square().sum(dim=-2, keepdim=True).sqrt_()  # several times as fast as vector_norm
    if static is None:
        return dynamic.div_(norm), unit, inverse
    templates = q.new_empty(heads, batch, tokens, own + static.shape[-1])
    torch.div(dynamic, norm, out=templates[..., :own])
    templates[..., own:] = static.unsqueeze(1)
    return templates, unit, inverse


class _Templates(torch.autograd.Function):
    """P (h, B, N, m) of q (B, N, h, d): unit exponentials of the projected unit vectors, then static columns (h, N, k).

    One function, for the sake of fewer passes over tensors of P's size. ``projection`` (h, d, m - k) has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, projection: Tensor, static: Tensor | None) -> Tensor:
        templates, unit, inverse = _exponentials(q, projection, static)
        ctx.save_for_backward(unit, inverse, projection, templates)
        return templates

    @staticmethod
    @plain_backward
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        unit, inverse, projection, templates = ctx.saved_tensors
        own = projection.shape[-1]
        dynamic, d_static = templates[..., :own], None
        if ctx.needs_input_grad[2]:
            d_static = gradient[..., own:].sum(dim=1)
        # Like a softmax, a unit exponential is its own derivative's factor.
        product = gradient[..., :own] * dynamic
        product.addcmul_(dynamic, dynamic * product.sum(dim=-2, keepdim=True), value=-1)
        d_unit = product.flatten(1, 2) @ projection.mT
        d_unit.addcmul_(unit, (unit * d_unit).sum(dim=-1, keepdim=True), value=-1)
        d_q = d_unit.view(*templates.shape[:3], -1).permute(1, 2, 0, 3) * inverse
        return d_q, None, d_static


class _Problem(NamedTuple):
    """One sparse reconstruction per head and image; m templates, N tokens of d channels."""

    templates: Tensor  # P, (h, B, N, m)
    value: Tensor  # v, (h, B, N, d)
    static: Tensor | None  # the last columns of P where they are the same for all images, (h, N, k)


class VARSDynamic(nn.Module):
    """VARS-D: sparse reconstruction from random features of the input: (B, N, C) -> (B, N, C).

    Equations: the module's docstring. Defaults are the release's but for the shrinkage.

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
        shrinkage: ``soft`` (publication) or ``gelu`` (release), see :func:`papers.vars.sparse.shrink`. By default soft,
            until a released file is loaded, whose weights were trained with GELU.
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

    def _templates(self, q: Tensor, static: Tensor | None) -> Tensor:
        """P (h, B, N, m) from q (B, N, h, d)."""
        if self.normalization == "tokens":
            if torch.is_grad_enabled():
                return _Templates.apply(q, self.rand_matrix, static)
            return _exponentials(q, self.rand_matrix, static)[0]
        templates = random_features(F.normalize(q, dim=-1).transpose(1, 2), self.rand_matrix).transpose(0, 1)
        if static is None:
            return templates
        return torch.cat([templates, static.unsqueeze(1).expand(-1, len(q), -1, -1)], dim=-1)

    def _qv(self, x: Tensor) -> Tensor:
        """Queries and values, (B, N, 2 C)."""
        self._check_tokens(x.shape[1])
        # In the parameters' precision also under autocast: half of it has too few bits for the dynamics.
        return self.qkv(x).to(self.learned_k.dtype)

    def _check_tokens(self, tokens: int) -> None:
        """Refuse a number of tokens that there are no templates for."""

    def _problem(self, x: Tensor) -> _Problem:
        q, v = self._qv(x).unflatten(2, (2, self.num_heads, -1)).unbind(2)
        with without_autocast(x):
            static = self._static()
            return _Problem(self._templates(q, static), v.permute(2, 0, 1, 3).contiguous(), static)

    def _sparsity(self) -> Tensor:
        return self.learned_lam * self.sparsity

    def _scale(self) -> Tensor | float:
        """Of the step size, see :func:`papers.vars.reconstruction.step_size`."""
        return self.learned_L if self.step_size is None else float(self.step_size)

    def _form(self, tokens: int, channels: int) -> type[Lateral]:
        """The form of the lateral connections that takes fewer operations."""
        size = (tokens, self.num_templates, channels, self.steps)
        return min(ByMatrix, ByFactors, key=lambda form: form.operations(*size))

    def _dynamics(self) -> Dynamics:
        return Dynamics(self.steps, self.shrinkage, self.initial == "zero")

    def _reconstruct(self, problem: _Problem) -> Tensor:
        """P u_T, (h, B, N, d)."""
        templates, value, static = problem
        with without_autocast(templates):
            x = reconstruct(
                templates.flatten(0, 1), value.flatten(0, 1), static, self.learned_k, self._scale(), self._sparsity(),
                self._dynamics(), self._form(*value.shape[2:]),
            ).view_as(value)  # fmt: skip
            if self.normalization == "rows":
                x = x / (templates @ templates.sum(dim=-2).unsqueeze(-1))
            return x

    def _attend(self, x: Tensor) -> Tensor:
        """P u_T for tokens ``x``, (B, N, C)."""
        if self.normalization == "tokens" and self.steps > 0 and dynamic_compiled.serves(x, self.learned_k):
            return dynamic_compiled.reconstruct(
                self._qv(x), self.rand_matrix, self._static(), self.learned_k, self._scale(), self._sparsity(),
                self._dynamics(), self._form(x.shape[1], x.shape[2] // self.num_heads),
            )  # fmt: skip
        return self._reconstruct(self._problem(x)).permute(1, 2, 0, 3).flatten(2)

    def reconstruction_problem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be reconstructed from what: templates P (B, h, N, m) and input v (B, h, N, d) of tokens ``x``."""
        problem = self._problem(x)
        return problem.templates.transpose(0, 1), problem.value.transpose(0, 1)

    @torch.no_grad()
    def trajectory(self, x: Tensor, steps: int | None = None) -> Trajectory:
        """The dynamics on tokens ``x`` (B, N, C), for ``steps`` steps (None: as forward does); not differentiable.

        Returns:
            Codes (T + 1, B, h, m, d) and objectives (T + 1, B, h), summed over the d channels of a head.
        """
        templates, value, static = self._problem(x)
        dynamics, sparsity = self._dynamics()._replace(steps=self.steps if steps is None else steps), self._sparsity()
        form, drive = self._form(*value.shape[2:]), (value.mT @ templates).flatten(0, 1)
        connections, row_sums, _ = form.connect(templates.flatten(0, 1), static, self.learned_k)
        step, _ = step_size(row_sums, self._scale())
        lateral = form(connections, step)
        found = [code.clone() for _, code in iterate(lateral, drive, sparsity, dynamics)]
        stacked = torch.stack(found).mT * code_unit(step, self.shrinkage)
        energy = value.flatten(0, 1).square().sum(dim=(-2, -1))
        objectives = objective(stacked, lateral.product(stacked), drive.mT, energy, sparsity)
        by_image = (self.num_heads, len(x))
        return Trajectory(
            stacked.unflatten(1, by_image).transpose(1, 2), objectives.unflatten(1, by_image).transpose(1, 2)
        )

    def attention_map(self, x: Tensor) -> Tensor:
        """The share of the reconstruction's energy on each token: (B, N, C) -> (B, h, N), summing to 1.

        The response to v is not linear, so there is no matrix of weights; what the dynamics keep of each token is the
        map.
        """
        return token_energy(self._reconstruct(self._problem(x))).transpose(0, 1)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; ``x`` has shape (B, N, C). Masks are refused."""
        refuse_masks(attn_mask, is_causal)
        return self.proj_drop(self.proj(self._attend(x)))


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
        return static / static.square().sum(dim=-2, keepdim=True).sqrt() if self.normalization == "tokens" else static

    def _check_tokens(self, tokens: int) -> None:
        if tokens != self.kernel.shape[-2]:
            raise UserError(
                f"VARS-SD has learned templates of {self.kernel.shape[-2]} tokens (grid {self.grid[0]}x{self.grid[1]}) "
                f"and got {tokens} tokens; build the model with img_size=<the size you use>."
            )
