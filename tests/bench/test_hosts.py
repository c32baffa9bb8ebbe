"""The hosts: shapes, the start of residual branches, other sizes, changes by arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.bench import hosts
from common.bench.hosts import PooledAttention

NAMES = ("vit_mini", "resnet_mini", "mixer_mini", "pyramid_mini")


@pytest.mark.parametrize("name", NAMES)
def test_a_host_classifies_and_every_parameter_gets_a_gradient_once_branches_are_open(name: str) -> None:
    torch.manual_seed(0)
    model = getattr(hosts, name)()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    logits = model(torch.randn(4, 3, 28, 28))
    assert logits.shape == (4, 10)
    logits.square().sum().backward()
    assert not [key for key, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]


def test_residual_branches_start_at_zero_but_for_what_fills_the_class_token() -> None:
    mixer, tokens = hosts.mixer_mini(), torch.randn(2, 49, 48)
    assert torch.equal(mixer.blocks(tokens), tokens)
    block, tokens = hosts.vit_mini().blocks[0], torch.randn(2, 50, 48)
    assert torch.equal(block.mlp(tokens), torch.zeros_like(tokens))
    assert block.attn(tokens).abs().max() > 0


def test_a_paper_can_put_its_attention_into_every_block() -> None:
    class Mean(nn.Module):
        def __init__(self, dim: int, heads: int) -> None:
            super().__init__()
            self.dim, self.heads = dim, heads

        def forward(self, x: torch.Tensor, **unused: object) -> torch.Tensor:
            return x.mean(dim=1, keepdim=True).expand_as(x)

    model = hosts.vit_mini(attention=Mean, embed_dim=24, num_heads=2)
    assert [(block.attn.dim, block.attn.heads) for block in model.blocks] == [(24, 2)] * 3
    assert model(torch.randn(1, 3, 28, 28)).shape == (1, 10)


def test_reduced_attention_looks_at_means_of_squares() -> None:
    torch.manual_seed(0)
    attention = PooledAttention(8, 2, reduction=2).eval()
    tokens = torch.randn(1, 16, 8)
    # Moving content within a 2x2 square of keys changes nothing but the queries of the tokens that moved.
    swapped = tokens[:, [1, 0, *range(2, 16)]]
    outputs, others = attention(tokens), attention(swapped)
    torch.testing.assert_close(outputs[:, 2:], others[:, 2:])
    torch.testing.assert_close(outputs[:, 0], others[:, 1])


@pytest.mark.parametrize("name", ["resnet_mini", "pyramid_mini"])
def test_hosts_without_position_tables_take_other_sizes(name: str) -> None:
    assert getattr(hosts, name)().eval()(torch.randn(1, 3, 40, 40)).shape == (1, 10)


def test_the_transformer_resizes_its_positions_where_asked() -> None:
    model = hosts.vit_mini(dynamic_img_size=True).eval()
    assert model(torch.randn(1, 3, 40, 40)).shape == (1, 10)
