"""OpenMMLab's own models, made small, train a step and predict with our operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

#: Number of classes in the inputs; below that of every configuration.
CLASSES = 5
#: Predictions an image at most.
MOST = 5


def narrow(settings: Any) -> None:
    """Make every layer beside the backbone 32 channels wide."""
    if isinstance(settings, list):
        for item in settings:
            narrow(item)
    elif isinstance(settings, dict):
        for name, value in settings.items():
            if "channels" in name and isinstance(value, int) and value > 32:
                settings[name] = 32
            elif "channels" not in name:
                narrow(value)


def build(name: str) -> BaseModel:
    """Build a model of OpenMMLab's configurations, with a narrow ResNet-50 and fresh weights."""
    torch.manual_seed(0)
    model = get_config(name).model
    backbone, widths = model.pop("backbone"), [32, 64, 128, 256]
    narrow(model)
    model.backbone = {**backbone, "depth": 50, "base_channels": 8, "init_cfg": None, "frozen_stages": -1}
    model.pop("pretrained", None)
    scope = name.split("::")[0]
    if scope == "mmdet":
        model.neck.in_channels = widths
        if "rcnn" in model.test_cfg:
            model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
            model.test_cfg.rpn.update(nms_pre=100, max_per_img=10)
            model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=MOST)
        else:
            model.test_cfg.max_per_img = MOST
    else:
        model.decode_head.in_channels, model.auxiliary_head.in_channels = widths, widths[2]
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model)


def losses_of_a_step(model: BaseModel, inputs: dict) -> dict[str, torch.Tensor]:
    """Take one step of gradient descent, and check that every loss is finite and parameters moved."""
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    losses = model.train().train_step(inputs, OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3)))
    assert all(value.isfinite() for value in losses.values())
    after = nn.utils.parameters_to_vector(model.parameters()).detach()
    assert after.isfinite().all()
    assert (before != after).any()
    return losses


DETECTORS = {
    "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py": {"loss_rpn_cls", "loss_bbox", "loss_mask"},
    "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py": {"loss_cls", "loss_bbox"},
}


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_trains_and_predicts(name: str) -> None:
    model = build(name)
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, size, generator=generator, dtype=torch.uint8) for size in ((3, 96, 64), (3, 64, 80))
    ]
    with_mask = bool(getattr(model, "with_mask", False))
    inputs = demo_mm_inputs(
        2, image_shapes=[image.shape for image in images], num_items=[3, 1], num_classes=CLASSES, with_mask=with_mask
    )
    inputs["inputs"] = images
    losses = losses_of_a_step(model, inputs)
    assert losses.keys() >= DETECTORS[name]
    with torch.no_grad():
        predictions = model.eval().test_step(inputs)
    assert len(predictions) == 2
    for predicted, image in zip(predictions, images, strict=True):
        found = predicted.pred_instances
        assert found.bboxes.shape == (len(found.scores), 4)
        assert len(found.scores) == MOST
        assert (found.scores[:-1] >= found.scores[1:]).all()
        assert (found.bboxes >= 0).all()
        assert (found.bboxes <= torch.tensor([image.shape[2], image.shape[1]] * 2)).all()
        if with_mask:
            assert found.masks.shape == (len(found.scores), *image.shape[1:])


def test_segmentor_trains_and_predicts() -> None:
    model = build("mmseg::upernet/upernet_r18_4xb4-80k_ade20k-512x512.py")
    for module in model.modules():  # one process: nothing to synchronise
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = nn.BatchNorm2d
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        labels = torch.randint(0, CLASSES, (1, 64, 64), generator=generator)
        sample = SegDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64), "pad_shape": (64, 64)})
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    images = [torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8) for _ in samples]
    inputs = {"inputs": images, "data_samples": samples}
    model.data_preprocessor.size = (64, 64)
    losses = losses_of_a_step(model, inputs)
    assert losses.keys() >= {"decode.loss_ce", "aux.loss_ce"}
    with torch.no_grad():
        predictions = model.eval().test_step({"inputs": images, "data_samples": samples})
    for predicted in predictions:
        assert predicted.pred_sem_seg.data.shape == (1, 64, 64)
        assert predicted.seg_logits.data.isfinite().all()
