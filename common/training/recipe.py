"""Recipes: everything that decides what a training run computes, as data.

A paper's ``recipe.toml`` has a table per setting (``embedded``, ``imagenet``, ``finetune``). A setting may name a
``base`` and state what differs from it; one without a base names every key of `Recipe`: no default is hidden in code,
and what is not stated stands in the base, which is a file here. ``./reproduce.sh SLUG recipe SETTING`` prints the whole
with where each value is stated. A base may have a base itself, and is one of

- ``"rvt:imagenet"``: a setting of another paper, by its slug;
- ``"imagenet"``: a setting of the same file;
- ``"bench"``: the setting ``embedded`` of ``common/bench/recipe.toml``.

Three kinds of sub-table may follow a setting:

- ``[imagenet.models."rvt_base*"]``: what differs for the models whose names match the pattern;
- ``[imagenet.quick]``: what differs in the quick form, which so runs the same code;
- ``[imagenet.method]``: the settings of the paper's own hooks, which only the paper knows.

They are inherited like keys, and apply in this order: the base, the base's ``models``, the setting, its ``models``,
then the base's ``quick`` and the setting's. So a setting changes what the base is for the model that is trained, and
the quick form stays quick whatever length a setting states. A ``method`` table changes that of the base key by key;
where the base has one, its keys are all that there are, since they are what its hooks read: a paper with hooks that
read others takes a base without a ``method`` table.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.arguments import MOST
from common.errors import UserError, nearest
from common.training import recipe_file
from common.training.recipe_file import SUB_TABLES, Origin, Table

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
    "train_crop": ("random_resized", "padded", "simple", "none"),
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
#: Largest value of integer keys: what is larger is a slip. No machine holds images of more pixels a side.
AT_MOST = {"input_size": 8192}
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
    train_crop: str  # "simple": of the image resized to input_size (shorter side) and padded by reflection
    crop_scale: tuple[float, ...]  # area range of the random resized crop
    crop_ratio: tuple[float, ...]  # aspect ratio range of the random resized crop
    crop_padding: int  # pixels around the image before the crop: zeros of the padded crop, a reflection of the simple
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
    """Read one setting of a ``recipe.toml``, with the settings that it is based on.

    Args:
        path: the file.
        setting: the table's name, e.g. ``"imagenet"``.
        model: name of the model that is trained; tables under ``models`` that match it apply, in file order.
        quick: whether the tables ``quick`` apply.
        changes: settings ``"key=value"`` of the user, applied last.

    Raises:
        UserError: no such file, setting or base, an unknown, missing or repeated key, a wrong type or range; the
            sentence names file, line, key and the nearest valid name.
    """
    path = Path(path)
    chain = recipe_file.bases(path, setting)
    values: dict[str, Any] = {}
    where: dict[str, str] = {}
    method: dict[str, Scalar] = {}
    of_method = chain[-1].name
    written_batch = 0
    for table in recipe_file.layers(path, setting, model=model, quick=quick):
        overlay = table not in chain
        for key, value in table.values.items():
            if key == "method" or (not overlay and key in ("base", *SUB_TABLES)):
                continue
            where[key] = str(table.origin(key))
            values[key] = _check(key, value, where[key])
        changed = table.sub_table("method")
        for key in changed.values if method or overlay else ():
            if key not in method:
                raise UserError(f"{changed.origin(key)}: {key} is not in [{of_method}.method].{nearest(key, method)}")
        if changed.values and not method:
            of_method = table.name
        method.update(changed.values)
        if not table.name.endswith(".quick"):
            written_batch = values.get("total_batch", 0)
    _check_complete(chain[0], KEYS)
    recipe = Recipe(**values, setting=setting, written_batch=written_batch, method=method)
    _check_together(recipe, lambda key: where[key])
    return _changed(recipe, changes)


def load_as(kind: type[Kind], path: Path | str, setting: str, *, quick: bool = False) -> Kind:
    """Read one setting of a ``recipe.toml`` whose keys are not those of `Recipe`.

    For papers that train no model by the loop of this package. The table, or the one at the root of its bases, names
    every field of the dataclass ``kind``; ``[setting.quick]`` says what differs in the quick form.

    Args:
        kind: a dataclass of ints, floats, texts, booleans and tuples of floats or texts.
        path: the file.
        setting: the table's name.
        quick: whether the tables ``quick`` apply.

    Raises:
        UserError: no such file, setting or base, an unknown or missing key, or a wrong type.
    """
    path = Path(path)
    chain = recipe_file.bases(path, setting)
    types = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for table in recipe_file.layers(path, setting, quick=quick):
        for key, value in table.values.items():
            if key in ("base", "quick") and table in chain:
                continue
            place = str(table.origin(key))
            if key not in types:
                raise UserError(f"{place}: {key} is not a setting of this recipe.{nearest(key, [*types, 'base'])}")
            values[key] = _typed(key, value, types[key], place)
    _check_complete(chain[0], types)
    return kind(**values)


def settings(path: Path | str) -> list[str]:
    """Return the names of the settings in a ``recipe.toml``, in file order."""
    return recipe_file.settings(Path(path))


def origins(path: Path | str, setting: str, *, model: str = "", quick: bool = False) -> dict[str, Origin]:
    """Return where each value of a setting that loads is stated, ``"method.key"`` for one of its method.

    Args:
        path, setting, model, quick: as for `load_recipe`.
    """
    found: dict[str, Origin] = {}
    for table in recipe_file.layers(Path(path), setting, model=model, quick=quick):
        found.update((key, table.origin(key)) for key in table.values if key not in ("base", *SUB_TABLES))
        method = table.sub_table("method")
        found.update((f"method.{key}", method.origin(key)) for key in method.values)
    return found


def _check_complete(root: Table, keys: Iterable[str]) -> None:
    missing = [key for key in keys if key not in root.values]
    if missing:
        raise UserError(
            f"{root.header}: [{root.name}] does not say {', '.join(missing)}; a recipe without a base names every key."
        )


def _check(key: str, value: Any, place: str) -> Any:
    """Return ``value`` as the type that ``key`` has in `Recipe`."""
    if key not in KEYS:
        raise UserError(f"{place}: {key} is not a setting of a recipe.{nearest(key, [*KEYS, 'base'])}")
    kind = _TYPES[key]
    checked = _typed(key, value, kind, place)
    if isinstance(checked, tuple):
        return checked
    if key in CHOICES and checked not in CHOICES[key]:
        hint = nearest(checked, CHOICES[key])
        raise UserError(f"{place}: {key} must be one of {', '.join(CHOICES[key])}, not {checked!r}.{hint}")
    if key in UNIT_INTERVAL and not 0 <= checked <= 1:
        raise UserError(f"{place}: {key} must lie between 0 and 1, not {checked}.")
    if kind is int and checked > AT_MOST.get(key, MOST):
        raise UserError(f"{place}: {key} must be at most {AT_MOST.get(key, MOST)}, not {checked}.")
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
