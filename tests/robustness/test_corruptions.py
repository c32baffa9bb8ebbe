"""The corruptions against the original's recorded outputs, and what holds for any input."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.errors import UserError
from common.robustness.corruptions import (
    CORRUPTIONS,
    EXTRA,
    GROUPS,
    SEVERITIES,
    Corrupt,
    corrupt,
    filters,
    motion,
    relief,
    scale_for,
)
from common.robustness.corruptions.blur import _glass_sources
from common.robustness.corruptions.frost_textures import ORIGINAL_FILES
from tests.parity import DEVICES

FIXTURES = Path(__file__).parent / "fixtures" / "imagenet-c"
ALL = CORRUPTIONS + EXTRA
SETS = ("imagenet", "cifar10")
DETERMINISTIC = (
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "gaussian_blur",
    "saturate",
    "jpeg_compression_turbo",
)
RANDOM = ("elastic_transform", "motion_blur", "snow", "spatter", "fog", "frost", "glass_blur")
#: Draws recorded once per severity.
PER_SEVERITY = ("draw_elastic_affine", "draw_motion_angle", "draw_snow_angle", "draw_frost_ints")
WINDOWS = (slice(0, 40), slice(92, 132), slice(184, 224))


@cache
def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz") as file:
        return dict(file)


def photo(which: str, device: str = "cpu") -> torch.Tensor:
    return torch.from_numpy(fixture(f"{which}_deterministic")["input"]).permute(2, 0, 1)[None].to(device)


def as_recorded(images: torch.Tensor, which: str) -> np.ndarray:
    array = images[0].permute(1, 2, 0).cpu().numpy()
    return np.stack([array[part, part] for part in WINDOWS]) if which == "imagenet" else array


def within_one_level(ours: np.ndarray, recorded: np.ndarray) -> float:
    assert ours.shape == recorded.shape
    return float((np.abs(ours.astype(int) - recorded.astype(int)) <= 1).mean())


def recorded_draws(which: str, name: str, severity: int) -> dict[str, np.ndarray]:
    draws = {}
    for key, value in fixture(f"{which}_given_draws").items():
        if key.startswith("draw_") and not (key.startswith("draw_glass") and not key.endswith(str(severity))):
            draws[key] = value[severity - 1] if key in PER_SEVERITY else value
    return draws


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("which", SETS)
def test_deterministic_ones_equal_the_original(which: str, name: str, severity: int, device: str) -> None:
    ours = as_recorded(corrupt(photo(which, device), name.removesuffix("_turbo"), severity), which)
    assert within_one_level(ours, fixture(f"{which}_deterministic")[name][severity - 1]) > 0.999


@pytest.mark.parametrize("which", SETS)
def test_jpeg_differs_from_the_old_codec_as_the_new_one_does(which: str) -> None:
    for severity in SEVERITIES:
        ours = as_recorded(corrupt(photo(which), "jpeg_compression", severity), which).astype(int)
        old = fixture(f"{which}_deterministic")["jpeg_compression"][severity - 1].astype(int)
        assert 0 < np.abs(ours - old).mean() < 4.2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    ("which", "name"),
    [(which, name) for which in SETS for name in RANDOM]
    + [("cifar10", "gaussian_noise"), ("cifar10", "speckle_noise")],
)
def test_random_ones_equal_the_original_given_its_draws(which: str, name: str, severity: int, device: str) -> None:
    images = corrupt(photo(which, device), name, severity, draws=recorded_draws(which, name, severity))
    ours = as_recorded(images, which)
    assert within_one_level(ours, fixture(f"{which}_given_draws")[f"out_{name}"][severity - 1]) > 0.999


def statistics(images: torch.Tensor, clean: torch.Tensor) -> np.ndarray:
    """What ``*_random_stats`` records, one row per image."""
    size = clean.shape[-1]
    images, clean = images.double(), clean.double()
    difference = images - clean
    power = (torch.fft.fft2(difference).abs() / size**2).square().mean(1)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    ring = torch.from_numpy(np.minimum((frequency * 16).astype(int), 7)).to(images.device)
    rings = torch.stack([power[:, ring == index].sum(1) for index in range(8)], 1)
    deviations = images.std((2, 3), unbiased=False)
    return (
        torch.cat((images.mean((2, 3)), deviations, difference.square().mean((1, 2, 3))[:, None], rings), 1)
        .cpu()
        .numpy()
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize(
    "name",
    [
        *GROUPS["noise"],
        "speckle_noise",
        "glass_blur",
        "motion_blur",
        "snow",
        "fog",
        "frost",
        "elastic_transform",
        "spatter",
    ],
)
def test_random_ones_are_distributed_as_the_original(which: str, name: str, device: str) -> None:
    clean = photo(which, device)
    draws = 24 if which == "imagenet" else 64
    severities = (2, 5) if which == "imagenet" else SEVERITIES
    recorded = fixture(f"{which}_random_stats")
    for severity in severities:
        ours = statistics(corrupt(clean.expand(draws, -1, -1, -1), name, severity, seeds=range(draws)), clean)
        mean, spread = recorded[f"{name}_mean"][severity - 1], recorded[f"{name}_std"][severity - 1]
        # Five standard errors of the difference of two means, and what truncation to 8 bits adds.
        tolerance = 5 * np.sqrt(spread**2 / 32 + ours.var(0, ddof=1) / draws) + 2e-3 * np.abs(mean) + 0.02
        assert (np.abs(ours.mean(0) - mean) < tolerance).all(), (severity, ours.mean(0), mean)
        # Of so few draws another generator's may leave this one.
        near = np.abs(ours.mean(0) - mean) < spread + 2e-3 * np.abs(mean) + 0.02
        assert near.all() or device != "cpu", (severity, ours.mean(0), mean)
        assert (ours.std(0, ddof=1) < 2.5 * spread + 0.05).all(), (severity, ours.std(0, ddof=1), spread)
        assert (ours.std(0, ddof=1) > spread / 2.5 - 0.05).all(), (severity, ours.std(0, ddof=1), spread)


def test_every_recorded_difference_is_found() -> None:
    """The parity tests can fail: the neighbouring severity does not pass as the right one."""
    for name in DETERMINISTIC[:-1]:
        ours = as_recorded(corrupt(photo("imagenet"), name, 3), "imagenet")
        assert within_one_level(ours, fixture("imagenet_deterministic")[name][3]) < 0.99, name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ALL)
def test_result_does_not_depend_on_the_batch(name: str, device: str) -> None:
    images = smooth_images(9, 45, 33).to(device)
    together = corrupt(images, name, 3, seeds=range(9))
    alone = torch.cat([corrupt(images[i : i + 1], name, 3, seeds=[i]) for i in range(9)])
    halves = torch.cat((corrupt(images[:4], name, 3, seeds=range(4)), corrupt(images[4:], name, 3, seeds=range(4, 9))))
    assert torch.equal(together, alone)
    assert torch.equal(together, halves)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(28, 28), (65, 90)])
def test_severities_change_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    images = smooth_images(4, *size)
    errors = []
    for severity in SEVERITIES:
        result = corrupt(images, name, severity, seeds=range(4))
        assert result.shape == images.shape
        assert result.dtype == torch.uint8
        errors.append(float((result.float() - images.float()).abs().mean()))
    assert all(error > 0 for error in errors)
    if name not in ("glass_blur", "elastic_transform", "saturate", "jpeg_compression", "snow", "spatter"):
        assert errors[4] > errors[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_float_images_give_the_same_grey_levels(dtype: torch.dtype) -> None:
    images = smooth_images(2, 32, 32)
    for name in ("fog", "pixelate", "shot_noise"):
        levels = corrupt(images, name, 2, seeds=[1, 2])
        floats = corrupt((images.double() / 255).to(dtype), name, 2, seeds=[1, 2])
        assert floats.dtype == dtype
        assert torch.equal((floats.double() * 255).round(), levels.double())


@torch.inference_mode()
def test_images_of_any_mode_and_rounding() -> None:
    images = smooth_images(3, 40, 56) / 255  # an inference tensor
    with torch.inference_mode(False):
        trained = (images.clone() * (1 + 1e-6)).requires_grad_()  # a little above 1, as resizing leaves it
        expected = corrupt(trained, "fog", 3, seeds=[1, 2, 3])
    assert not expected.requires_grad
    assert (corrupt(images, "fog", 3, seeds=[1, 2, 3]) - expected).abs().max() <= 1 / 255 + 1e-6


def test_one_generator_gives_each_image_its_own_seed() -> None:
    images = smooth_images(1, 32, 32).expand(6, -1, -1, -1)
    first = corrupt(images, "gaussian_noise", 3, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    split = torch.cat(
        [
            corrupt(images[:2], "gaussian_noise", 3, generator=generator),
            corrupt(images[2:], "gaussian_noise", 3, generator=generator),
        ]
    )
    assert torch.equal(first, split)
    assert not torch.equal(first[0], first[1])
    torch.manual_seed(3)
    a = corrupt(images, "gaussian_noise", 3)
    torch.manual_seed(3)
    assert torch.equal(a, corrupt(images, "gaussian_noise", 3))
    assert not torch.equal(a, corrupt(images, "gaussian_noise", 3))


def test_threads_and_input_are_left_as_they_were() -> None:
    images = smooth_images(3, 224, 224)
    before, threads = images.clone(), torch.get_num_threads()
    for name in ALL:
        corrupt(images, name, 3, seeds=range(3))
    assert torch.equal(images, before)
    assert torch.get_num_threads() == threads


def test_glass_sources_follow_the_visits_one_by_one() -> None:
    reach, height, width = 2, 17, 21
    generator = torch.Generator().manual_seed(0)
    offsets = torch.randint(-reach, reach, (2, 3, height - 2 * reach, width - 2 * reach, 2), generator=generator).to(
        torch.int8
    )
    moves = offsets[..., 0].int() + offsets[..., 1].int() * width
    sources = _glass_sources(moves, height, width, reach).view(2, height, width)
    for image in range(2):
        pixels = np.arange(height * width).reshape(height, width)
        for step in offsets[image].tolist():
            for row, across in zip(range(height - reach, reach, -1), step, strict=True):
                for column, (dx, dy) in zip(range(width - reach, reach, -1), across, strict=True):
                    pixels[row, column] = pixels[row + dy, column + dx]
        assert np.array_equal(sources[image].numpy() - image * height * width, pixels)


@pytest.mark.parametrize("angle", [-135.0, -100.0, -45.0, 0.0, 12.5, 44.9])
@pytest.mark.parametrize("radius", [1, 6, 20])
def test_motion_blur_is_a_weighted_mean_along_a_line(radius: int, angle: float) -> None:
    images = torch.randint(256, (1, 3, 30, 50), generator=torch.Generator().manual_seed(2)).float()
    blurred = motion.motion(images, radius, 0.5 * radius, torch.tensor([angle]))
    weights = torch.exp(-(torch.arange(2 * radius + 1) ** 2) / (0.5 * radius**2))
    expected = torch.full_like(images, 0.002)
    for tap, weight in enumerate(weights / weights.sum()):
        slope = np.deg2rad(angle)
        down, right = int(np.ceil(tap * np.sin(slope) - 0.5)), int(np.ceil(tap * np.cos(slope) - 0.5))
        rows, columns = (torch.arange(30) + down).clamp(0, 29), (torch.arange(50) + right).clamp(0, 49)
        expected += weight * images[:, :, rows][..., columns]
    torch.testing.assert_close(blurred, expected, rtol=1e-5, atol=1e-3)


def test_motion_blur_is_the_same_on_a_cpu_and_elsewhere() -> None:
    images = torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(2))
    lines = [
        [motion.Tap(tap, 2 * tap, 0.5**tap) for tap in range(12)],
        [motion.Tap(-2 * tap, -tap, 0.5**tap) for tap in range(12)],
    ]
    ours, plain = torch.zeros_like(images), torch.zeros_like(images)
    for image, out, taps in zip(images, ours, lines, strict=True):
        motion._by_opencv(out, image, taps)
    motion._all_at_once(plain, images, lines)
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("mode", ["edge", "reflect", "reflect101"])
@pytest.mark.parametrize("sigma", [0.4, 2.0, 7.0])
def test_filters_are_the_same_on_a_cpu_and_elsewhere(sigma: float, mode: str) -> None:
    images, taps = torch.rand(2, 3, 9, 40, generator=torch.Generator().manual_seed(4)), filters.gaussian_taps(sigma)
    assert len(taps) > 1
    torch.testing.assert_close(
        filters._filter_by_opencv(images, taps, mode), filters._filter_by_maps(images, taps, mode)
    )


@pytest.mark.parametrize("size", [(8, 11), (40, 33), (224, 224)])
def test_water_is_the_same_on_a_cpu_and_elsewhere(size: tuple[int, int]) -> None:
    noise = 0.65 + 0.3 * torch.randn(4, *size, generator=torch.Generator().manual_seed(3))
    layer = filters.gaussian(noise, 2)
    levels = (255 * layer * (layer >= 0.68)).clamp(0, 255).floor()
    levels[3] = 7  # no edge at all
    assert torch.equal(relief._by_opencv(levels), relief._by_torch(levels))


def test_shot_noise_inverts_the_poisson_distribution() -> None:
    """Given u, the count is the smallest k with u < P(count <= k): exact at cell borders and in between."""
    import scipy.stats

    u = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(1))
    level = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    ours = corrupt(level, "shot_noise", 5, draws={"noise_uniform": u})[0].permute(1, 2, 0).numpy()
    rate = np.arange(256).reshape(16, 16, 1) / 255 * 50
    count = np.minimum(scipy.stats.poisson.ppf(u.numpy().astype(float), rate), 50)
    assert np.array_equal(ours, np.floor(count * 255 / 50 + 1e-4).astype(np.uint8))


def test_stored_as_jpeg_85() -> None:
    images = smooth_images(2, 64, 64)
    plain, stored = (corrupt(images, "contrast", 1, jpeg=jpeg) for jpeg in (False, True))
    import io

    for before, after in zip(plain, stored, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(before.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=85)
        assert np.array_equal(np.asarray(Image.open(buffer)), after.permute(1, 2, 0).numpy())


def test_parameters_follow_the_size_unless_chosen() -> None:
    assert scale_for(28, 28) == scale_for(64, 64) == "cifar"
    assert scale_for(64, 65) == "imagenet"
    images = smooth_images(1, 64, 64)
    assert torch.equal(corrupt(images, "contrast", 2), corrupt(images, "contrast", 2, scale="cifar"))
    assert not torch.equal(corrupt(images, "contrast", 2), corrupt(images, "contrast", 2, scale="imagenet"))


@pytest.mark.parametrize("size", [(8, 8), (9, 31)])
def test_smallest_images(size: tuple[int, int]) -> None:
    for name in ALL:
        for severity in SEVERITIES:
            assert corrupt(smooth_images(1, *size), name, severity, seeds=[0]).shape == (1, 3, *size)


def test_black_white_and_empty() -> None:
    flat = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    for name in ALL:
        result = corrupt(flat, name, 5, seeds=[0, 1])
        assert result.dtype == torch.uint8
        assert corrupt(flat[:0], name, 5).shape == (0, 3, 32, 32)
    assert corrupt(flat, "brightness", 5)[0].unique().tolist() == [76]
    assert corrupt(flat, "contrast", 5).flatten(1)[:, 0].tolist() == [0, 255]


def test_own_frost_pictures_are_used(tmp_path: Path) -> None:
    for index, file in enumerate(ORIGINAL_FILES):
        Image.new("RGB", (400, 300), (50 * index, 0, 0)).save(tmp_path / file)
    black = torch.zeros(40, 3, 32, 32, dtype=torch.uint8)
    reds = corrupt(black, "frost", 1, seeds=range(40), frost_photos=tmp_path)[:, 0, 0, 0].unique().tolist()
    assert reds == [0, 10, 20, 30, 40]
    (tmp_path / ORIGINAL_FILES[2]).write_bytes(b"no picture")
    other = tmp_path / "other"
    tmp_path.rename(tmp_path.with_name("moved"))
    with pytest.raises(UserError, match=r"frost1\.png cannot be read"):
        corrupt(black, "frost", 1, frost_photos=other)


def test_transform_takes_what_torchvision_passes_on() -> None:
    image = smooth_images(1, 40, 48)[0]
    transform = Corrupt("fog", 3)
    torch.manual_seed(0)
    tensor = transform(image)
    torch.manual_seed(0)
    sample = {"image": tv_tensors.Image(image), "boxes": tv_tensors.BoundingBoxes(
        [[1, 2, 3, 4]], format="XYXY", canvas_size=(40, 48)), "label": 3}  # fmt: skip
    result = transform(sample)
    assert isinstance(result["image"], tv_tensors.Image)
    assert torch.equal(result["image"], tensor)
    assert torch.equal(result["boxes"], sample["boxes"])
    points = tv_tensors.KeyPoints(torch.tensor([[1.0, 2.0]]), canvas_size=(40, 48))
    mask = tv_tensors.Mask(torch.ones(40, 48, dtype=torch.uint8))
    composed = v2.Compose(
        [Corrupt("fog", 3), v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)]
    )
    torch.manual_seed(0)
    corrupted, same_points, same_mask = composed(tv_tensors.Image(image), points, mask)
    assert torch.equal((corrupted * 255).round().byte(), tensor)
    assert same_points is points
    assert same_mask is mask
    torch.manual_seed(0)
    pil = transform(v2.functional.to_pil_image(image))
    assert isinstance(pil, Image.Image)
    assert torch.equal(v2.functional.pil_to_tensor(pil), tensor)
    assert "fog" in repr(transform)
    with pytest.raises(UserError, match="Did you mean fog"):
        Corrupt("fogg", 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "gausian_noise"}, "Did you mean gaussian_noise"),
        ({"name": None}, "no corruption None"),
        ({"images": np.zeros((1, 3, 32, 32))}, "give a torch.Tensor"),
        ({"severity": 6}, "give 1, 2, 3, 4 or 5"),
        ({"images": torch.zeros(2, 1, 32, 32)}, "give \\(B, 3, H, W\\)"),
        ({"images": torch.zeros(1, 3, 32, 32) - 0.5}, "give values in \\[0, 1\\]"),
        ({"images": torch.zeros(1, 3, 32, 32) * float("nan")}, "give values in \\[0, 1\\]"),
        ({"images": torch.zeros(1, 3, 32, 32, dtype=torch.int64)}, "give uint8, or float"),
        ({"images": torch.zeros(1, 3, 4, 32)}, "at least 8 x 8"),
        ({"scale": "tiny"}, "give imagenet or cifar"),
        ({"seeds": [1, 2, 3]}, "3 seeds for 1 images"),
        ({"seeds": [1], "generator": torch.Generator()}, "give one of them"),
        ({"draws": {"fog_uniform": np.zeros(7)}}, "fog_uniform.*shape \\(7,\\)"),
        ({"draws": {"fog_unifrom": np.zeros(7)}}, "Did you mean fog_uniform"),
        ({"name": "frost", "draws": {"frost_ints": np.array([5, 0, 0])}}, "give 0 to 4 first"),
        ({"name": "frost", "draws": {"frost_ints": np.array([1, 0])}}, "frost_ints.*shape \\(2,\\)"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"images": torch.zeros(1, 3, 32, 32), "name": "fog", "severity": 1, **change}
    with pytest.raises(UserError, match=message):
        corrupt(arguments.pop("images"), arguments.pop("name"), arguments.pop("severity"), **arguments)


def smooth_images(batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    noise = torch.rand(batch, 3, height, width, generator=generator) * 255
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)
    return ((smooth - 127) * 3 + 127).clamp(0, 255).to(torch.uint8)
