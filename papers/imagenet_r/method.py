"""DeepAugment: images that passed a network whose weights and features are distorted.

Hendrycks et al., "The Many Faces of Robustness", ICCV 2021, arXiv 2006.16241. The networks are trained for other tasks
(super-resolution, compression); what comes out keeps what the image shows and looks different in ways that nobody wrote
down. Distorted copies of the training set are made once and trained on beside the set itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import functional_call
from torchvision.transforms.v2 import functional as TF

from papers.imagenet_r import distortions
from papers.imagenet_r.draws import Draws
from papers.imagenet_r.networks import CAE, EDSR

#: Images that pass the same distorted weights: the release draws them anew with a probability of 1/20 an image.
IMAGES_A_DRAW = 20
#: Side that an image's shorter one is resized to before it passes, in pixels.
SIDES = {"edsr": 128, "cae": 512}


class DeepAugment:
    """One of the two networks, with weights that are distorted anew now and then.

    Args:
        kind: ``edsr`` or ``cae``.
        state: its undistorted weights, under the released names.
    """

    def __init__(self, kind: str, state: Mapping[str, Tensor]) -> None:
        self.kind = kind
        self.network = {"edsr": EDSR, "cae": CAE}[kind]().eval().requires_grad_(False)
        self.network.load_state_dict(state)
        self.plain = dict(self.network.state_dict())
        self.weights = self.plain

    def renew(self, draws: Draws) -> None:
        """Distort the undistorted weights anew."""
        self.weights = dict(self.plain)
        if self.kind == "cae":
            option = draws.integer(0, distortions.DRAWN_OF_CAE - 1)
            distortions.OF_CAE[option](self.weights, distortions.cae_layers(option), draws)
            return
        for option in [draws.integer(0, len(distortions.OF_EDSR) - 1) for _ in range(distortions.EDSR_OPTIONS)]:
            distortions.OF_EDSR[option](self.weights, (), draws)

    def __call__(self, image: Tensor, draws: Draws) -> Tensor:
        """A distorted image, uint8, of the network's size, for one (3, H, W) uint8."""
        resized = TF.resize(image, [SIDES[self.kind]])[None].float()
        with torch.inference_mode():
            made = self._cae(resized / 255, draws) * 255 if self.kind == "cae" else self._edsr(resized, draws)
        return made[0].clamp(0, 255).to(torch.uint8)

    def _edsr(self, levels: Tensor, draws: Draws) -> Tensor:
        """(1, 3, H, W) from 0 to 255 to (1, 3, 4H, 4W); one option in four, or in five, is none."""
        features = draws.choice((*distortions.EDSR_FEATURES, None))
        body = draws.choice((*distortions.EDSR_BODY, None))
        changes = {
            "features": None if features is None else lambda x: features(x, draws),
            "body": None if body is None else lambda layers, x: body(layers, x, draws),
        }
        return functional_call(self.network, self.weights, (levels,), changes)

    def _cae(self, pixels: Tensor, draws: Draws) -> Tensor:
        """(1, 3, H, W) in [0, 1] to the same of [-1, 1]; the code is always distorted."""
        option = draws.integer(0, len(distortions.CAE_CODE))
        changes = (
            {"bits": lambda bits: distortions.enlarge_bits(bits, draws)}
            if option == 0
            else {"code": lambda code: distortions.CAE_CODE[option - 1](code, draws)}
        )
        return functional_call(self.network, self.weights, (pixels, draws), changes)
