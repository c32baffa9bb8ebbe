"""DeepAugment's distortions: what is done to weights and features of an image-to-image network.

The list is the release's. A distortion of weights changes a state dict in place: it puts new tensors in the place of
those that it changes, and never writes into one. Weights are (out, in, k, k).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from papers.imagenet_r.draws import Draws

State = dict[str, Tensor]
#: Of a state dict, given the layers (names without ``.weight``) that may be chosen.
Distortion = Callable[[State, Sequence[str], Draws], None]
#: Of features (B, C, H, W).
FeatureDistortion = Callable[[Tensor, Draws], Tensor]

LAPLACIAN_4 = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
LAPLACIAN_8 = ((-1.0, -1.0, -1.0), (-1.0, 8.0, -1.0), (-1.0, -1.0, -1.0))


# Of weights, whatever the network.


def negated_gelu(weight: Tensor) -> Tensor:
    """-GELU, which keeps negative weights small and turns positive ones."""
    return -F.gelu(weight)


def scaled(weight: Tensor, draws: Draws, most: float) -> Tensor:
    """Each weight times a factor between 1 and 1 + ``most``, drawn for the tensor and within it."""
    strength = draws.uniform()
    return weight * (1 + most * strength * draws.uniforms(weight.shape).to(weight))


def masked(weight: Tensor, draws: Draws) -> Tensor:
    """Half of the weights zero."""
    return weight * draws.uniforms(weight.shape).round().to(weight)


def signed(weight: Tensor, draws: Draws) -> Tensor:
    """Half of the weights negated."""
    return weight * (2 * draws.uniforms(weight.shape).round() - 1).to(weight)


def largest_tap(weight: Tensor) -> Tensor:
    """Of each kernel the largest weight alone."""
    flat = weight.flatten(2)
    value, place = flat.max(dim=2, keepdim=True)
    return torch.zeros_like(flat).scatter(2, place, value).view_as(weight)


def filters(state: State, layer: str, rows: Sequence[int], change: Callable[[Tensor], Tensor], *, bias: bool) -> None:
    """Change rows of the weight (filters of a convolution), each as often as it is named, and of the bias."""
    for name in (f"{layer}.weight", f"{layer}.bias") if bias else (f"{layer}.weight",):
        changed = state[name].clone()
        for row in rows:
            changed[row] = change(changed[row])
        state[name] = changed


# The release's list for the autoencoder; ``layers`` are some of the middle ones.


def _flip_filters(state: State, layers: Sequence[str], draws: Draws) -> None:
    # The release chooses a second layer whose bias it calls by its weight's name: flipped twice, that one stays.
    layer = draws.choice(layers)
    for kind in ("weight", "bias"):
        state[f"{layer}.{kind}"] = state[f"{layer}.{kind}"].flip(0)


def _negate_filters(state: State, layers: Sequence[str], draws: Draws) -> None:
    _some_filters(state, layers, draws, 12, torch.neg)


def _zero_filters(state: State, layers: Sequence[str], draws: Draws) -> None:
    _some_filters(state, layers, draws, 25, lambda row: 0 * row)


def _gelu_filters(state: State, layers: Sequence[str], draws: Draws) -> None:
    _some_filters(state, layers, draws, 25, negated_gelu)


def _some_filters(
    state: State, layers: Sequence[str], draws: Draws, count: int, change: Callable[[Tensor], Tensor]
) -> None:
    layer = draws.choice(layers)
    # A bias has as many entries as there are filters, which of a transposed convolution is the second axis: the rows
    # that are drawn are those of the first, as in the release.
    rows = range(len(state[f"{layer}.weight"]))
    filters(state, layer, [draws.choice(rows) for _ in range(count)], change, bias=True)


def _scale_two(state: State, layers: Sequence[str], draws: Draws) -> None:
    for layer in (draws.choice(layers), draws.choice(layers)):
        state[f"{layer}.weight"] = scaled(state[f"{layer}.weight"], draws, 8.0)


def _mask_or_sign(state: State, layers: Sequence[str], draws: Draws) -> None:
    layer = draws.choice(layers)
    change = masked if draws.uniform() < 0.5 else signed
    state[f"{layer}.weight"] = change(state[f"{layer}.weight"], draws)


def _rotate(state: State, layers: Sequence[str], draws: Draws) -> None:
    layer = draws.choice(layers)
    state[f"{layer}.weight"] = torch.rot90(state[f"{layer}.weight"], draws.integer(1, 3), (2, 3))


def _negate_fifth(state: State, layers: Sequence[str], draws: Draws) -> None:
    layer = draws.choice(layers)
    rows = range(len(state[f"{layer}.weight"]))
    filters(state, layer, sorted({draws.choice(rows) for _ in range(len(rows) // 5)}), torch.neg, bias=False)


def _largest_taps(state: State, layers: Sequence[str], draws: Draws) -> None:
    layer = draws.choice(layers)
    state[f"{layer}.weight"] = largest_tap(state[f"{layer}.weight"])


#: In the order of the release's options; the last one is written there but never drawn.
OF_CAE: tuple[Distortion, ...] = (
    _flip_filters, _negate_filters, _zero_filters, _gelu_filters, _scale_two, _mask_or_sign, _rotate, _negate_fifth,
    _largest_taps,
)  # fmt: skip
DRAWN_OF_CAE = 8
#: The autoencoder's convolutions in order, and which of them an option may choose (the middle ones).
CAE_LAYERS = (
    "e_conv_1.1", "e_conv_2.1", "e_block_1.1", "e_block_1.4", "e_block_2.1", "e_block_2.4", "e_block_3.1",
    "e_block_3.4", "e_conv_3.0", "d_up_conv_1.0", "d_up_conv_1.3", "d_block_1.1", "d_block_1.4", "d_block_2.1",
    "d_block_2.4", "d_block_3.1", "d_block_3.4", "d_up_conv_2.0", "d_up_conv_2.3", "d_up_conv_3.0", "d_up_conv_3.3",
)  # fmt: skip


def cae_layers(option: int) -> tuple[str, ...]:
    """The layers that an option of `OF_CAE` chooses from."""
    first, end = {0: (11, 16), 3: (10, 14)}.get(option, (8, 14))
    return CAE_LAYERS[first:end]


# The release's list for EDSR: ``layers`` are ignored, since each option names its blocks.


def _conv(block: int, place: int) -> str:
    return f"body.{block}.body.{place}"


def _edsr(weight: Callable[[State, Draws], None]) -> Distortion:
    return lambda state, layers, draws: weight(state, draws)


def _flip_both(state: State, draws: Draws) -> None:
    block = draws.choice((0, 3, 6, 9))
    for place in (0, 2):
        for kind in ("weight", "bias"):
            name = f"{_conv(block, place)}.{kind}"
            state[name] = state[name].flip(0)


def _negate_first(state: State, draws: Draws) -> None:
    block = draws.choice((1, 4, 7))
    for kind in ("weight", "bias"):
        state[f"{_conv(block, 0)}.{kind}"] = -state[f"{_conv(block, 0)}.{kind}"]


def _zero_first(state: State, draws: Draws) -> None:
    block = draws.choice((0, 3, 6, 9))
    for kind in ("weight", "bias"):
        state[f"{_conv(block, 0)}.{kind}"] = 0 * state[f"{_conv(block, 0)}.{kind}"]


def _gelu_both(state: State, draws: Draws) -> None:
    block = draws.choice((0, 3, 6, 9))
    for place in (0, 2):
        state[f"{_conv(block, place)}.weight"] = negated_gelu(state[f"{_conv(block, place)}.weight"])


def _stencil(stencil: Sequence[Sequence[float]]) -> Callable[[State, Draws], None]:
    def change(state: State, draws: Draws) -> None:
        name = f"{_conv(draws.choice((0, 3, 6, 9)), 0)}.weight"
        state[name] = state[name] * torch.tensor(stencil).to(state[name])

    return change


def _scale_second(state: State, draws: Draws) -> None:
    name = f"{_conv(draws.choice((0, 3, 6, 9)), 2)}.weight"
    state[name] = scaled(state[name], draws, 4.0)


def _mirror_and_negate(state: State, draws: Draws) -> None:
    block = draws.choice((0, 3, 6, 9))
    first, second = f"{_conv(block, 0)}.weight", f"{_conv(block, 2)}.weight"
    state[first], state[second] = state[first].flip(3), -state[second]


def _convolve_with_taps(state: State, draws: Draws) -> None:
    name = f"{_conv(draws.choice((1, 5, 9)), 0)}.weight"
    kernels = torch.zeros_like(state[name])
    for channel in range(len(kernels)):
        row, column = draws.place()
        kernels[:, channel, row, column] = draws.choice((1.0, -1.0))
    state[name] = F.conv2d(state[name], kernels, padding=1)


def _convolve_with_noise(state: State, draws: Draws) -> None:
    name = f"{_conv(draws.choice((0, 3, 6, 9)), 0)}.weight"
    noise = draws.uniforms(state[name].shape).to(state[name])
    kernels = (2 * noise * draws.uniform() - 1) / 6
    state[name] = F.conv2d(state[name], kernels, padding=1)


def _convolve_with_blur(state: State, draws: Draws) -> None:
    name = f"{_conv(draws.choice((1, 5, 9)), 2)}.weight"
    channels = len(state[name])
    kernels = draws.dirichlet(9, (channels, channels)).view(channels, channels, 3, 3).to(state[name])
    state[name] = F.conv2d(state[name], kernels, padding=1)


def _add_noise(state: State, draws: Draws) -> None:
    name = f"{_conv(draws.choice(range(15)), 2)}.weight"
    state[name] = state[name] + (draws.uniforms(state[name].shape).to(state[name]) - 0.5)


def _rotate_five(state: State, draws: Draws) -> None:
    chosen = [(draws.choice(range(15)), draws.choice((0, 2))) for _ in range(5)]
    for block, place in chosen:
        turns = draws.integer(1, 3)
        axes = (2, 3) if draws.integer(0, 1) == 0 else (0, 1)
        name = f"{_conv(block, place)}.weight"
        state[name] = torch.rot90(state[name], turns, axes)


def _five_first(change: Callable[[Tensor, Draws], Tensor]) -> Callable[[State, Draws], None]:
    def five(state: State, draws: Draws) -> None:
        for block in [draws.choice(range(15)) for _ in range(5)]:
            name = f"{_conv(block, 0)}.weight"
            state[name] = change(state[name], draws)

    return five


def _negate_half_of_five(state: State, draws: Draws) -> None:
    for block in [draws.choice(range(15)) for _ in range(5)]:
        rows = range(len(state[f"{_conv(block, 0)}.weight"]))
        chosen = sorted({draws.choice(rows) for _ in range(len(rows) // 2)})
        filters(state, _conv(block, 0), chosen, torch.neg, bias=False)


def _largest_taps_of_five(state: State, draws: Draws) -> None:
    for block, place in [(draws.choice(range(15)), draws.choice((0, 2))) for _ in range(5)]:
        name = f"{_conv(block, place)}.weight"
        state[name] = largest_tap(state[name])


#: In the order of the release's options.
OF_EDSR: tuple[Distortion, ...] = tuple(
    _edsr(change)
    for change in (
        _flip_both, _negate_first, _zero_first, _gelu_both, _stencil(LAPLACIAN_4), _stencil(LAPLACIAN_8), _scale_second,
        _mirror_and_negate, _convolve_with_taps, _convolve_with_noise, _convolve_with_blur, _add_noise, _rotate_five,
        _five_first(signed), _five_first(masked), _negate_half_of_five, _largest_taps_of_five,
    )
)  # fmt: skip
#: How many options of EDSR are applied one after another.
EDSR_OPTIONS = 3


# Of EDSR's features.


def copy_channels(x: Tensor, draws: Draws) -> Tensor:
    """Five times a channel takes the place of another one (written as an exchange in the release)."""
    x = x.clone()
    for _ in range(5):
        first, second = draws.integer(0, x.shape[1] - 1), draws.integer(0, x.shape[1] - 1)
        x[:, first] = x[:, second].clone()
    return x


def drop(x: Tensor, draws: Draws) -> Tensor:
    """One in twenty features zero."""
    return x * (draws.uniforms(x.shape) + 0.45).round().to(x)


def flip_signs(x: Tensor, draws: Draws) -> Tensor:
    """One in forty features negated."""
    return x * (2 * (draws.uniforms(x.shape) + 0.475).round() - 1).to(x)


#: Options 1 to 3 of the release; 4 is none.
EDSR_FEATURES: tuple[FeatureDistortion, ...] = (copy_channels, drop, flip_signs)

#: The block after which the body's distortions act.
_AFTER = 5


def negate_body(body: nn.Sequential, x: Tensor, draws: Draws) -> Tensor:
    """Features negated after five blocks."""
    return body[_AFTER:](-body[:_AFTER](x))


def bend_body(body: nn.Sequential, x: Tensor, draws: Draws) -> Tensor:
    """ReLU, one time in three, or GELU after five blocks."""
    bend = F.relu if draws.integer(0, 2) == 1 else F.gelu
    return body[_AFTER:](bend(body[:_AFTER](x)))


def flip_body(body: nn.Sequential, x: Tensor, draws: Draws) -> Tensor:
    """Channels, and rows (one time in three) or columns, in reverse order after five blocks."""
    axes = (1, 2) if draws.integer(0, 2) == 1 else (1, 3)
    return body[_AFTER:](body[:_AFTER](x).flip(axes))


def skip_body(body: nn.Sequential, x: Tensor, draws: Draws) -> Tensor:
    """The last layer that is not among three skipped ones, alone.

    As released: every layer is given the head's features, so that the last one's result is all that remains.
    """
    skipped = {draws.integer(2, 16) for _ in range(3)}
    last = max(number for number in range(len(body)) if number not in skipped)
    return body[last](x)


#: Options 1 to 4 of the release; 5 is none.
EDSR_BODY = (negate_body, bend_body, flip_body, skip_body)


# Of the autoencoder's code, (B, C, H, W) in [-1, 1]. Option 0 of the release acts on bits: `enlarge_bits`.


def enlarge_bits(bits: Tensor, draws: Draws) -> Tensor:
    """Bits times factors between 3 and 7."""
    strength = draws.uniform()
    return bits * (3 + 4 * strength * draws.uniforms(bits.shape).to(bits))


def drop_places(code: Tensor, draws: Draws) -> Tensor:
    """One place in five zero, in all channels."""
    return code * (draws.uniforms(code.shape[2:]) > 0.2).to(code)


def negate_places(code: Tensor, draws: Draws) -> Tensor:
    """One place in ten negated, in all channels."""
    return code * (2 * (draws.uniforms(code.shape[2:]) > 0.1).to(code) - 1)


def permute_channels(code: Tensor, draws: Draws) -> Tensor:
    """The first ten channels in random order."""
    return torch.cat([code[:, draws.permutation(10)], code[:, 10:]], dim=1)


def flip_channels(code: Tensor, draws: Draws) -> Tensor:
    """Five times a channel is flipped along rows, columns or both, see `_flipped_axes`."""
    axes = _flipped_axes(draws)
    code = code.clone()
    for _ in range(5):
        channel = draws.choice(range(code.shape[1]))
        code[:, channel] = code[:, channel].flip([axis - 1 for axis in axes])
    return code


def flip_code(code: Tensor, draws: Draws) -> Tensor:
    """All channels flipped along rows, columns or both, see `_flipped_axes`."""
    return code.flip(_flipped_axes(draws))


def _flipped_axes(draws: Draws) -> list[int]:
    """Axes of (B, C, H, W) along which to flip: two of images, rows, columns, but never images.

    The release passes one image at a time, so that flipping along the images does nothing; others must not change it.
    """
    return [axis + 1 for axis in draws.permutation(3)[:2] if axis > 0]


def mix_channels(code: Tensor, draws: Draws) -> Tensor:
    """A convolution that is the identity plus noise of up to 0.1."""
    kernels = _identity(code)
    return F.conv2d(code, kernels + 0.2 * (draws.uniforms(kernels.shape).to(code) - 0.5), padding=1)


def add_channels(code: Tensor, draws: Draws) -> Tensor:
    """To every second channel another one is added, moved by a place."""
    kernels, count = _identity(code), code.shape[1]
    for channel in range(count):
        if draws.uniform() < 0.5:
            other = draws.integer(0, count - 1)
            row, column = draws.integer(-1, 1), draws.integer(-1, 1)
            kernels[channel, other, row, column] = 1
    return F.conv2d(code, kernels, padding=1)


def move_channels(code: Tensor, draws: Draws) -> Tensor:
    """Channels moved by a place, every fifth into a new direction."""
    count = code.shape[1]
    kernels = torch.zeros(count, count, 3, 3).to(code)
    row, column = draws.place()
    for channel in range(count):
        if draws.uniform() < 0.2:
            row, column = draws.place()
        kernels[channel, channel, row, column] = 1
    return F.conv2d(code, kernels, padding=1)


def _identity(code: Tensor) -> Tensor:
    kernels = torch.zeros(code.shape[1], code.shape[1], 3, 3).to(code)
    kernels[range(code.shape[1]), range(code.shape[1]), 1, 1] = 1
    return kernels


#: Options 1 to 8 of the release.
CAE_CODE: tuple[FeatureDistortion, ...] = (
    drop_places, negate_places, permute_channels, flip_channels, flip_code, mix_channels, add_channels, move_channels
)  # fmt: skip
