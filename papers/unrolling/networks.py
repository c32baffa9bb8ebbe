"""Networks whose layers are unrolled steps of ISTA, with learned weights.

Signals are columns, as in the equations: a batch of d signals is (N, d), its codes (m, d). With a dictionary ``P`` and
the soft threshold ``S``:

    LISTA      u_{k+1} = S_theta(W_e v + S u_k)         one W_e, S, theta for all layers; K. Gregor and Y. LeCun,
                                                        "Learning Fast Approximations of Sparse Coding", ICML 2010
    untied     u_{k+1} = S_{theta_k}(W_k v + S_k u_k)   weights of its own for each layer
    TiLISTA    u_{k+1} = S_{theta_k}(u_k + gamma_k W^T (v - P u_k)), with one learned W
    ALISTA     the same with W from :func:`papers.unrolling.analytic.weights`; J. Liu, X. Chen, Z. Wang and W. Yin,
               "ALISTA: Analytic Weights Are As Good As Learned Weights in LISTA", ICLR 2019

Untrained, LISTA and TiLISTA are ISTA to rounding. Thresholds and steps are learned by their logarithms, which keeps
them positive and makes one learning rate right for all scales. TiLISTA and ALISTA may let the largest entries of a code
pass unshrunk (support selection, X. Chen, J. Liu, Z. Wang and W. Yin, "Theoretical Linear Convergence of Unfolded ISTA
and Its Practical Weights and Thresholds", NeurIPS 2018), a share that grows from layer to layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from common.sparse_coding import lipschitz, shrunk_affine, soft_threshold
from papers.unrolling import analytic


class Unrolled(nn.Module):
    """A network whose layers each improve a code.

    Args:
        layers: K.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers

    def codes(self, signals: Tensor) -> Iterator[Tensor]:
        """The code after each layer, (m, d), of signals (N, d)."""
        raise NotImplementedError

    def forward(self, signals: Tensor) -> Tensor:
        """The code after the last layer."""
        *_, code = self.codes(signals)
        return code


class LISTA(Unrolled):
    """LISTA: (N, d) -> (m, d), as ISTA before training.

    Args:
        dictionary: P, (N, m).
        layers: K.
        sparsity: lambda of the ISTA that it is before training.
        tied: one set of weights for all layers (as published), or one for each.
    """

    def __init__(self, dictionary: Tensor, layers: int, sparsity: float, *, tied: bool = True) -> None:
        super().__init__(layers)
        step = 1 / lipschitz(dictionary)
        sets, size = 1 if tied else layers, dictionary.shape[1]
        transition = torch.eye(size, dtype=dictionary.dtype) - step * dictionary.T @ dictionary
        self.encoder = nn.ParameterList(step * dictionary.T.clone() for _ in range(sets))
        # From zero the first layer has nothing to pass on.
        self.transition = nn.ParameterList(transition.clone() for _ in range(1 if tied else layers - 1))
        self.log_threshold = nn.ParameterList(
            torch.full((size,), math.log(sparsity * step), dtype=dictionary.dtype) for _ in range(sets)
        )

    def codes(self, signals: Tensor) -> Iterator[Tensor]:
        """The code after each layer, (m, d), of signals (N, d)."""
        # Codes are rows inside.
        source, threshold = signals.T @ self.encoder[0].T, self.log_threshold[0].exp()
        code = soft_threshold(source, threshold)
        yield code.T
        for layer in range(1, self.layers):
            if len(self.encoder) > 1:
                source, threshold = signals.T @ self.encoder[layer].T, self.log_threshold[layer].exp()
            transition = self.transition[(layer - 1) % len(self.transition)]
            _, code = shrunk_affine(source, transition, code, threshold)
            yield code.T


class TiLISTA(Unrolled):
    """TiLISTA and, with ``learned_weights=False``, ALISTA: (N, d) -> (m, d).

    Args:
        dictionary: P, (N, m), columns of unit norm.
        layers: K.
        sparsity: lambda of the ISTA that it is before training (ALISTA: but for its W).
        learned_weights: whether W, which begins as P, is trained; otherwise it is the analytic one.
        selected: share of a code's entries that each layer more lets pass unshrunk; 0: none.
        most_selected: the largest share.
    """

    def __init__(
        self, dictionary: Tensor, layers: int, sparsity: float, *, learned_weights: bool, selected: float = 0.0,
        most_selected: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(layers)
        self.register_buffer("dictionary", dictionary.clone())
        weight = dictionary.clone() if learned_weights else analytic.weights(dictionary)
        self.weight = nn.Parameter(weight, requires_grad=learned_weights)
        step = 1 / float(torch.linalg.matrix_norm(weight.T @ dictionary, ord=2))
        self.log_step = nn.Parameter(torch.full((layers,), math.log(step), dtype=dictionary.dtype))
        self.log_threshold = nn.Parameter(torch.full((layers,), math.log(sparsity * step), dtype=dictionary.dtype))
        size = dictionary.shape[1]
        self.selected = [round(min(selected * layer, most_selected) * size) for layer in range(1, layers + 1)]

    def codes(self, signals: Tensor) -> Iterator[Tensor]:
        """The code after each layer, (m, d), of signals (N, d)."""
        code: Tensor | None = None
        for step, threshold, selected in zip(self.log_step.exp(), self.log_threshold.exp(), self.selected, strict=True):
            if code is None:
                state = step * (self.weight.T @ signals)
            else:
                state = code + step * (self.weight.T @ (signals - self.dictionary @ code))
            code = soft_threshold(state, threshold)
            if selected:
                size = state.detach().abs()
                smallest = size.topk(selected, dim=0, sorted=False).values.amin(dim=0, keepdim=True)
                # An entry below the threshold is zero, however large it is among the others.
                code = torch.where(size >= torch.maximum(smallest, threshold.detach()), state, code)
            yield code


#: The networks of the experiments by name; arguments: dictionary, layers, sparsity, selected, most_selected.
NETWORKS = {
    "lista": lambda P, K, sparsity, selected, most: LISTA(P, K, sparsity),
    "lista_untied": lambda P, K, sparsity, selected, most: LISTA(P, K, sparsity, tied=False),
    "tilista": lambda P, K, sparsity, selected, most: TiLISTA(
        P, K, sparsity, learned_weights=True, selected=selected, most_selected=most
    ),
    "alista": lambda P, K, sparsity, selected, most: TiLISTA(
        P, K, sparsity, learned_weights=False, selected=selected, most_selected=most
    ),
}
