"""A small RaftMLP for the bench, of the cost of its MLP-Mixer."""

from __future__ import annotations

from typing import Any

from torch import nn

from common.bench import hosts
from papers.raftmlp.model import RaftMLP

#: Hidden width of MLPs over rafts. With it all rafts cost what the host's MLP of as many hidden tokens as it has
#: channels costs: 2 lines x 2 layers x 7 tokens x 24 = 2 layers x 49 tokens x 48 / 7 tokens.
HIDDEN = 24
SIDE = hosts.SIDE // hosts.PATCH  # tokens


def stem(in_chans: int, dim: int) -> nn.Module:
    """The stem of the bench's hosts, as a map (B, H / 4, W / 4, C)."""
    return hosts.Stem(hosts.SIDE, hosts.PATCH, in_chans, dim, output_fmt="NHWC")


def raftmlp_mini(raft: int = 2, **changes: Any) -> RaftMLP:
    """A RaftMLP of mixer_mini's depth, width, stem and multiply-adds, started alike.

    Args:
        raft: channels of a raft.
        changes: arguments of :class:`RaftMLP` that differ.
    """
    settings: dict[str, Any] = {
        "img_size": hosts.SIDE,
        "num_classes": hosts.CLASSES,
        "dims": (48,),
        "depths": (3,),
        "patches": (hosts.PATCH,),
        "token_ratio": HIDDEN / (raft * SIDE),
        "channel_ratio": 2.0,
        "stem": stem,
    }
    model = RaftMLP(**{**settings, "raft": raft, **changes})
    hosts.initialise(model)
    return model
