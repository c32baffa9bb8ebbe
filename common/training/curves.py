"""Curves of loss and accuracy over the epochs of trainings, from the logs that they leave."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.figures import COLOURS, figure, to_svg
from common.measurement import Picture
from common.training.hooks import Batch, Hook, Training

#: A row an epoch (or a part of one), as ``history.csv`` has them.
History = Sequence[Mapping[str, float]]

#: In the folder of a run: a log for each model that it trained; columns ``model`` and ``seed`` say which.
TRAININGS = "trainings"

#: What is drawn in each panel: column of a history to what it is called.
LOSSES = {"train_loss": "training", "loss": "validation", "ema_loss": "validation, averaged weights"}
ACCURACIES = {"train_top1": "top-1, training", "top1": "top-1", "top5": "top-5", "ema_top1": "top-1, averaged weights"}
#: Points of a loss curve within a training of few epochs.
POINTS = 40


class LossCurve(Hook):
    """Keeps loss and accuracy of short trainings in finer steps than an epoch; the last hook sees the whole loss.

    The accuracy is that of the augmented images in training mode, against their labels before mixing.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Note the loss, and what is right where the model classifies."""
        self._losses.append(loss.detach())
        if batch.logits is not None and batch.logits.shape == (len(batch.labels), run.recipe.num_classes):
            self._right.append((batch.logits.detach().argmax(dim=1) == batch.labels).float().mean())
        return loss

    def on_step(self, run: Training) -> None:
        """Take the mean over the last part of the training when it is complete."""
        if run.step * POINTS // run.total_steps > (run.step - 1) * POINTS // run.total_steps:
            row = {"epoch": run.step / run.steps_per_epoch, "train_loss": float(torch.stack(self._losses).mean())}
            if self._right:
                row["train_top1"] = 100 * float(torch.stack(self._right).mean())
            self.rows.append(row)
            self._losses.clear()
            self._right.clear()

    def with_validation(self, history: History) -> list[dict[str, float]]:
        """The loss curve and what was measured at the ends of epochs, in the order of time."""
        measured = [
            {key: row[key] for key in ("epoch", *LOSSES, *ACCURACIES) if key in row and not key.startswith("train_")}
            for row in history
        ]
        return sorted([*self.rows, *(row for row in measured if len(row) > 1)], key=lambda row: row["epoch"])


def read_history(path: Path) -> list[dict[str, str]]:
    """The rows of a log, values as text; empty cells are left out.

    Raises:
        UserError: it is no such log.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{key: text for key, text in row.items() if text} for row in csv.DictReader(file)]
        for row in rows:
            float(row["epoch"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is no log of a training ({type(error).__name__}: {error}).") from None
    return rows


def training_curves(name: str, trainings: Mapping[str, Sequence[History]]) -> Picture | None:
    """Loss and accuracy over epochs, side by side; None where nothing was logged.

    One training has a colour for each curve; several have one for each label.

    Args:
        name: of the figure.
        trainings: label, e.g. the model, to the histories of its seeds.
    """
    histories = [history for of_label in trainings.values() for history in of_label if history]
    if not histories:
        return None
    alone = len(histories) == 1
    with figure(name, width=7.2, height=3.2 if alone else 3.0 + 0.22 * -(-len(trainings) // 3)) as drawn:
        panels = drawn.subplots(1, 2)
        for axes, columns, title in zip(panels, (LOSSES, ACCURACIES), ("loss", "accuracy, %"), strict=True):
            if alone:
                _draw_one(axes, histories[0], columns)
            else:
                _draw_several(axes, trainings, columns)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.set_xlim(left=0)
            axes.grid()
        if alone:
            for axes in panels:
                if axes.get_legend_handles_labels()[1]:
                    axes.legend(fontsize="small")
        else:
            handles, labels = panels[0].get_legend_handles_labels()
            drawn.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize="small")
        svg = to_svg(drawn)
    if alone:
        caption = "Loss and accuracy by epoch, measured on the validation set unless it says training."
    else:
        caption = (
            "Loss and top-1 accuracy on training images as they are augmented (lines) and on the validation set "
            "(points), by epoch; a line a seed. Training losses of different methods are not comparable."
        )
    return Picture(name=name, caption=caption, svg=svg)


def _draw_one(axes: Any, history: History, columns: Mapping[str, str]) -> None:
    for position, (column, label) in enumerate(columns.items()):
        x, y = _points(history, column)
        if x:
            marker = "o" if len(x) <= 30 else ""
            axes.plot(x, y, color=COLOURS[position], label=label, marker=marker, markersize=3.5, linewidth=1.5)


def _draw_several(axes: Any, trainings: Mapping[str, Sequence[History]], columns: Mapping[str, str]) -> None:
    styles = ("-", "--", ":")
    for position, (label, histories) in enumerate(trainings.items()):
        colour = COLOURS[position % len(COLOURS)]
        style = styles[position // len(COLOURS) % len(styles)]
        for seed, history in enumerate(histories):
            trained, validated = ("train_loss", "loss") if "loss" in columns else ("train_top1", "top1")
            x, y = _points(history, trained)
            axes.plot(x, y, style, color=colour, linewidth=1.1, alpha=0.8, label=None if seed else label)
            x, y = _points(history, validated)
            axes.plot(x, y, "o", color=colour, markersize=4, alpha=0.8)


def _points(history: History, column: str) -> tuple[list[float], list[float]]:
    found = [(float(row["epoch"]), float(row[column])) for row in history if column in row]
    return [x for x, _ in found], [y for _, y in found]
