"""The page of a report: blocks of plain text and figures become one HTML file.

Everything is escaped here and nowhere else. The page has no script, and its content policy forbids
the browser to run any or to fetch anything: a report of a foreign run can do nothing.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.figure import Figure

DPI = 150
SMALL = 7.6  # inches; narrower figures share a row
STRIP = 9.0  # inches; wider ones are moved sideways on a phone
LOSSLESS = 200_000  # bytes; larger pictures are packed as WebP


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    words: str


@dataclass(frozen=True)
class Points:
    """Sentences, each with a bullet."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """A sentence that says what is missing or must be looked at."""

    words: str
    warns: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure with its words."""

    name: str
    """Of its file, without ending."""
    figure: Figure
    alt: str
    """What is seen, for those who don't see it."""
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of words under a head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Listing:
    """A long text, folded away."""

    title: str
    words: str


Block = Text | Points | Note | Picture | Table | Listing


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126; --soft: #5b6670; --line: #d9dee3;
  --card: #f5f7f9; --warn: #fff4dc; --edge: #c98a00; --link: #0b62a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e4e8ec; --soft: #9aa6b1;
  --line: #333b43; --card: #1d2329; --warn: #33290f; --edge: #d9a020; --link: #7ab8ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 1.5rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .2em 0; }
h2 { font-size: 1.35rem; margin: 2.2em 0 .6em; padding-top: .6em;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .6em 0; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1rem 0; }
.soft, figcaption, footer { color: var(--soft); font-size: .9rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .7rem;
  margin: 1.2rem 0; }
.facts div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.12rem; font-weight: 600; line-height: 1.3; }
.note { background: var(--card); border-left: .25rem solid var(--soft); padding: .5rem .9rem; }
.warns { background: var(--warn); border-left-color: var(--edge); }
.row { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: flex-start; }
figure { margin: .6rem 0; max-width: 100%; }
figcaption { max-width: 46rem; margin-top: .3rem; }
.row figure { flex: 0 1 auto; max-width: calc(var(--w) * 74px + 1rem); }
.scroll { overflow-x: auto; background: #fff; border-radius: .5rem; padding: .5rem; }
img { display: block; width: calc(var(--w) * 88px); max-width: 100%; height: auto; }
.row img { width: calc(var(--w) * 74px); }
ul { max-width: 46rem; padding-left: 1.2rem; } li { margin: .3em 0; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
td:last-child { min-width: 14rem; white-space: normal; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
pre { background: var(--card); padding: .8rem; border-radius: .5rem; overflow-x: auto;
  font-size: .82rem; line-height: 1.4; }
@media (max-width: 40rem) { body { padding: 1rem .8rem; } h1 { font-size: 1.5rem; }
  .row { display: block; } .row figure { max-width: 100%; }
  img, .row img { max-width: none; width: max(100%, calc(var(--w) * 50px)); }
  .strip img { width: calc(var(--w) * 72px); } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  figure, .facts div, tr { break-inside: avoid; } h2 { break-after: avoid; }
  details > pre { display: block; white-space: pre-wrap; } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_page(
    title: str, lead: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> tuple[str, dict[str, bytes]]:
    """Write a page as HTML, every figure inside it.

    Parameters
    ----------
    title
        Heading.
    lead
        Sentence under it.
    facts
        Names and values shown large.
    sections
        In their order; those without blocks are left out.

    Returns
    -------
    html : str
        The whole file.
    pictures : dict
        The figures as PNG, by name.

    Examples
    --------
    >>> html, _ = write_page("<b>", "", [], [Section("One", (Text("1 < 2"),))])
    >>> "<b>" in html, "1 &lt; 2" in html
    (False, True)
    """
    pictures: dict[str, bytes] = {}
    shown = [section for section in sections if section.blocks]
    links = "".join(
        f'<a href="#part{k}">{escape(section.title)}</a>' for k, section in enumerate(shown)
    )
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts
    )
    body = "".join(
        f'<section id="part{k}"><h2>{escape(section.title)}</h2>'
        f"{_blocks(section.blocks, pictures)}</section>\n"
        for k, section in enumerate(shown)
    )
    html = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><header><h1>{escape(title)}</h1>"
        f'<p class="soft">{escape(lead)}</p><dl class="facts">{cards}</dl></header>\n'
        f'<nav aria-label="Parts">{links}</nav>\n<main>{body}</main>\n</body></html>\n'
    )
    return html, pictures


def to_png(figure: Figure) -> bytes:
    """Draw a figure without the white around it.

    Examples
    --------
    >>> to_png(Figure(figsize=(1, 1)))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.03)
    return buffer.getvalue()


def _blocks(blocks: Sequence[Block], pictures: dict[str, bytes]) -> str:
    """Blocks in a row; small figures that follow one another share it."""
    parts: list[str] = []
    small: list[str] = []
    for block in blocks:
        is_small = isinstance(block, Picture) and block.figure.get_figwidth() < SMALL
        if small and not is_small:
            parts.append(f'<div class="row">{"".join(small)}</div>')
            small = []
        (small if is_small else parts).append(_block(block, pictures))
    if small:
        parts.append(f'<div class="row">{"".join(small)}</div>')
    return "\n".join(parts)


def _block(block: Block, pictures: dict[str, bytes]) -> str:
    """One block as HTML."""
    if isinstance(block, Text):
        return f"<p>{escape(block.words)}</p>"
    if isinstance(block, Points):
        return "<ul>" + "".join(f"<li>{escape(words)}</li>" for words in block.words) + "</ul>"
    if isinstance(block, Note):
        return f'<p class="note{" warns" if block.warns else ""}">{escape(block.words)}</p>'
    if isinstance(block, Listing):
        return (
            f"<details><summary>{escape(block.title)}</summary>"
            f'<pre tabindex="0">{escape(block.words)}</pre></details>'
        )
    if isinstance(block, Table):
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in block.head)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in block.rows
        )
        return (
            f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    try:
        png = pictures[block.name] = to_png(block.figure)
    except Exception as error:  # of matplotlib, over a name that it takes for a formula, say
        return _block(Note(f"The figure {block.name} can't be drawn ({error})."), pictures)
    width = int.from_bytes(png[16:20]) / DPI  # of the picture, inches: from its header
    kind, code = _packed(png)
    return (
        f'<figure style="--w:{width:.2f}"{" class=strip" if width > STRIP else ""}>'
        f'<div class="scroll" tabindex="0"><img src="data:image/{kind};base64,{code}" '
        f'alt="{escape(block.alt)}"></div>'
        f"<figcaption>{escape(block.caption)}</figcaption></figure>"
    )


def _packed(png: bytes) -> tuple[str, str]:
    """Kind and base64 text of a picture; photographs shrink fivefold."""
    if len(png) <= LOSSLESS:
        return "png", base64.b64encode(png).decode()
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "WEBP", quality=88, method=4)
    return "webp", base64.b64encode(buffer.getvalue()).decode()
