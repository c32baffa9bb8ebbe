"""Random style transfer with released weights: StyleAug at full scale.

Jackson et al., "Style Augmentation: Data Augmentation via Style Randomization", CVPRW 2019, arXiv 1809.05375, on the
network of Ghiasi et al., arXiv 1705.06830: one network restyles an image, given an embedding of 100 numbers that scales
and shifts its normalised features; another one predicts the embedding of an image. A random style is a draw from the
normal distribution that embeddings of paintings have. Names of tensors are the released ones
(github.com/philipjackson/style-augmentation). Axes: B images, C channels, H x W pixels, all in [0, 1].
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.inception import BasicConv2d, InceptionA, InceptionB, InceptionC

from common.checkpoints import read
from common.errors import UserError

EMBEDDING = 100
#: Files of the release, and what is in each.
FILES = ("checkpoint_transformer.pth", "checkpoint_stylepredictor.pth", "checkpoint_embeddings.pth")


def _modulated(x: Tensor, style: Tensor, scale: nn.Linear, shift: nn.Linear) -> Tensor:
    """``x`` (B, C, H, W) normalised over places, and scaled and shifted by what ``style`` (B, 100) asks for."""
    return torch.addcmul(shift(style)[:, :, None, None], F.instance_norm(x), scale(style)[:, :, None, None])


class Down(nn.Module):
    """Convolution, instance norm, ReLU; no style."""

    def __init__(self, channels: int, out: int, size: int, stride: int) -> None:
        super().__init__()
        self.pad, self.conv = nn.ReflectionPad2d(size // 2), nn.Conv2d(channels, out, size, stride)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Apply the layer; ``style`` is not used."""
        return F.instance_norm(self.conv(self.pad(x))).relu()


class Residual(nn.Module):
    """Two convolutions with styles beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv1, self.conv2 = nn.Conv2d(channels, channels, 3), nn.Conv2d(channels, channels, 3)
        self.fc_beta1, self.fc_gamma1 = nn.Linear(EMBEDDING, channels), nn.Linear(EMBEDDING, channels)
        self.fc_beta2, self.fc_gamma2 = nn.Linear(EMBEDDING, channels), nn.Linear(EMBEDDING, channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Apply the block."""
        y = _modulated(self.conv1(self.pad(x)), style, self.fc_gamma1, self.fc_beta1).relu()
        return x + _modulated(self.conv2(self.pad(y)), style, self.fc_gamma2, self.fc_beta2)


class Up(nn.Module):
    """Resolution times ``factor``, a convolution with a style, and ReLU unless it is the last layer."""

    def __init__(self, channels: int, out: int, size: int, factor: int, *, last: bool = False) -> None:
        super().__init__()
        self.factor, self.last = factor, last
        self.pad, self.conv = nn.ReflectionPad2d(size // 2), nn.Conv2d(channels, out, size)
        self.fc_beta, self.fc_gamma = nn.Linear(EMBEDDING, out), nn.Linear(EMBEDDING, out)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Apply the layer."""
        if self.factor > 1:
            x = F.interpolate(x, scale_factor=self.factor, mode="nearest")
        x = _modulated(self.conv(self.pad(x)), style, self.fc_gamma, self.fc_beta)
        return x if self.last else x.relu()


class Transformer(nn.Module):
    """Images (B, 3, H, W) in [0, 1] and embeddings (B, 100) to restyled images; H and W are multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            (
                Down(3, 32, 9, 1), Down(32, 64, 3, 2), Down(64, 128, 3, 2), *(Residual(128) for _ in range(5)),
                Up(128, 64, 3, 2), Up(64, 32, 3, 2), Up(32, 3, 9, 1, last=True),
            )
        )  # fmt: skip

    def forward(self, images: Tensor, style: Tensor) -> Tensor:
        """Restyle images."""
        for layer in self.layers:
            images = layer(images, style)
        return images.sigmoid()


class Predictor(nn.Module):
    """Embeddings (B, 100) of images (B, 3, H, W) in [0, 1]: Inception v3 to its last 17x17 stage, and a linear layer.

    Args:
        released_blue: as released, blue is normalised with 0.255 and scaled back with 0.225; else as red and green.
    """

    def __init__(self, *, released_blue: bool = True) -> None:
        super().__init__()
        self.released_blue = released_blue
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, kernel_size=3)
        self.Mixed_5b, self.Mixed_5c = InceptionA(192, pool_features=32), InceptionA(256, pool_features=64)
        self.Mixed_5d, self.Mixed_6a = InceptionA(288, pool_features=64), InceptionB(288)
        self.Mixed_6b, self.Mixed_6c = InceptionC(768, channels_7x7=128), InceptionC(768, channels_7x7=160)
        self.Mixed_6d, self.Mixed_6e = InceptionC(768, channels_7x7=160), InceptionC(768, channels_7x7=192)
        self.fc = nn.Linear(768, EMBEDDING)

    def preprocessed(self, images: Tensor) -> Tensor:
        """Images as Inception takes them: 2 x - 1, but for the released blue."""
        scaled = 2 * images - 1
        if not self.released_blue:
            return scaled
        blue = (images[:, 2:] - 0.406) * (0.225 / (0.255 * 0.5)) + (0.406 - 0.5) / 0.5
        return torch.cat([scaled[:, :2], blue], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Predict embeddings."""
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(self.preprocessed(images)))
        x = F.max_pool2d(self.Conv2d_2b_3x3(x), 3, stride=2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        for block in (self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a):
            x = block(x)
        for block in (self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e):
            x = block(x)
        return self.fc(x.mean(dim=(2, 3)))


class StyleAugmentor(nn.Module):
    """Gives images random styles.

    Args:
        mean: of the embeddings of paintings, (100,).
        covariance: of them, (100, 100).
        batch_statistics: as released, the predictor normalises by the statistics of the batch; otherwise by its own.
    """

    mean: Tensor
    root: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor, *, batch_statistics: bool = False) -> None:
        super().__init__()
        self.transformer, self.predictor = Transformer(), Predictor()
        self.batch_statistics = batch_statistics
        vectors, values, _ = torch.linalg.svd(covariance.double())
        self.register_buffer("mean", mean.float().flatten(), persistent=False)
        self.register_buffer("root", (vectors * values.sqrt()).float(), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, folder: Path, *, batch_statistics: bool = False) -> StyleAugmentor:
        """From a folder with the release's three files, see `FILES`.

        Raises:
            UserError: a file is missing, unreadable, or has something else.
        """
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{folder} lacks {missing[0]}; StyleAug needs {', '.join(FILES)} of "
                "github.com/philipjackson/style-augmentation (styleaug/checkpoints)."
            )
        transformer, predictor, embeddings = (read(folder / name) for name in FILES)
        try:
            made = cls(
                embeddings["pbn_embedding_mean"],
                embeddings["pbn_embedding_covariance"],
                batch_statistics=batch_statistics,
            )
            made.transformer.load_state_dict(_known(transformer["state_dict_ghiasi"], made.transformer))
            made.predictor.load_state_dict(_known(predictor["state_dict_stylepredictor"], made.predictor))
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"The files in {folder} are not those of StyleAug's release: {reason}") from None
        return made.eval()

    def sample(self, normal: Tensor) -> Tensor:
        """Random embeddings, from standard normal draws (B, 100)."""
        return normal @ self.root.T + self.mean

    def forward(self, images: Tensor, embedding: Tensor, strength: float = 0.5) -> Tensor:
        """Restyle images (B, 3, H, W) in [0, 1].

        Args:
            images: to be restyled.
            embedding: (B, 100), of the new style.
            strength: 0 asks for the image's own style, 1 for the new one; between, embeddings are interpolated.
        """
        self.predictor.train(self.batch_statistics)
        return self.transformer(images, self.predictor(images).lerp(embedding, strength))


def _known(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Tensors that the network has; the release's files have others beside them, which its own loading leaves out."""
    own = network.state_dict()
    return {name: tensor for name, tensor in state.items() if name in own}
