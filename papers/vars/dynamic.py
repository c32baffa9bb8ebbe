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
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from papers.vars.kernelized import Grid, random_features, refuse_masks
from papers.vars.sparse import SHRINKAGES, Shrinkage, Trajectory, objective, shrink, token_energy


class _Problem(NamedTuple):
    """One sparse reconstruction per image and head; m templates, N tokens of d channels."""

    templates: Tensor  # P, (B, h, N, m), columns not normalised
    norm: Tensor  # of P's columns, (B, h, m, 1)
    gram: Tensor  # G, (B, h, m, m)
    drive: Tensor  # P^T v, (B, h, m, d)
    step: Tensor  # s, broadcasts against (B, h, 1, 1)
    value: Tensor  # v, (B, h, N, d)


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
        self.qkv = nn.Linear(dim, dim * 2, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
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

    def _templates(self, q: Tensor) -> Tensor:
        """P up to the norm of its columns, (B, h, N, m), from q (B, h, N, d)."""
        q = F.normalize(q, dim=-1)
        if self.normalization == "rows":
            return random_features(q, self.rand_matrix)
        return torch.exp(q @ self.rand_matrix)

    def _problem(self, x: Tensor) -> _Problem:
        q, v = self.qkv(x).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        templates = self._templates(q)
        transposed = templates.transpose(-2, -1)
        gram = transposed @ templates
        drive = transposed @ v
        if self.normalization == "rows":
            norm = torch.ones_like(drive[..., :1])
        else:
            # The Gram matrix holds the norms: normalising it costs m x m instead of N x m operations.
            norm = gram.diagonal(dim1=-2, dim2=-1).sqrt().clamp_min(1e-12).unsqueeze(-1)
            gram = gram / (norm * norm.transpose(-2, -1))
            drive = drive / norm
        if self.step_size is None:
            bound = gram.detach().abs().sum(dim=-1).amax(dim=-1)[..., None, None] + 1
            step = self.learned_L / bound
        else:
            step = torch.full_like(drive[..., :1, :1], self.step_size)
        gram = self.learned_k @ (gram @ self.learned_k)
        return _Problem(templates, norm, gram, drive, step, v)

    def _sparsity(self) -> Tensor:
        return self.learned_lam * self.sparsity

    def _codes(self, problem: _Problem, steps: int) -> list[Tensor]:
        """The code after 0 to ``steps`` steps, each (B, h, m, d)."""
        sparsity = self._sparsity()
        if self.initial == "zero":
            codes = [torch.zeros_like(problem.drive)]
        else:
            codes = [shrink(problem.drive, sparsity, self.shrinkage)]
        # u - s (G u - d) = (I - s G) u + s d, with matrix and vector formed once.
        eye = torch.eye(self.num_templates, dtype=problem.gram.dtype, device=problem.gram.device)
        transition = (eye - problem.step * problem.gram).flatten(0, 1)
        drive = (problem.step * problem.drive).flatten(0, 1)
        threshold = sparsity * problem.step
        for _ in range(steps):
            code = torch.baddbmm(drive, transition, codes[-1].flatten(0, 1)).view_as(problem.drive)
            codes.append(shrink(code, threshold, self.shrinkage))
        return codes

    def _reconstruct(self, problem: _Problem, code: Tensor) -> Tensor:
        """P u, (B, h, N, d)."""
        if self.normalization == "rows":
            received = problem.templates @ problem.templates.sum(dim=-2).unsqueeze(-1)
            return (problem.templates @ code) / received
        return problem.templates @ (code / problem.norm)

    def reconstruction_problem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be reconstructed from what: templates P (B, h, N, m) and input v (B, h, N, d) of tokens ``x``."""
        problem = self._problem(x)
        return problem.templates / problem.norm.transpose(-2, -1), problem.value

    def trajectory(self, x: Tensor, steps: int | None = None) -> Trajectory:
        """The dynamics on tokens ``x`` (B, N, C), for ``steps`` steps (None: as many as forward does).

        Returns:
            Codes (T + 1, B, h, m, d) and objectives (T + 1, B, h), summed over the d channels of a head.
        """
        problem = self._problem(x)
        codes = torch.stack(self._codes(problem, self.steps if steps is None else steps))
        energy = problem.value.square().sum(dim=(-2, -1))
        return Trajectory(codes, objective(codes, problem.gram @ codes, problem.drive, energy, self._sparsity()))

    def attention_map(self, x: Tensor) -> Tensor:
        """The share of the reconstruction's energy on each token: (B, N, C) -> (B, h, N), summing to 1.

        The response to v is not linear, so there is no matrix of weights; what the dynamics keep of each token is the
        map.
        """
        problem = self._problem(x)
        return token_energy(self._reconstruct(problem, self._codes(problem, self.steps)[-1]))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; ``x`` has shape (B, N, C). Masks are refused."""
        refuse_masks(attn_mask, is_causal)
        problem = self._problem(x)
        x = self._reconstruct(problem, self._codes(problem, self.steps)[-1])
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))


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

    def _templates(self, q: Tensor) -> Tensor:
        if q.shape[-2] != self.kernel.shape[-2]:
            raise UserError(
                f"VARS-SD has learned templates of {self.kernel.shape[-2]} tokens (grid {self.grid[0]}x{self.grid[1]}) "
                f"and got {q.shape[-2]} tokens; build the model with img_size=<the size you use>."
            )
        return torch.cat([super()._templates(q), self.kernel.expand(q.shape[0], -1, -1, -1)], dim=-1)
