"""Loading released checkpoints, strictly, and writing them back under their released names.

Conversion is a pure function beside the architecture: the module that defines a model's class has
``checkpoint_filter_fn(state_dict, model)`` (timm's convention), from released names to the model's, and
``released_state_dict(state_dict, model)``, its inverse. For classes of timm, both are looked for in the module that a
paper declares before timm's own. What a module may offer for loading is in :mod:`common.protocols`: state that follows
from other state and may be absent from a file, and another form that it has with released weights.

Files of our own training loop carry the identity of their run, by which they are told from released ones, and the
form in which the weights were trained.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.conversions import CONVERSIONS, fits
from common.errors import UserError
from common.measurement import WeightsChoice
from common.protocols import HasDerivedState, HasReleasedForm
from common.resizing import resized
from common.tensor_files import check_sums, read_tensors

#: Where training scripts put averaged weights inside a checkpoint, or before the names of a common state dict.
AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model")
#: Where they put weights, most specific first.
WRAPPERS = ("state_dict", "model", "module", "net", "model_state_dict", "model_state", "network", *AVERAGED)
#: What wrappers of modules (for several devices, for compilation, Lightning's) put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
#: Counters that torch's averaging keeps beside the names with its prefix.
_COUNTERS = ("n_averaged",)


def read(path: str | Path) -> Mapping[str, Any]:
    """The content of a checkpoint file, of PyTorch, safetensors or NumPy, read without running code from it.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}; check the path.")
    content = read_tensors(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__} where a state dict is expected.")
    if is_trained(content) or "meta" in content:  # ours, of a classifier or of a detector
        check_sums(path)
    return content


def choose(content: Mapping[str, Any], weights: WeightsChoice | None, where: object) -> tuple[Mapping[str, Any], str]:
    """The content of a checkpoint without the weights that are not to be taken.

    Args:
        content: of the whole file.
        weights: which are to be taken; None: those of the last step where it has them, and all of them where not.
        where: the file, for messages.

    Returns:
        What is left, and what a protocol says of it: empty where the file has one kind of weights alone.

    Raises:
        UserError: it does not hold the weights that are asked for.
    """
    held = held_weights(content)
    if weights is not None and held and weights not in held:
        kind = "no averaged weights" if weights == "ema" else "averaged weights alone"
        raise UserError(f"{where} holds {kind}; leave out --weights {weights}.")
    if len(held) < 2:
        return content, ""
    what = "averaged weights (ema)" if weights == "ema" else "weights of the last step (model), not their average (ema)"
    return _select(content, weights or "model"), what


def taken_weights(model: nn.Module) -> str:
    """Which of a file's weights ``model`` has, for protocols; empty where the file had one kind alone."""
    return str(getattr(model, "taken_weights", ""))


def take_weights(model: nn.Module, what: str) -> None:
    """Keep with ``model`` what :func:`choose` said."""
    setattr(model, "taken_weights", what)  # noqa: B010  (nn.Module is annotated to hold tensors and modules only)


def held_weights(content: Mapping[str, Any]) -> set[WeightsChoice]:
    """Which weights the content of a checkpoint has."""
    wrappers = [key for key in content if key in WRAPPERS and _holds_tensors(content[key])]
    if wrappers:
        return set[WeightsChoice]().union(
            *({"ema"} if key in AVERAGED else held_weights(content[key]) for key in wrappers)  # type: ignore[arg-type]
        )
    if not any(isinstance(value, Tensor) for value in content.values()):
        return set()
    averaged = [str(name).partition(".")[0] in AVERAGED for name in content]
    return {kind for kind, there in (("ema", any(averaged)), ("model", not all(averaged))) if there}  # type: ignore[misc]


def _select(content: Mapping[str, Any], weights: WeightsChoice) -> dict[str, Any]:
    """``content`` without the other weights, where it has both."""
    wrappers = [key for key in content if key in WRAPPERS and _holds_tensors(content[key])]
    if wrappers:
        kept = [key for key in wrappers if (key in AVERAGED) == (weights == "ema")] or wrappers
        inner = {key: _select(content[key], weights) for key in kept}
        return {**{key: value for key, value in content.items() if key not in wrappers}, **inner}
    kept = [name for name in content if (str(name).partition(".")[0] in AVERAGED) == (weights == "ema")]
    return {name: content[name] for name in kept or content}


def unwrap(content: Mapping[str, Any], use_ema: bool = False) -> dict[str, Tensor]:
    """The state dict inside a checkpoint's content, without wrappers and :data:`PREFIXES`.

    Args:
        content: a state dict, or a mapping that holds one under one of :data:`WRAPPERS`.
        use_ema: whether averaged weights are preferred where the checkpoint has both.

    Raises:
        UserError: there is no state dict inside.
    """
    content = _select(content, "ema" if use_ema else "model")
    # A tensor beside a wrapper is a counter or a score, not a weight.
    while key := next((key for key in WRAPPERS if _holds_tensors(content.get(key))), None):
        content = content[key]
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(
            f"The checkpoint has no state dict: its keys are {', '.join(map(str, list(content)[:8])) or 'none'}, "
            f"and none of {', '.join(WRAPPERS)} holds one."
        )
    prefixes = (*PREFIXES, *(f"{each}." for each in AVERAGED))
    while prefix := next((each for each in prefixes if _all_begin(state, each)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items() if name not in _COUNTERS}
    return state


def _all_begin(state: Mapping[str, Tensor], prefix: str) -> bool:
    names = [name for name in state if name not in _COUNTERS]
    return bool(names) and all(name.startswith(prefix) for name in names)


def _holds_tensors(value: Any) -> bool:
    """Whether ``value`` is a state dict, or a wrapper around one."""
    return isinstance(value, Mapping) and any(
        isinstance(inner, Tensor) or (key in WRAPPERS and _holds_tensors(inner)) for key, inner in value.items()
    )


def from_released(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of ``state`` under the names of ``model``, by the conversion beside its class."""
    return _conversion(model, "checkpoint_filter_fn")(state, model)


def _conversion(model: nn.Module, function: str) -> Callable[[Mapping[str, Tensor], nn.Module], dict[str, Tensor]]:
    """The conversion beside the class of ``model``, or the identity where its names are the released ones."""
    home, architecture = type(model).__module__, getattr(model, "pretrained_cfg", {}).get("architecture", "")
    fitting = [module for key, module in CONVERSIONS.items() if fits(key, home, str(architecture))]
    declared = importlib.import_module(fitting[0]) if fitting else None
    found = getattr(declared, function, None) or getattr(sys.modules[home], function, None)
    return found or (lambda state_dict, model: dict(state_dict))


def _derived(model: nn.Module) -> set[str]:
    """State names that a file may lack, since their modules recompute them."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, HasDerivedState)
        for name in module.derived
    }


def load_released(
    model: nn.Module, source: str | Path | Mapping[str, Any], use_ema: bool = False, where: str = "The state dict"
) -> nn.Module:
    """Load a released checkpoint into ``model``, strictly in both directions.

    Args:
        model: built with the arguments that the checkpoint fits.
        source: the released file as it is, or its content.
        use_ema: whether averaged weights are preferred where the file has both.
        where: the file that ``source`` is the content of, for messages.

    Returns:
        ``model``. Derived tensors that the file lacks are recomputed; counters of batch norms may be absent.

    Raises:
        UserError: names the first tensor that is missing, unexpected or of another shape, with both shapes. The model
            is unchanged then.
    """
    where = str(source) if isinstance(source, (str, Path)) else where
    content = source if isinstance(source, Mapping) else read(source)
    load_strictly(model, from_released(unwrap(content, use_ema), model), where)
    take_form(model, content)
    return model


def load_initial(model: nn.Module, path: Path, weights: WeightsChoice | None = None) -> list[str]:
    """Load the weights that a training starts from: of a release, or of our own training.

    What is tied to a grid of tokens is resized to the model's, see :func:`common.resizing.resized`.

    Args:
        model: to load into.
        path: of the file.
        weights: which ones of a file that has both.

    Returns:
        What is not as in the file, a sentence each: which of the weights are taken, what is resized, and that the
        classifier keeps its first weights, where the file is of another number of classes.

    Raises:
        UserError: as :func:`load_released`, for all but the classifier.
    """
    content, what = choose(read(path), weights, path)
    notes = [f"Of {path}, the {what} are taken."] if what else []
    state, changed = ours_resized(unwrap(content), model, trained="step" in content)
    classifier = {id(parameter) for head in _classifiers(model) for parameter in head.parameters()}
    fresh = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if id(parameter) in classifier and name in state and state[name].shape[1:] == parameter.shape[1:]
        and len(state[name]) != len(parameter)
    }  # fmt: skip
    load_strictly(model, {**state, **fresh}, str(path))
    take_form(model, content)
    if changed:
        notes.append(f"Resized to the model's grid of tokens: {changed}.")
    if fresh:
        count = len(next(iter(fresh.values())))
        notes.append(f"{path} is of other classes: the classifier for {count} starts anew.")
    return notes


def ours_resized(state: Mapping[str, Tensor], model: nn.Module, *, trained: bool) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file under the names of ``model``, with what is tied to a grid of tokens in the model's sizes.

    Args:
        state: as it is in the file.
        model: that it is for.
        trained: whether the file is an unfinished training of ours, which has our names already.

    Returns:
        The tensors, and which were resized, with both shapes; empty where none was.
    """
    ours = dict(state) if trained else from_released(state, model)
    fitting = resized(ours, model)
    own = model.state_dict()
    # A conversion of timm's resizes as well; what it only renames stays the same object.
    as_stored = {id(value) for value in state.values()}
    before = {name: value if id(value) in as_stored else state.get(name, value) for name, value in ours.items()}
    changed = [
        f"{name} {list(before[name].shape)} to {list(value.shape)}"
        for name, value in fitting.items()
        if name in own and name in before and value.shape == own[name].shape and before[name].numel() != value.numel()
    ]
    return fitting, changed[0] + _and_more(changed) if changed else ""


def _classifiers(model: nn.Module) -> tuple[nn.Module, ...]:
    """The classifier of a model of timm's kind; two where a distilled one has two, none elsewhere."""
    found: Any = getattr(model, "get_classifier", tuple)()
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


class MisfitError(UserError):
    """A state dict does not fit a model.

    Attributes:
        tensors: how many are missing, unexpected or of another shape.
    """

    def __init__(self, sentence: str, tensors: int) -> None:
        super().__init__(sentence)
        self.tensors = tensors


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load ``state``, whose names are the model's, as :func:`load_released` does; ``where`` is its file, for messages.

    Raises:
        MisfitError: as :func:`load_released`.
    """
    own, derived = model.state_dict(), _derived(model)
    optional = {name for name in own if name.endswith("num_batches_tracked")} | derived
    counters = {name for name in state if name.endswith("num_batches_tracked")}

    missing = [name for name in own if name not in state and name not in optional]
    unexpected = [name for name in state if name not in own and name not in counters]
    misshaped = [name for name, value in state.items() if name in own and value.shape != own[name].shape]
    count = len(missing) + len(unexpected) + len(misshaped)
    kind = f"{type(model).__name__} with {sum(p.numel() for p in model.parameters()):,} parameters"
    if missing:
        raise MisfitError(
            f"{where} does not fit {kind}: {missing[0]} {list(own[missing[0]].shape)} is missing"
            f"{_and_more(missing)}{_first_unexpected(unexpected, state)}; build the variant that the file is for.",
            count,
        )
    if unexpected:
        raise MisfitError(
            f"{where} does not fit {kind}: it has {unexpected[0]} {list(state[unexpected[0]].shape)}, which the model "
            f"lacks{_and_more(unexpected)}; build the variant that the file is for.",
            count,
        )
    if misshaped:
        name = misshaped[0]
        raise MisfitError(
            f"{where} does not fit {kind}: {name} is {list(state[name].shape)} in the file and "
            f"{list(own[name].shape)} in the model{_and_more(misshaped)}; build the model with the file's sizes "
            f"(num_classes, in_chans, img_size).",
            count,
        )
    model.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
    for prefix, module in model.named_modules():
        if not isinstance(module, HasDerivedState) or not isinstance(module, nn.Module):
            continue
        names = {f"{prefix}.{name}".lstrip("."): name for name in module.derived}
        given = {own: state[name] for name, own in names.items() if name in state}
        if len(given) < len(module.derived):
            module.recompute_derived()
            module.load_state_dict(given, strict=False)


def is_trained(content: Mapping[str, Any]) -> bool:
    """Whether our own training loop wrote the content of a checkpoint."""
    return "run" in content


def form_of(model: nn.Module) -> str:
    """``released`` where ``model`` computes what released weights were trained with, else ``publication``."""
    return "released" if getattr(model, "has_released_form", False) else "publication"


def take_form(model: nn.Module, content: Mapping[str, Any]) -> None:
    """Make ``model`` compute what the weights of ``content`` were trained with."""
    if is_trained(content) and content["form"] == "publication":
        return
    for module in model.modules():
        if isinstance(module, HasReleasedForm):
            module.use_released_form()
    setattr(model, "has_released_form", True)  # noqa: B010  (nn.Module is annotated to hold tensors and modules only)


def load_trained(model: nn.Module, content: Mapping[str, Any], where: str) -> nn.Module:
    """Load the content of a file of our own training loop into ``model``, strictly.

    Args:
        model: built as for the training.
        content: of the final ``model.pt``, which has released names, or of a checkpoint of a run, which has ours.
        where: the file, for messages.

    Raises:
        UserError: the file is of another model.
    """
    if "step" not in content:
        return load_released(model, content, where=where)
    try:
        model.load_state_dict(unwrap(content))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{where} does not fit {type(model).__name__}: {first} Name its model with --model.") from None
    take_form(model, content)
    return model


def to_released(model: nn.Module) -> dict[str, Tensor]:
    """The state of ``model`` under released names, such that :func:`load_released` is its inverse."""
    return under_released_names(model, model.state_dict())


def under_released_names(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the names and shapes of the state of ``model`` (such as gradients) as the release has them."""
    return _conversion(model, "released_state_dict")(tensors, model)


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _first_unexpected(names: list[str], state: Mapping[str, Tensor]) -> str:
    return f", while it has {names[0]} {list(state[names[0]].shape)}" if names else ""
