"""What is written can be read: contrasts of the style sheet, by the rule of the WCAG (level AA)."""

from __future__ import annotations

import re
from importlib import resources

import pytest

CSS = resources.files("perdure.console").joinpath("static/console.css").read_text("utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", block))
    for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
)
STATES = ("blue", "green", "red", "amber", "violet", "cyan", "accent")


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_contrasts(colours: dict[str, str]) -> None:
    pairs = [(text, ground) for text in ("text", "muted", "faint") for ground in ("bg", "surface", "raised")]
    pairs += [(state, ground) for state in STATES for ground in ("surface", f"{state}-soft")]
    pairs += [("muted", "grey-soft"), ("text", "red-soft"), ("muted", "red-soft"), ("text", "amber-soft")]
    low = {
        pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2)
        for pair in pairs
        if contrast(colours[pair[0]], colours[pair[1]]) < 4.5
    }
    assert low == {}


def test_both_have_every_colour() -> None:
    assert LIGHT.keys() == DARK.keys()


def test_nothing_is_loaded_from_elsewhere() -> None:
    """Nor could it be: the page's policy forbids it."""
    for file in resources.files("perdure.console").joinpath("static").iterdir():
        text = file.read_text("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?://|@import|url\(|//[a-z]+\.", text), file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text), (
            file.name
        )
