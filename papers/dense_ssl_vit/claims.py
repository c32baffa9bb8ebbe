"""How the claims of dense pre-training are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import bench, figures
from common.bench import inference, scenes
from common.measurement import Finding, Picture, Result
from common.run import Run
from common.training.preparation import Preparation
from common.training.recipe import load_recipe
from papers.dense_ssl_vit.experiment import METRICS, encoder, measure, pretraining, scenes_with_classes
from papers.dense_ssl_vit.method import contrast_across_views
from papers.dense_ssl_vit.model import DenseViT

RECIPE = Path(__file__).with_name("recipe.toml")
DENSE, GLOBAL = "vit_mini.dense", "vit_mini.global"
DENSE_FEW, GLOBAL_FEW, UNTRAINED = f"{DENSE}_few", f"{GLOBAL}_few", "vit_mini.scenes_untrained"
#: Images of a group in the contenders with few of them.
FEW = 8
FEW_METRIC = "small_group_loss"
#: The largest relative difference that float32 explains.
ROUNDING = 1e-5

_measurements = partial(inference.measurements, dataset=scenes.DATASET, protocol=f"{bench.PROTOCOL}, {scenes.PROTOCOL}")


def contenders() -> list[bench.Contender]:
    """Pre-trained by the dense contrast and by the global one, among a batch and among few images; and not at all."""

    def pretrained(name: str, *changes: str) -> bench.Contender:
        return bench.Contender(name, encoder, pretraining, changes, RECIPE, scenes.training_data)

    few, whole = f"method.group={FEW}", "method.features=global"
    # Without a rate, training gives the random weights the batch statistics of the data and nothing else.
    still = ("learning_rate=0.0", "warmup_learning_rate=0.0", "min_learning_rate=0.0", "epoch_images=1280")
    return [
        pretrained(DENSE),
        pretrained(GLOBAL, whole),
        pretrained(DENSE_FEW, few),
        pretrained(GLOBAL_FEW, whole, few),
        bench.Contender(UNTRAINED, encoder, changes=still, data=scenes_with_classes),
    ]


def dense(run: Run) -> Iterator[Result]:
    """A linear layer on frozen features segments scenes and tells depth; pictures of features."""
    scores = _scores(run, DENSE, GLOBAL, UNTRAINED)
    yield from _measurements(scores, METRICS)
    yield from inference.findings(
        scores,
        f"{DENSE} > {GLOBAL}: frozen_miou",
        f"{DENSE} > {GLOBAL}: frozen_depth_rmse",
        f"{DENSE} > {UNTRAINED}: frozen_miou",
    )
    models = {one.name: bench.trained(run, one, run.seeds()[0]) for one in contenders()[:2]}
    yield features_picture(run, models)


def finetuning(run: Run) -> Iterator[Result]:
    """The whole network learns to segment, and to tell depth, from few labelled scenes."""
    scores = _scores(run, DENSE, GLOBAL, UNTRAINED)
    yield from inference.findings(
        scores,
        f"{DENSE} > {GLOBAL}: finetuned_miou",
        f"{DENSE} > {GLOBAL}: finetuned_depth_rmse",
        f"{DENSE} > {UNTRAINED}: finetuned_miou",
    )


def few_images(run: Run) -> Iterator[Result]:
    """What either contrast loses where an image is told from seven others instead of a batch's 127."""
    scores = _scores(run, DENSE, GLOBAL, DENSE_FEW, GLOBAL_FEW)
    yield from _measurements(scores, ("frozen_miou",))
    lost: dict[tuple[str, int], dict[str, np.ndarray]] = {
        (name, seed): {FEW_METRIC: scores.values[name, seed]["frozen_miou"] - scores.values[few, seed]["frozen_miou"]}
        for name, few in ((DENSE, DENSE_FEW), (GLOBAL, GLOBAL_FEW))
        for seed in scores.seeds
    }
    differences = bench.Scores(lost)
    yield from _measurements(differences, (FEW_METRIC,))
    yield from inference.findings(differences, f"{DENSE} > {GLOBAL}: {FEW_METRIC}")


def loss(run: Run) -> Iterator[Result]:
    """The contrast against its definition written out, and what it must not and must depend on."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    n, local, temperature = 6, 4, 0.3
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    anchors, features = draw(2 * n, 8), draw(2 * n, local, 8)
    value, order = contrast(anchors, features, temperature), torch.randperm(local, generator=generator)
    checks = {
        "definition": (
            "is the mean over views and features, term by term",
            value,
            written_out(anchors, features, temperature),
        ),
        "places": (
            "does not depend on where in a view a feature is",
            value,
            contrast(anchors, features[:, order], temperature),
        ),
        "views": (
            "does not depend on which view is the first",
            value,
            contrast(anchors.roll(n, 0), features.roll(n, 0), temperature),
        ),
        "repetition": (
            "with one feature in N places is the usual one with every negative counted N times",
            contrast(anchors, features[:, :1].expand(-1, local, -1), temperature),
            repeated(anchors, features[:, :1], local, temperature),
        ),
    }
    for name, (statement, own, other) in checks.items():
        error = abs(own - other) / abs(other)
        yield Finding.exactly(
            name=name,
            statement=f"The contrast {statement}.",
            holds=error < ROUNDING,
            evidence=f"The relative difference is {error:.1e} (bound {ROUNDING:g}).",
            value=error,
        )
    reached = negatives(anchors, features, temperature)
    yield Finding.exactly(
        name="negatives",
        statement="An anchor's negatives are all local features of the other images' other views, and no others.",
        holds=reached == ((n - 1) * local, local),
        evidence=(
            f"Of one anchor's loss {reached[0]} features are pushed away, (n - 1) x N being {(n - 1) * local}, and "
            f"{reached[1]} are drawn near, N being {local}."
        ),
        value=float(reached[0]),
    )


def contrast(anchors: Tensor, features: Tensor, temperature: float) -> float:
    """`contrast_across_views` as a number."""
    return float(contrast_across_views(anchors, features, temperature))


def written_out(anchors: Tensor, features: Tensor, temperature: float) -> float:
    """The definition, one term after the other."""
    count, terms = len(anchors) // 2, []
    a, f = F.normalize(anchors, dim=-1), F.normalize(features, dim=-1)
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        view = range(count, 2 * count) if partner >= count else range(count)
        others = sum(
            float((a[i] @ f[j, q] / temperature).exp()) for j in view if j != partner for q in range(f.shape[1])
        )
        for p in range(f.shape[1]):
            own = float((a[i] @ f[partner, p] / temperature).exp())
            terms.append(-np.log(own / (own + others)))
    return float(np.mean(terms))


def repeated(anchors: Tensor, features: Tensor, times: int, temperature: float) -> float:
    """InfoNCE with one feature a view, (2n, 1, D), whose negatives count ``times`` over."""
    count = len(anchors) // 2
    a, f = F.normalize(anchors, dim=-1), F.normalize(features[:, 0], dim=-1)
    terms = []
    for own, other in ((a[:count], f[count:]), (a[count:], f[:count])):
        scores = own @ other.T / temperature
        weights = torch.full_like(scores, float(times)).fill_diagonal_(1.0)
        terms.append((scores + weights.log()).logsumexp(dim=1) - scores.diagonal())
    return float(torch.cat(terms).mean())


def negatives(anchors: Tensor, features: Tensor, temperature: float) -> tuple[int, int]:
    """How many features the first anchor's terms push away, and how many they draw near."""
    count = len(anchors) // 2
    a = anchors.clone().requires_grad_()
    f = F.normalize(features, dim=-1).requires_grad_()
    # The part of the loss that the first anchor has: the loss depends on an anchor by its own terms alone.
    (by_anchor,) = torch.autograd.grad(contrast_across_views(a, f, temperature), a, create_graph=True)
    (reach,) = torch.autograd.grad((by_anchor[0] * torch.linspace(1, 2, a.shape[1]).to(a)).sum(), f)
    touched = reach.abs().amax(dim=2) > 0
    own = touched[count].sum()
    return int(touched.sum() - own), int(own)


def _named(*names: str) -> list[bench.Contender]:
    return [one for one in contenders() if one.name in names]


def _scores(run: Run, *names: str) -> bench.Scores:
    """Networks that are trained and measured once for all claims."""
    return bench.scores(run, _named(*names), measure)


def features_picture(run: Run, models: dict[str, nn.Module], shown: int = 6) -> Picture:
    """Scenes, and how alike each place's feature is to that of the place in the middle of the largest garment."""
    recipe = load_recipe(RECIPE, "embedded", quick=run.settings.quick)
    some = scenes.test_scenes(run.settings.quick)[slice(0, shown)]
    images = Preparation(recipe, next(next(iter(models.values())).parameters()).device).normalise(some.images)
    inside = (some.semantic == 1 + some.largest()[:, None, None]).float()
    place = F.avg_pool2d(inside, bench.hosts.PATCH).flatten(1).argmax(dim=1)
    rows = {"scene": some.images[:, 0].float() / 255, "largest garment": inside}
    for name, model in models.items():
        assert isinstance(model, DenseViT)
        with torch.inference_mode():
            tokens = F.normalize(model.forward_features(images)[:, 1:], dim=-1)
            alike = (tokens @ tokens[torch.arange(shown), place][:, :, None])[..., 0]
        rows[name] = alike.unflatten(1, (7, 7)).clamp(min=0)
    shown_rows = {label.replace("vit_mini.", ""): pictures.cpu() for label, pictures in rows.items()}
    svg = figures.pictures("features", shown_rows, width=1.0 * shown + 0.8, height=1.0 * len(rows), limits=(0, 1))
    return Picture(
        name="features",
        caption=(
            "Test scenes, the garment of most pixels, and the cosine of each place's feature with that of a place "
            "inside of the garment, after pre-training without labels."
        ),
        svg=svg,
    )
