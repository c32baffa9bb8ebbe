"""Recipes: everything that decides what a training run computes, as data.

A paper's ``recipe.toml`` has a table per setting (``embedded``, ``imagenet``, ``finetune``), and each table names
every key of `Recipe`: no default is hidden in code. Three kinds of sub-table may follow a setting:

- ``[imagenet.models."rvt_base*"]``: what differs for the models whose names match the pattern;
- ``[imagenet.quick]``: what differs in the quick form, which so runs the same code;
- ``[imagenet.method]``: the settings of the paper's own hooks, which only the paper knows.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import UserError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Scalar = bool | int | float | str
Kind = typing.TypeVar("Kind")

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
#: Keys whose value is one of a few words.
CHOICES: dict[str, tuple[str, ...]] = {
    # Those of timm that follow from the keys of a recipe; timm takes an unknown word for a constant rate.
    "schedule": ("cosine", "tanh", "step", "poly", "constant"),
    "train_crop": ("random_resized", "padded", "none"),
    "interpolation": (*INTERPOLATIONS, "random"),
    "evaluation_interpolation": INTERPOLATIONS,
    "mix_mode": ("batch", "pair", "elem"),
    "random_erasing_mode": ("const", "rand", "pixel"),
    "learning_rate_scaling": ("linear", "sqrt", "none"),
    "schedule_unit": ("epoch", "previous_epoch", "step"),
    "precision": ("float32", "bfloat16", "float16"),
    "distillation": ("none", "soft", "hard"),
}
#: Keys that may be given in ``scaled_rates``.
RATES = ("learning_rate", "warmup_learning_rate", "min_learning_rate")
#: Smallest value of integer keys that must not be zero.
AT_LEAST_ONE = ("num_classes", "input_size", "total_batch", "epochs", "repeated_augmentation", "evaluate_every")
#: Keys that are probabilities or fractions.
UNIT_INTERVAL = (
    "horizontal_flip",
    "random_erasing",
    "mix_probability",
    "mix_switch_probability",
    "label_smoothing",
    "evaluation_crop",
    "drop_rate",
    "drop_path_rate",
    "layer_decay",
    "ema_decay",
    "distillation_alpha",
)
SUB_TABLES = ("models", "quick", "method")


@dataclass(frozen=True)
class Recipe:
    """One complete training setting. Rates are per step of the optimizer, sizes in pixels, probabilities in [0, 1]."""

    # -- data
    num_classes: int
    input_size: int  # side of the square training image
    mean: tuple[float, ...]  # per channel (one value serves all channels), of images in [0, 1]
    std: tuple[float, ...]
    total_batch: int  # images per optimizer step, over all devices and accumulation steps
    epochs: int  # length of the schedule
    epoch_images: int  # images in an epoch; 0: all of the training set
    repeated_augmentation: int  # how often an image occurs in a row of an epoch; 1: once
    train_crop: str
    crop_scale: tuple[float, ...]  # area range of the random resized crop
    crop_ratio: tuple[float, ...]  # aspect ratio range of the random resized crop
    crop_padding: int  # zero padding of the padded crop
    horizontal_flip: float
    interpolation: str  # of the random resized crop; "random": bilinear or bicubic
    color_jitter: float  # timm ignores it where auto_augment is a RandAugment or AutoAugment policy
    auto_augment: str  # timm's policy string; empty: none
    random_erasing: float
    random_erasing_mode: str
    random_erasing_count: int
    evaluation_crop: float  # centre crop as a fraction of the resized side
    evaluation_interpolation: str
    # -- mixing of images and labels
    mixup: float  # alpha of the Beta distribution; 0: off
    cutmix: float
    mix_probability: float
    mix_switch_probability: float  # of cutmix where both are on
    mix_mode: str
    label_smoothing: float
    # -- model
    drop_rate: float
    drop_path_rate: float
    # -- optimisation
    optimizer: str  # timm's name
    optimizer_epsilon: float
    optimizer_betas: tuple[float, ...]
    momentum: float
    weight_decay: float
    layer_decay: float  # factor of the learning rate from a layer to the one below; 1: off
    clip_gradient: float  # largest norm of the whole gradient; 0: off
    learning_rate: float  # for learning_rate_batch images
    learning_rate_batch: int
    learning_rate_scaling: str
    scaled_rates: tuple[str, ...]  # which of RATES follow the scaling rule
    schedule: str  # timm's name
    schedule_unit: str  # the rate changes once an epoch (previous_epoch: one epoch late) or at each step
    warmup_epochs: float
    warmup_learning_rate: float  # at the first step
    min_learning_rate: float
    cooldown_epochs: int  # trained at min_learning_rate after the schedule
    precision: str
    ema_decay: float  # exponential moving average of the weights; 0: off
    # -- distillation (DeiT): loss = (1 - alpha) x base + alpha x distillation
    distillation: str
    distillation_alpha: float
    distillation_temperature: float
    distillation_teacher: str  # timm's name of a pretrained model
    # -- run
    seed: int
    evaluate_every: int  # epochs
    # -- filled in by the loader
    setting: str = ""
    written_batch: int = 0  # the total batch for which the recipe was written
    method: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    changes: tuple[str, ...] = ()  # what the user changed: such a run deviates from the recipe

    @property
    def total_epochs(self) -> int:
        """Epochs with the cool-down."""
        return self.epochs + self.cooldown_epochs

    @property
    def mixes(self) -> bool:
        """Whether images and labels are mixed."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def rate(self, key: str) -> float:
        """Return a learning rate (one of `RATES`) after the scaling rule for the total batch."""
        value = float(getattr(self, key))
        if key not in self.scaled_rates or self.learning_rate_scaling == "none":
            return value
        ratio = self.total_batch / self.learning_rate_batch
        return value * (ratio if self.learning_rate_scaling == "linear" else ratio**0.5)

    def with_changes(self, *changes: str) -> Recipe:
        """Return a copy with ``"key=value"`` settings, marked as deviating from the recipe.

        Raises:
            UserError: an unknown key, a value of the wrong type, or one out of range.
        """
        return _changed(self, changes)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data (lists, dicts, scalars), as stored with a run."""
        plain = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    def describe(self) -> str:
        """Return the whole recipe as text, one setting a line, with the rates that follow from the batch."""
        lines = [f"recipe {self.setting}" + ("" if not self.changes else f", deviating: {', '.join(self.changes)}")]
        values = self.as_dict()
        lines += [f"  {key} = {json.dumps(values[key])}" for key in KEYS]
        lines += [f"  method.{key} = {json.dumps(value)}" for key, value in self.method.items()]
        lines.append("  " + self.describe_rates())
        return "\n".join(lines)

    def describe_rates(self) -> str:
        """Say which learning rate is used, and how it follows from the total batch."""
        rates = ", ".join(f"{key} {self.rate(key):.3g}" for key in RATES)
        text = f"total batch {self.total_batch}: {rates}"
        if self.total_batch != self.written_batch:
            rule = {"linear": "scaled linearly", "sqrt": "scaled by the square root", "none": "not scaled"}
            scaled = ", ".join(self.scaled_rates) if self.learning_rate_scaling != "none" else "no rate"
            text += (
                f" (written for a total batch of {self.written_batch}; {scaled} "
                f"{rule[self.learning_rate_scaling]} with the batch)"
            )
        return text


_TYPES = typing.get_type_hints(Recipe)
_INTERNAL = ("setting", "written_batch", "method", "changes")
#: The keys of a table, in the order of `Recipe`.
KEYS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(Recipe) if field.name not in _INTERNAL)


def load_recipe(
    path: Path | str, setting: str, *, model: str = "", quick: bool = False, changes: Sequence[str] = ()
) -> Recipe:
    """Read one setting of a ``recipe.toml``.

    Args:
        path: the file.
        setting: the table's name, e.g. ``"imagenet"``.
        model: name of the model that is trained; tables under ``models`` that match it apply, in file order.
        quick: whether the table ``quick`` applies.
        changes: settings ``"key=value"`` of the user, applied last.

    Raises:
        UserError: no such file or setting, an unknown, missing or repeated key, a wrong type or range; the sentence
            names file, line, key and the nearest valid name.
    """
    path = Path(path)
    text = _read(path)
    table = _setting(path, text, setting)
    values, where = {}, {}
    overlays: list[tuple[str, Mapping[str, Any]]] = [(setting, table)]
    overlays += [
        (f"{setting}.models.{pattern}", overlay)
        for pattern, overlay in _table(path, text, table, setting, "models").items()
        if model and fnmatchcase(model, pattern)
    ]
    method: dict[str, Scalar] = {}
    written_batch = 0
    if quick:
        overlays.append((f"{setting}.quick", _table(path, text, table, setting, "quick")))
    for name, overlay in overlays:
        sub_tables = SUB_TABLES if name == setting else ("method",)
        for key, value in overlay.items():
            if key in sub_tables:
                continue
            place = _place(path, text, name, key)
            values[key], where[key] = _check(key, value, place), place
        changed = _table(path, text, overlay, name, "method")
        if name != setting:
            for key in changed.keys() - method.keys():
                raise UserError(
                    f"{_place(path, text, name + '.method', key)}: {key} is not in [{setting}.method]."
                    f"{nearest(key, method)}"
                )
        method.update(changed)
        if not name.endswith(".quick"):
            written_batch = values.get("total_batch", 0)
    missing = [key for key in KEYS if key not in values]
    if missing:
        line = _line(text, setting, None)
        raise UserError(f"{path}:{line}: [{setting}] does not say {', '.join(missing)}; a recipe names every key.")
    recipe = Recipe(**values, setting=setting, written_batch=written_batch, method=method)
    _check_together(recipe, lambda key: where[key])
    return _changed(recipe, changes)


def load_as(kind: type[Kind], path: Path | str, setting: str, *, quick: bool = False) -> Kind:
    """Read one setting of a ``recipe.toml`` whose keys are not those of `Recipe`.

    For papers that train no model by the loop of this package. The table names every field of the dataclass ``kind``;
    ``[setting.quick]`` says what differs in the quick form.

    Args:
        kind: a dataclass of ints, floats, texts, booleans and tuples of floats or texts.
        path: the file.
        setting: the table's name.
        quick: whether the table ``quick`` applies.

    Raises:
        UserError: no such file or setting, an unknown or missing key, or a wrong type.
    """
    path = Path(path)
    text = _read(path)
    own = _setting(path, text, setting)
    types = typing.get_type_hints(kind)
    overlay = _table(path, text, own, setting, "quick")
    values: dict[str, Any] = {}
    for name, table in ((setting, own), (f"{setting}.quick", overlay if quick else {})):
        for key, value in table.items():
            if key == "quick" and name == setting:
                continue
            place = _place(path, text, name, key)
            if key not in types:
                raise UserError(f"{place}: {key} is not a setting of this recipe.{nearest(key, types)}")
            values[key] = _typed(key, value, types[key], place)
    missing = [key for key in types if key not in values]
    if missing:
        line = _line(text, setting, None)
        raise UserError(f"{path}:{line}: [{setting}] does not say {', '.join(missing)}; a recipe names every key.")
    return kind(**values)


def settings(path: Path | str) -> list[str]:
    """Return the names of the settings in a ``recipe.toml``, in file order."""
    path = Path(path)
    return list(_parse(path, _read(path)))


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"The recipe {path} cannot be read ({error.strerror}); make it a readable file.") from None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: it is not UTF-8 text; save the file as UTF-8.") from None


def _parse(path: Path, text: str) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}.") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            line = _line(text, "", name)
            raise UserError(f"{path}:{line}: {name} stands outside a table; put it under a setting like [imagenet].")
    return tables


def _setting(path: Path, text: str, setting: str) -> dict[str, Any]:
    tables = _parse(path, text)
    if setting not in tables:
        raise UserError(
            f"{path} has no setting {setting}; it has {', '.join(tables) or 'none'}.{nearest(setting, tables)}"
        )
    return tables[setting]


def _table(path: Path, text: str, table: Mapping[str, Any], name: str, key: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict) or (key == "models" and not all(isinstance(v, dict) for v in value.values())):
        raise UserError(f"{_place(path, text, name, key)}: {key} must be a table, [{name}.{key}].")
    return value


def _place(path: Path, text: str, table: str, key: str) -> str:
    return f"{path}:{_line(text, table, key)}"


def _line(text: str, table: str, key: str | None) -> int:
    """Return the line (from 1) of a key in a table, or of the table's header where ``key`` is None."""
    headers, keys = _lines(text)
    name = table if key is None else f"{table}.{key}"
    found = [headers.get(name), None if key is None else keys.get((table, key))]
    return min((line for line in found if line), default=1)


@lru_cache(maxsize=16)
def _lines(text: str) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """The first line (from 1) of each table's header, and of each (table, key)."""
    current = ""
    headers: dict[str, int] = {}
    keys: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[([^\[\]]+)\]", line)
        key = None if header else re.match(r"""\s*(?:"([^"]+)"|'([^']+)'|([\w-]+))\s*[.=]""", line)
        if header:
            current = re.sub(r"[\"'\s]", "", header.group(1))
            headers.setdefault(current, number)
        elif key:
            keys.setdefault((current, next(filter(None, key.groups()))), number)
    return headers, keys


def _check(key: str, value: Any, place: str) -> Any:
    """Return ``value`` as the type that ``key`` has in `Recipe`."""
    if key not in KEYS:
        raise UserError(f"{place}: {key} is not a setting of a recipe.{nearest(key, KEYS)}")
    kind = _TYPES[key]
    checked = _typed(key, value, kind, place)
    if isinstance(checked, tuple):
        return checked
    if key in CHOICES and checked not in CHOICES[key]:
        hint = nearest(checked, CHOICES[key])
        raise UserError(f"{place}: {key} must be one of {', '.join(CHOICES[key])}, not {checked!r}.{hint}")
    if key in UNIT_INTERVAL and not 0 <= checked <= 1:
        raise UserError(f"{place}: {key} must lie between 0 and 1, not {checked}.")
    if kind in (int, float) and checked < (1 if key in AT_LEAST_ONE else 0):
        raise UserError(f"{place}: {key} must be at least {1 if key in AT_LEAST_ONE else 0}, not {checked}.")
    return checked


def _typed(key: str, value: Any, kind: Any, place: str) -> Any:
    """Return ``value`` as ``kind``, a scalar type or a tuple of one."""
    if typing.get_origin(kind) is not tuple:
        return _scalar(key, value, kind, place)
    if not isinstance(value, list | tuple):
        raise UserError(f"{place}: {key} must be a list, not {value!r}.")
    return tuple(_scalar(key, each, typing.get_args(kind)[0], place) for each in value)


def _scalar(key: str, value: Any, kind: type, place: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{place}: {key} must be a finite number, not {value}.")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        words = {int: "an integer", float: "a number", str: "a text in quotes", bool: "true or false"}
        raise UserError(f"{place}: {key} must be {words[kind]}, not {value!r}.")
    return value


def _check_together(recipe: Recipe, where: typing.Callable[[str], str]) -> None:
    """Check what depends on more than one key."""
    if len(recipe.mean) != len(recipe.std) or not recipe.mean or min(recipe.std, default=0) <= 0:
        raise UserError(f"{where('std')}: mean and std need one positive value a channel each.")
    for key in ("crop_scale", "crop_ratio", "optimizer_betas"):
        if len(getattr(recipe, key)) != 2:
            raise UserError(f"{where(key)}: {key} must have two values.")
    if not recipe.evaluation_crop:
        raise UserError(f"{where('evaluation_crop')}: evaluation_crop must be more than 0, 1 for the whole image.")
    for key, most in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
        low, high = getattr(recipe, key)
        if not 0 < low <= high <= most:
            limit = " of at most 1" if most == 1 else ""
            raise UserError(f"{where(key)}: {key} must be two positive values{limit}, the smaller one first.")
    if not all(0 <= beta < 1 for beta in recipe.optimizer_betas):
        raise UserError(f"{where('optimizer_betas')}: optimizer_betas must be at least 0 and below 1.")
    for rate in recipe.scaled_rates:
        if rate not in RATES:
            hint = nearest(rate, RATES)
            raise UserError(f"{where('scaled_rates')}: scaled_rates must be from {', '.join(RATES)}, not {rate}.{hint}")
    if recipe.learning_rate_scaling != "none" and recipe.learning_rate_batch < 1:
        raise UserError(f"{where('learning_rate_batch')}: learning_rate_batch must be at least 1.")
    if recipe.distillation != "none" and not recipe.distillation_teacher:
        raise UserError(f"{where('distillation_teacher')}: distillation needs a distillation_teacher.")
    if recipe.mixes and recipe.total_batch % 2:
        raise UserError(f"{where('total_batch')}: mixing pairs images, so total_batch must be even.")
    if recipe.warmup_epochs > recipe.epochs:
        raise UserError(
            f"{where('warmup_epochs')}: warmup_epochs ({recipe.warmup_epochs:g}) exceeds epochs ({recipe.epochs}); "
            "a shorter schedule needs a shorter warm-up."
        )


def _changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    values: dict[str, Any] = {}
    method = dict(recipe.method)
    for change in changes:
        key, separator, text = change.partition("=")
        key, place = key.strip(), f"--set {change}"
        if not separator:
            raise UserError(f"{place}: write it as key=value.")
        if key.startswith("method."):
            name = key.removeprefix("method.")
            if name not in method:
                raise UserError(f"{place}: {name} is not a setting of the paper's method.{nearest(name, method)}")
            method[name] = _scalar(key, _value(text, type(method[name])), type(method[name]), place)
        elif key in KEYS:
            values[key] = _check(key, _value(text, _TYPES[key]), place)
        else:
            known = [*KEYS, *(f"method.{name}" for name in method)]
            raise UserError(f"{place}: {key} is not a setting of a recipe.{nearest(key, known)}")
    if not changes:
        return recipe
    changed = dataclasses.replace(recipe, **values, method=method, changes=(*recipe.changes, *changes))
    _check_together(changed, lambda key: f"--set {' '.join(changes)}")
    return changed


def _value(text: str, kind: Any) -> Any:
    """Read a value as TOML writes it; quotes around a text may be left out."""
    if kind is str:
        return text.strip().strip("\"'")
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
