"""What trainings leave for their reader: curves in the report of a run, and a report of a training by itself."""

from __future__ import annotations

import json
from pathlib import Path

from markupsafe import Markup

from common.errors import UserError
from common.files import write_atomic
from common.measurement import Picture
from common.training.curves import TRAININGS, read_history, training_curves
from results import page, style
from results.svg import inline

#: Rows of the table of epochs: the last ones.
MOST_EPOCHS = 20


def curves(folder: Path) -> Picture | None:
    """Loss and accuracy of all models that a run trained, a colour a model; None where it trained none."""
    by_model: dict[str, dict[int, list[dict[str, float]]]] = {}
    for path in sorted((folder / TRAININGS).glob("*.csv")):
        for row in read_history(path):
            model, seed = row.pop("model"), int(row.pop("seed"))
            numbers = {key: float(text) for key, text in row.items()}
            by_model.setdefault(model, {}).setdefault(seed, []).append(numbers)
    return training_curves("training", {model: list(seeds.values()) for model, seeds in sorted(by_model.items())})


def write_report(folder: Path) -> Path | None:
    """Write ``report.html`` into the folder of a training by ``./reproduce.sh SLUG train``.

    Returns:
        Its path, or None where no epoch has ended yet.

    Raises:
        UserError: the folder's logs are damaged.
    """
    log, record = folder / "history.csv", folder / "run.json"
    if not log.exists() or not record.exists():
        return None
    rows = [{key: float(text) for key, text in row.items()} for row in read_history(log)]
    try:
        origin = json.loads(record.read_text())
        settings = origin["settings"]
        recipe = settings["recipe"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{record} is damaged; training writes it anew when it is continued.") from None
    picture = training_curves("training", {"": [rows]})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    page_text = page.render(
        "training.html",
        title=folder.name,
        curves=picture and {"caption": picture.caption, "svg": Markup(inline(picture.svg, "figure1", picture.caption))},
        columns=columns,
        epochs=[[_cell(row.get(column), column) for column in columns] for row in rows[-MOST_EPOCHS:]],
        total=len(rows),
        most=MOST_EPOCHS,
        recipe={key: json.dumps(value) for key, value in recipe.items() if key != "changes"},
        changes=recipe.get("changes") or [],
        settings={key: value for key, value in settings.items() if key != "recipe"},
        provenance_json=json.dumps(origin, indent=1),
    )
    return write_atomic(folder / "report.html", page_text)


def _cell(value: float | None, column: str) -> str:
    if value is None:
        return style.DASH
    return f"{value:.0f}" if column in ("epoch", "step") else style.number(value)
