"""MixMIM: parity with the release, the mask and its loss, separation of the two images, stages of training."""

from __future__ import annotations

import timm
import torch

from common.checkpoints import load_released
from papers.mixmim.method import mask_of, reconstruction_loss
from tests.parity import Fixture, check_gradients, check_model, distance, images


def test_the_classifier_matches_the_release() -> None:
    check_model("mixmim", "mixmim_base")


def test_pretraining_matches_the_release() -> None:
    fixture = Fixture.load("mixmim", "mixmim_base_pretrain")
    model = timm.create_model("mixmim_base_pretrain")
    assert sum(p.numel() for p in model.parameters()) == fixture.about["params"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == fixture.about["params_trainable"]
    load_released(model, fixture.state())
    x = images(2, 3, 224, 224)
    noise = torch.from_numpy(fixture.arrays["noise"]).view(7, 7)
    mask = mask_of(noise, 0.5)
    assert torch.equal(mask.flatten(), torch.from_numpy(fixture.arrays["mask"]).flatten().bool())
    latent = model.encode(x, mask)
    assert distance(latent[:, ::4], fixture.arrays["latent"]) < 1e-4
    reconstructed = model.decode(latent, mask)
    assert distance(reconstructed[:, ::4, ::32], fixture.arrays["reconstruction_every16"]) < 1e-4
    raw = reconstruction_loss(x, reconstructed, mask, 32, normalise=False)
    assert distance(raw.view(1), fixture.arrays["loss_raw_pixels"].reshape(1)) < 1e-4
    loss = reconstruction_loss(x, reconstructed, mask, 32)
    assert distance(loss.view(1), fixture.arrays["loss"].reshape(1)) < 1e-4
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    check_gradients(norms, fixture)
