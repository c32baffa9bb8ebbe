"""How PyramidAT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from common import bench, figures
from common.measurement import Finding, Picture, Result
from common.robustness.attacks import Pgd
from common.run import Run
from papers.pyramid_at.masks import Masks
from papers.pyramid_at.method import PyramidAttack
from papers.pyramid_at.training import hooks

RECIPE = Path(__file__).with_name("recipe.toml")
HOST, PIXEL, PYRAMID = "vit_mini", "vit_mini+pixel_at", "vit_mini+pyramid_at"
MATCHED, UNMATCHED = f"{PYRAMID}.matched", f"{PYRAMID}.unmatched"
#: Rates of dropout and of the last block's stochastic depth, in the two that drop anything; full scale has 0.1.
DROPOUT, DROP_PATH = 0.02, 0.05


def contenders() -> list[bench.Contender]:
    """The host, that with each kind of adversarial training, and two that drop units and branches, at equal budget."""
    build = bench.hosts.vit_mini
    dropping, dropout = partial(build, drop_path_rate=DROP_PATH), f"method.dropout={DROPOUT}"
    return [
        bench.host(HOST),
        bench.Contender(PIXEL, build, hooks, ('method.cells="28"', 'method.multipliers="1"'), RECIPE),
        bench.Contender(PYRAMID, build, hooks, recipe=RECIPE),
        bench.Contender(MATCHED, dropping, hooks, (dropout,), RECIPE),
        bench.Contender(UNMATCHED, dropping, hooks, (dropout, "method.masks=unmatched"), RECIPE),
    ]


def adversarial_training(run: Run) -> Iterator[Result]:
    """Small transformers without adversarial training, with that of pixels and with that of pyramids."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores,
        f"{PYRAMID} > {HOST}: top1",
        f"{PYRAMID} > {HOST}: corruption_top1",
        f"{PYRAMID} > {PIXEL}: top1",
        f"{PYRAMID} > {PIXEL}: corruption_top1",
    )
    yield bench.difference_picture("adversarial_training", scores, HOST)
    yield _pyramid(bench.trained(run, contenders()[2], run.seeds()[0]), run)


def matched_regularisation(run: Run) -> Iterator[Result]:
    """PyramidAT with dropout and stochastic depth, on all images and on clean ones alone."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MATCHED} > {UNMATCHED}: top1", f"{MATCHED} > {UNMATCHED}: corruption_top1")


def identity(run: Run) -> Iterator[Result]:
    """The attack of one level beside PGD; what a clip after each level does."""
    torch.manual_seed(run.settings.seed)
    model = bench.hosts.vit_mini().double().eval()
    images = 0.2 + 0.6 * torch.rand(8, 3, 28, 28, dtype=torch.float64)  # so far from black and white that none is met
    aims = torch.randint(10, (8,))
    attack = PyramidAttack((28,), (1,))
    levels = attack(2 * images - 1, lambda x: nn.functional.cross_entropy(model((x + 1) / 2), aims))
    ours = (attack.apply(2 * images - 1, levels) + 1) / 2
    pgd = Pgd(epsilon=3 / 255, step=0.5 / 255, steps=5, targeted=True)(model, images, aims)
    difference = float((ours - pgd).abs().max())
    yield Finding.exactly(
        "pgd",
        "With a single level of pixels the attack is targeted PGD with half its step in [0, 1].",
        difference < 1e-9 < float((pgd - images).abs().max()),
        f"The largest difference of a pixel is {difference:.1e} (bound 1e-9), that to the image "
        f"{float((pgd - images).abs().max()) * 255:.2f}/255.",
        difference,
    )
    white, black = torch.full((1, 1, 4, 4), 0.9), torch.full((1, 1, 4, 4), -0.4)
    attack = PyramidAttack((1, 4), (20, 1))
    coarse, fine = torch.full((1, 1, 1, 1), 0.02), torch.full((1, 1, 4, 4), -0.02)
    found = [float(attack.apply(each, [coarse, fine])[0, 0, 0, 0]) for each in (white, black)]
    yield Finding.exactly(
        "clip_after_each_level",
        "What a coarse level adds beyond white is lost before the fine one comes.",
        abs(found[0] - 0.98) < 1e-6 and abs(found[1] + 0.02) < 1e-6,
        f"0.9 + 20 x 0.02 - 0.02 gives {found[0]:.2f}, and -0.4 + 20 x 0.02 - 0.02 gives {found[1]:.2f}.",
        found[0],
    )


def masks(run: Run) -> Iterator[Result]:
    """Logits of one batch in a clean and in an adversarial pass of training mode."""
    statements = {
        "matched": "Matched passes drop the same: a batch has the same logits in both, bit for bit",
        "released_depth": "As released, stochastic depth drops the same in both passes, bit for bit",
        "released": "As released, dropout of embedding and attention is drawn anew for adversarial images",
        "unmatched": "Unmatched, nothing is dropped for adversarial images",
    }
    for name, statement in statements.items():
        torch.manual_seed(run.settings.seed)
        rate = 0.0 if name == "released_depth" else 0.3
        model = bench.hosts.vit_mini(drop_path_rate=0.3, pos_drop_rate=rate, proj_drop_rate=rate).train()
        clean, adversarial, whole = _both_passes(model, name.partition("_")[0], run.settings.seed)
        difference = float((clean - adversarial).abs().max())
        dropped = not torch.equal(clean, whole)
        same = {"released": difference > 0, "unmatched": torch.equal(adversarial, whole)}.get(name, difference == 0)
        yield Finding.exactly(
            name,
            f"{statement}.",
            same and dropped,
            f"The largest difference of a logit is {difference:.1e}; from logits without dropping "
            f"{float((clean - whole).abs().max()):.1e} and {float((adversarial - whole).abs().max()):.1e}.",
            difference,
        )


@torch.no_grad()
def _both_passes(model: nn.Module, form: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a batch in a clean and an adversarial pass, and without dropping."""
    images, held = torch.rand(8, 3, 28, 28), Masks(model, form)
    held.seed = seed
    clean = model(images)
    torch.rand(100)  # an attack draws, too
    held.adversarial = True
    adversarial = model(images)
    held.close()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
    return clean, adversarial, model(images)


def _pyramid(model: nn.Module, run: Run) -> Picture:
    """Images, the levels of their perturbation, and what comes out."""
    count, attack = 4, PyramidAttack((4, 7, 28), (20, 10, 1))
    tests = bench.test_set(run.settings.quick)
    images = 2 * tests.clean[0, :count].float() / 255 - 1
    contender = contenders()[2]
    classifier = bench.normalised(model, contender.settings()).cpu()
    aims = (tests.labels[0, :count] + 1) % 10
    levels = attack(images, lambda x: nn.functional.cross_entropy(classifier((x + 1) / 2), aims))
    none = [torch.zeros_like(level) for level in levels]
    rows = {"image": images}
    for place, cells in enumerate(attack.cells):
        alone = [*none[:place], levels[place], *none[place + 1 :]]
        rows[f"{cells} x {cells} cells"] = attack.apply(torch.zeros_like(images), alone)
    rows["adversarial"] = attack.apply(images, levels)
    with figures.figure("pyramid", width=1.3 * len(rows), height=1.15 * count) as drawn:
        axes = drawn.subplots(count, len(rows), squeeze=False)
        for column, (title, shown) in enumerate(rows.items()):
            for row in range(count):
                axes[row, column].imshow(shown[row, 0].numpy(), cmap="gray", vmin=-1, vmax=1)
                axes[row, column].set_axis_off()
            axes[0, column].set_title(title)
        svg = figures.to_svg(drawn)
    return Picture(
        name="pyramid",
        caption="Test images, each level of the perturbation (times its multiplier) on grey, and adversarial images.",
        svg=svg,
    )
