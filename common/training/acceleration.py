"""Placing a run on devices and processes with accelerate, and its state as one whole from all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DynamoBackend, GradientAccumulationPlugin
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from common.devices import device as find_device
from common.errors import UserError, nearest
from common.training.recipe import Recipe

_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def make_accelerator(recipe: Recipe, device: str, *, compile: str, fsdp: bool) -> Accelerator:
    """Return accelerate's view of the devices; under torchrun or ``accelerate launch`` it joins the other processes.

    Recipe and options alone decide: what a user's configuration of accelerate says beside processes is not taken.

    Args:
        recipe: gives the precision.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``, as :func:`common.devices.device` has it.
        compile: backend of torch.compile, or empty.
        fsdp: whether parameters will be sharded (`shard`), which some settings do not go with.

    Raises:
        UserError: the machine has no such device, or it cannot do what the recipe or the options ask for.
    """
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise UserError(f"There is no device {device}; choose cpu, cuda, mps or auto.")
    on_cpu = find_device(device) == "cpu"
    if on_cpu and recipe.precision == "float16":
        raise UserError(
            "The recipe trains in float16, which needs a GPU; on the CPU say --set precision=float32 (or bfloat16)."
        )
    backends = [name.lower() for name in DynamoBackend.__members__ if name != "NO"]
    if compile and compile not in backends:
        raise UserError(f"torch.compile has no backend {compile}.{nearest(compile, backends)}")
    for engine in ("DEEPSPEED", "FSDP", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true":
            raise UserError(
                f"accelerate is configured for {engine}, which would change the training behind the recipe: start it "
                "by torchrun or accelerate launch --multi_gpu, with --fsdp to shard the model."
            )
    AcceleratorState._reset_state(reset_partial_state=True)  # a process may train again with other settings
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=_PRECISION[recipe.precision],
        dynamo_backend=compile or "no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the plan accumulates
    )
    if fsdp:
        if accelerator.num_processes == 1:
            raise UserError("--fsdp shards over several devices; start one process for each with torchrun.")
        for key, value, instead in (("ema_decay", recipe.ema_decay, "0"), ("precision", "float16", "bfloat16")):
            if value == getattr(recipe, key) and value:
                raise UserError(f"--fsdp does not go with {key} {value}; say --set {key}={instead}.")
        if compile:
            raise UserError("--fsdp does not go with --compile; leave one out.")
    return accelerator


@contextmanager
def compiling(backend: str) -> Iterator[None]:
    """Say in a sentence that torch.compile failed within; it compiles when the model runs.

    Raises:
        UserError: the model cannot be compiled here.
    """
    if not backend:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # here: importing it takes a second

    try:
        yield
    except TorchDynamoException as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"torch.compile cannot compile the model with the backend {backend} ({reason.rstrip('.')}): leave out "
            "--compile, or install what the backend needs."
        ) from None


def shard(model: nn.Module, accelerator: Accelerator, recipe: Recipe) -> nn.Module:
    """Shard a model over all processes in place (FSDP2): each block of its lists of blocks, then the rest."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy()
    if recipe.precision == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32)
    for child in model.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            for block in child:
                if any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def release(accelerator: Accelerator, model: nn.Module, plain_model: nn.Module) -> None:
    """Take accelerate's autocast off the user's model, so that it computes, and can be copied, as before."""
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    vars(plain_model).pop("forward", None)


def whole_state(
    model: nn.Module, plain_model: nn.Module, optimizer: torch.optim.Optimizer, *, sharded: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dicts of model and optimizer; of a sharded model they are gathered (call on every process)."""
    if not sharded:
        return plain_model.state_dict(), optimizer.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model_state, optimizer_state = get_state_dict(model, optimizer, options=options)
    return model_state, optimizer_state  # type: ignore[return-value]


def restore_state(
    model: nn.Module,
    plain_model: nn.Module,
    optimizer: torch.optim.Optimizer,
    model_state: dict[str, Tensor],
    optimizer_state: dict[str, Any],
    *,
    sharded: bool,
) -> None:
    """Load what `whole_state` returned, strictly."""
    if not sharded:
        plain_model.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
        return
    set_state_dict(
        model,
        optimizer,
        model_state_dict=dict(model_state),
        optim_state_dict=optimizer_state,
        options=StateDictOptions(full_state_dict=True, cpu_offload=True),
    )
