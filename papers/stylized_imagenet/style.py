"""Style transfer by AdaIN with the released encoder and decoder, as Stylized-ImageNet was made.

Huang and Belongie, ICCV 2017, arXiv 1703.06868, section 6: the encoder is VGG-19 up to relu4_1, the decoder its mirror
image without pooling; all convolutions are padded by reflection. Images are (B, 3, H, W) in [0, 1], and not normalised:
the encoder's first layer does that. H and W are multiples of 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from common.checkpoints import read
from common.errors import UserError
from common.style_transfer import adain

#: Output channels of the encoder's convolutions after the first one of 1x1; 0 is pooling.
ENCODER = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512)
#: Output channels of the decoder's convolutions; 0 is doubling the resolution.
DECODER = (256, 0, 256, 256, 256, 128, 0, 128, 64, 0, 64, 3)


def encoder() -> nn.Sequential:
    """Images (B, 3, H, W) to features (B, 512, H/8, W/8); layers are numbered as in the released file."""
    return nn.Sequential(nn.Conv2d(3, 3, 1), *_layers(3, ENCODER, lambda: nn.MaxPool2d(2, ceil_mode=True)))


def decoder() -> nn.Sequential:
    """Features (B, 512, h, w) to images (B, 3, 8 h, 8 w); layers are numbered as in the released file."""
    layers = _layers(512, DECODER, lambda: nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(*layers[:-1])  # no ReLU after the last convolution


def _layers(channels: int, widths: Sequence[int], between: Callable[[], nn.Module]) -> list[nn.Module]:
    made: list[nn.Module] = []
    for width in widths:
        if width == 0:
            made.append(between())
            continue
        made += [nn.ReflectionPad2d(1), nn.Conv2d(channels, width, 3), nn.ReLU()]
        channels = width
    return made


class StyleTransfer(nn.Module):
    """Gives images the style of others.

    Args:
        encoder_file, decoder_file: released weights, ``vgg_normalised.pth`` and ``decoder.pth`` of pytorch-AdaIN.

    Raises:
        UserError: a file is missing or has other weights.
    """

    def __init__(self, encoder_file: Path, decoder_file: Path) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(), decoder()
        _load(self.encoder, encoder_file, "the encoder vgg_normalised.pth")
        _load(self.decoder, decoder_file, "the decoder decoder.pth")
        self.eval().requires_grad_(False)

    def forward(self, content: Tensor, style: Tensor, strength: float = 1.0) -> Tensor:
        """Restyled images (B, 3, H, W), in [0, 1].

        Args:
            content: (B, 3, H, W) in [0, 1].
            style: (B, 3, h, w) in [0, 1].
            strength: the release's alpha: 0 keeps the content's features, 1 gives them the style's moments.
        """
        features = adain(self.encoder(content), self.encoder(style), strength)
        return self.decoder(features).clamp(0, 1)


def _load(network: nn.Sequential, file: Path, what: str) -> None:
    """Load weights whose layers beyond the network's own are left out, as those of VGG-19 above relu4_1 are.

    Raises:
        UserError: names or shapes of the network's own are not there.
    """
    content = read(file)
    state: Mapping[str, Tensor] = content.get("state_dict", content)
    own = network.state_dict()
    shapes = {name: getattr(state.get(name), "shape", None) for name in own}
    wrong = [name for name, tensor in own.items() if shapes[name] != tensor.shape]
    if wrong:
        raise UserError(
            f"{file} is not {what} of github.com/naoto0804/pytorch-AdaIN: {wrong[0]} is missing or has another shape."
        )
    network.load_state_dict({name: state[name] for name in own})
