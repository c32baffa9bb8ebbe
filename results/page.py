"""HTML pages that need nothing else: a template of this folder, filled, with ``report.css`` inside."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from results import style


def render(template: str, **context: Any) -> str:
    """Fill ``template``; what it names and ``context`` lacks is an error."""
    return _environment().get_template(template).render(**context)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["anchor"] = anchor
    environment.filters["breakable"] = breakable
    environment.globals["style"] = style
    return environment


def anchor(text: str) -> str:
    """``text`` as an id or a class: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def breakable(model: str) -> Markup:
    """A model's name that may go on in a new line before its tag."""
    return Markup("<wbr>.").join(model.split("."))
