"""Figures inside an HTML page: one must not touch another, and all must be readable on light and dark ground."""

from __future__ import annotations

import re
from html import escape
from xml.etree import ElementTree as ET

from common.figures import INK

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)

_BANNED = {f"{{{SVG}}}{name}" for name in ("metadata", "script", "foreignObject", "title")}
_HREFS = ("href", f"{{{XLINK}}}href")
_URL = re.compile(r"url\(\s*['\"]?#([^)'\"]+)['\"]?\s*\)")
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
_GREY = re.compile(r"#([0-5][0-9a-f])\1\1\b|\bblack\b", re.IGNORECASE)
_INK = re.compile(INK, re.IGNORECASE)
_WHITE = re.compile(r"fill:\s*(#ffffff|white)", re.IGNORECASE)


def inline(svg: str, prefix: str, label: str) -> str:
    """``svg`` ready to stand inside an HTML page.

    Ids and style rules are confined to the figure by ``prefix``; scripts, event handlers and outside references are
    removed; black and grey ink takes the colours of the page's text, and white grounds become the page's.

    Args:
        svg: an SVG document, e.g. what matplotlib writes.
        prefix: unique in the page, a valid id.
        label: what a screen reader says.

    Returns:
        An ``<svg>`` element as text; a sentence in its place if ``svg`` is not well-formed.
    """
    try:
        root = ET.fromstring(svg)
    except ET.ParseError as error:
        return f'<p class="broken">This figure cannot be shown: its SVG is malformed ({escape(str(error))}).</p>'
    _remove_banned(root)
    _clear_grounds(root)
    for element in root.iter():
        _confine(element, prefix)
        _recolour(element)
    width = _pixels(root.attrib.pop("width", ""))
    height = _pixels(root.attrib.pop("height", ""))
    if "viewBox" not in root.attrib and width and height:
        root.set("viewBox", f"0 0 {width:g} {height:g}")
    if width:
        # Shrinks with the page until its text would be too small to read; then it is scrolled.
        root.set("style", f"width:{width:.0f}px;min-width:min(30rem,{width:.0f}px);max-width:100%")
    root.attrib.update({"id": prefix, "role": "img", "aria-label": label, "fill": "currentColor"})
    return ET.tostring(root, encoding="unicode")


def _remove_banned(root: ET.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in _BANNED:
                parent.remove(child)


def _clear_grounds(root: ET.Element) -> None:
    """Matplotlib paints the figure, each axes and each legend white before anything else."""
    for group in root.iter(f"{{{SVG}}}g"):
        name = group.get("id", "")
        if not name.startswith(("figure_", "axes_", "legend_")):
            continue
        first = next((child for child in group if child.get("id", "").startswith("patch_")), None)
        for path in first.iter(f"{{{SVG}}}path") if first is not None else ():
            ground = "var(--surface)" if name.startswith("legend_") else "none"
            path.set("style", _WHITE.sub(f"fill: {ground}", path.get("style", "")))


def _confine(element: ET.Element, prefix: str) -> None:
    for name, value in list(element.attrib.items()):
        if name.lower().startswith("on"):
            del element.attrib[name]
        elif name == "id":
            element.set(name, f"{prefix}-{value}")
        elif name in _HREFS:
            if value.startswith("#"):
                element.set(name, f"#{prefix}-{value[1:]}")
            elif not value.lstrip().startswith("data:image/"):
                del element.attrib[name]
        else:
            element.set(name, _urls(value, prefix))
    if element.tag == f"{{{SVG}}}style":
        rules = [(selector.strip(), body) for selector, body in _RULE.findall(element.text or "")]
        element.text = "".join(
            f"#{prefix} {selector} {{{_urls(body, prefix)}}}"
            for selector, body in rules
            if not selector.startswith("@")
        )


def _urls(text: str, prefix: str) -> str:
    return _URL.sub(rf"url(#{prefix}-\1)", text)


def _recolour(element: ET.Element) -> None:
    for name in ("style", "fill", "stroke"):
        if name in element.attrib:
            element.set(name, _INK.sub("var(--soft)", _GREY.sub("currentColor", element.attrib[name])))


def _pixels(length: str) -> float | None:
    """A length in CSS pixels; None where it is relative or missing."""
    match = re.fullmatch(r"([0-9.]+)(pt|px|)", length.strip())
    return float(match.group(1)) * (4 / 3 if match.group(2) == "pt" else 1) if match else None
