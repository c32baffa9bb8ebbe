"""Our RVT with each attention beside the released VARS code, in one process, interleaved.

``./reproduce.sh bench released --code DIR``, where DIR is a checkout of github.com/bfshi/VARS, which needs einops.
Ratios are the released code's time over ours, medians and quartiles over rounds in which both ran.
"""

from __future__ import annotations

import argparse
import sys
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import papers  # noqa: F401  (registers the models)
from common.checkpoints import load_released
from common.errors import UserError
from common.profiling import compare_cost, forward, training_step

#: How our models begin with each attention of the release.
PREFIXES = {"self-att": "", "perf": "performer_", "vars_d": "vars_d_", "vars_sd": "vars_sd_", "vars_s": "vars_s_"}
HOSTS = ("rvt_tiny", "rvt_small", "rvt_base")


def released_code(folder: Path) -> tuple[dict[str, object], ModuleType]:
    """The release's settings and its module of models, imported from a checkout."""
    if not (folder / "robust_models.py").is_file():
        raise UserError(f"{folder} has no robust_models.py: give a checkout of github.com/bfshi/VARS with --code.")
    sys.path.insert(0, str(folder))
    # Where timm kept these when the code was released.
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function  # type: ignore[attr-defined]
    sys.modules.update({"timm.models.layers": timm.layers, "timm.models.registry": registry})
    try:
        import config
        import robust_models
    except ModuleNotFoundError as error:
        raise UserError(f"The released code needs {error.name}: pip install {error.name}.") from None
    return config.config, robust_models


def pair(host: str, attention: str, settings: dict[str, object], models: ModuleType) -> tuple[nn.Module, nn.Module]:
    """The release's model and ours with the same weights."""
    settings.update(attention=attention, lam=0.3, rand_feat_dim_ratio=2, num_step=5)  # as the release evaluates
    released = getattr(models, host)(False)
    weights = {k: v.clone() for k, v in released.state_dict().items()}
    return released, load_released(timm.create_model(PREFIXES[attention] + host), weights)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./reproduce.sh bench released", description=__doc__.splitlines()[0])
    parser.add_argument("--code", type=Path, required=True, help="checkout of github.com/bfshi/VARS")
    parser.add_argument("--attentions", nargs="*", choices=PREFIXES, default=tuple(PREFIXES))
    parser.add_argument("--host", choices=HOSTS, default=HOSTS[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    settings, models = released_code(args.code)
    images = torch.randn(args.batch, 3, 224, 224, device=args.device)
    table = Table("attention", "task", "released ms", "ours ms", "released / ours", "of peak memory")
    for attention in args.attentions:
        released, ours = (model.to(args.device) for model in pair(args.host, attention, settings, models))
        for task in (forward, training_step):
            calls = {"released": task(released, images), "ours": task(ours, images)}
            doing = f"{attention}, {task.__name__}"
            found = compare_cost(calls, baseline="ours", device=args.device, rounds=args.rounds, description=doing)
            milliseconds = [f"{1e3 * found[name].cost.seconds.median:.1f}" for name in calls]
            theirs = found["released"]
            memory = "" if theirs.memory_ratio is None else f"{theirs.memory_ratio:.2f}"
            table.add_row(attention, task.__name__.replace("_", " "), *milliseconds, str(theirs.time_ratio), memory)
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
