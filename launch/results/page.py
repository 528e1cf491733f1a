"""The HTML of a report: one file with its pictures, style and script inside, that fetches nothing."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launch.results.figures import COLOURS, GRID, INK, rendered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NOTICES = 12
# The colours of the series on a dark ground: the same hues, lighter.
_DARK = ("#5aa9e6", "#ff8a4c", "#35c497", "#e7a6cc", "#f4b942", "#9adcff", "#b39ddb")
_LIGHT_SERIES = "".join(f"--s{i}:{colour};" for i, colour in enumerate(COLOURS))
_DARK_SERIES = "".join(f"--s{i}:{colour};" for i, colour in enumerate(_DARK))
_LIGHT_GROUND = "--paper:#fff;--panel:#f6f8fa;--link:#0550ae;--mark:#fff8c5;"
_LIGHT_ALL = f"--ink:{INK};--soft:#57606a;--grid:{GRID};{_LIGHT_GROUND}{_LIGHT_SERIES}"

_STYLE = f"""
:root{{color-scheme:light dark;{_LIGHT_ALL}}}
@media (prefers-color-scheme:dark){{:root{{--ink:#e6e9ed;--soft:#9aa4af;--grid:#343b44;--paper:#14181d;--panel:#1c2128;
--link:#79b8ff;--mark:#3a3210;{_DARK_SERIES}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans","DejaVu Sans",sans-serif}}
main,header{{max-width:1120px;margin:0 auto;padding:0 28px}}
header{{padding-top:34px;padding-bottom:14px;border-bottom:1px solid var(--grid)}}
h1{{font-size:27px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}}
h2{{font-size:20px;margin:40px 0 6px;padding-top:4px}}
h3{{font-size:15px;margin:22px 0 6px}}
p{{margin:6px 0 10px;max-width:78ch}}
.soft,figcaption,.note{{color:var(--soft);font-size:13.5px}}
nav{{margin-top:10px;font-size:13.5px}} nav a{{margin-right:14px;white-space:nowrap}}
a{{color:var(--link);text-decoration:none}} a:hover{{text-decoration:underline}}
figure{{margin:12px 0 18px;overflow-x:auto}} figure svg{{display:block;width:100%;height:auto}}
figure svg text{{font-family:inherit}}
figcaption{{margin-top:6px;max-width:90ch}}
.pair{{display:flex;flex-wrap:wrap;gap:0 34px;align-items:flex-start}} .pair figure{{flex:1 1 420px}}
.wide{{overflow-x:auto}}
table{{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}}
th,td{{padding:5px 10px;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}}
th{{color:var(--soft);font-weight:600;border-bottom:1.5px solid var(--soft)}}
th.sort{{cursor:pointer}} th.sort:hover{{color:var(--ink)}} th[data-up="1"]::after{{content:" ▴"}}
th[data-up="0"]::after{{content:" ▾"}}
th:first-child,td:first-child,td.text,th.text{{text-align:left}}
tbody tr:hover{{background:var(--panel)}}
tr.best td{{font-weight:650}}
td svg{{vertical-align:middle}}
.key{{display:inline-block;width:26px;height:10px;margin-right:8px;vertical-align:middle}}
.notices{{background:var(--mark);border-radius:6px;padding:10px 16px;margin:18px 0;font-size:13.5px}}
.notices ul{{margin:4px 0 0;padding-left:20px}}
pre{{background:var(--panel);border-radius:6px;padding:9px 12px;margin:6px 0 12px;font-size:12.5px;white-space:pre-wrap;
overflow-wrap:anywhere}}
code,pre{{font-family:ui-monospace,"SFMono-Regular",Menlo,Consolas,"Liberation Mono","DejaVu Sans Mono",monospace}}
details{{margin:10px 0}} summary{{cursor:pointer;color:var(--soft)}}
body.lit .series:not(.on),body.lit tr[data-s]:not(.on){{opacity:.16}} .series,tr[data-s]{{transition:opacity .12s}}
footer{{max-width:1120px;margin:36px auto 30px;padding:12px 28px 0;border-top:1px solid var(--grid);color:var(--soft);
font-size:13px}}
@media print{{:root{{color-scheme:light;{_LIGHT_ALL}}} body{{font-size:10.5pt}} nav{{display:none}}
main,header,footer{{max-width:none;padding-left:0;padding-right:0}} figure,table,pre{{break-inside:avoid}}
h2,h3{{break-after:avoid}}}}
"""

# Pointing at a method anywhere shows it everywhere; a click on a column sorts by it.
_SCRIPT = """
const all=document.querySelectorAll('[data-s]');
function light(s){document.body.classList.toggle('lit',s!==null);
all.forEach(e=>e.classList.toggle('on',e.dataset.s===s))}
all.forEach(e=>{e.addEventListener('mouseenter',()=>light(e.dataset.s));e.addEventListener('mouseleave',()=>light(null))});
document.querySelectorAll('th.sort').forEach(th=>th.addEventListener('click',()=>{
const body=th.closest('table').tBodies[0],column=th.cellIndex,up=th.dataset.up==='1'?0:1;
th.parentNode.querySelectorAll('th').forEach(t=>delete t.dataset.up);th.dataset.up=up;
const value=r=>{const t=r.cells[column].dataset.v??r.cells[column].textContent,n=parseFloat(t);return isNaN(n)?t:n};
const order=(a,b)=>{const x=value(a),y=value(b);return (x>y?1:x<y?-1:0)*(up?1:-1)};
[...body.rows].sort(order).forEach(r=>body.append(r))}));
"""


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str, str]], notices: Sequence[str]) -> str:
    """A whole page.

    Args:
        title, subtitle: At the top, as text.
        sections: (anchor, heading, HTML) each; the headings as text.
        notices: What was left out or only partly used, as text.
    """
    links = " ".join(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, heading, _ in sections)
    body = "".join(
        f'<section id="{a}"><h2>{escape(heading)}</h2>{content}</section>' for a, heading, content in sections
    )
    told = ""
    if notices:
        more = [f"{len(notices) - MOST_NOTICES} more"] if len(notices) > MOST_NOTICES else []
        items = "".join(f"<li>{escape(notice)}</li>" for notice in [*notices[:MOST_NOTICES], *more])
        told = f'<div class="notices"><strong>Notes on these runs</strong><ul>{items}</ul></div>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p><nav>{links}</nav></header>'
        f"<main>{told}{body}</main>"
        "<footer>Made by srl-jax, launch/report.py. Intervals are 95 % percentile intervals of a stratified bootstrap "
        "over runs (Agarwal et al. 2021, arXiv 2108.13264).</footer>"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def figure(drawn: Figure, number: int, caption: str) -> str:
    """A picture inside the page, in the page's colours and font; `number` tells it from the others."""
    width = drawn.get_figwidth() * 100
    return (
        f'<figure style="max-width:{width:.0f}px">{_inline(rendered(drawn, "svg", text=True).decode(), number)}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _inline(svg: str, number: int) -> str:
    """An SVG file of matplotlib as part of a page: variables for its colours, names of its own, no sizes."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;\"]*", _font, svg)
    svg = re.sub(r'<g id="series-(\d+)-\w+"', r'<g class="series" data-s="\1"', svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{number}-", svg)
    for name, colour in (("ink", INK), ("grid", GRID), *((f"s{i}", c) for i, c in enumerate(COLOURS))):
        svg = svg.replace(colour, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg)


def _font(match: re.Match[str]) -> str:
    """A font of matplotlib without its family: the page's is taken."""
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px"


def key(style: int) -> str:
    """The line that stands for a method, for a table."""
    patterns = ("", "5 2", "1.5 2", "6 2 1.5 2", "9 2")
    dash = f' stroke-dasharray="{patterns[style % len(patterns)]}"' if patterns[style % len(patterns)] else ""
    shade = f"var(--s{style % len(COLOURS)})"
    line = f'<path d="M1 5H25" stroke="{shade}" stroke-width="2.6" fill="none"{dash}/>'
    return f'<svg class="key" viewBox="0 0 26 10">{line}</svg>'


def forest(value: float, low: float, high: float, runs: Sequence[float], span: tuple[float, float], style: int) -> str:
    """A small picture for a table: the interval as a bar, single runs as dots, the estimate as a line."""
    width, height = 230.0, 18.0
    scale = (width - 12.0) / (span[1] - span[0] or 1.0)

    def at(x: float) -> str:
        return f"{6.0 + (x - span[0]) * scale:.1f}"

    shade = f"var(--s{style % len(COLOURS)})"
    parts = [f'<path d="M6 9H{width - 6:.0f}" stroke="var(--grid)"/>']
    if low == low and high == high:
        breadth = max((high - low) * scale, 1.0)
        parts.append(
            f'<rect x="{at(low)}" y="4" width="{breadth:.1f}" height="10" rx="2" fill="{shade}" opacity=".35"/>'
        )
    parts += [f'<circle cx="{at(x)}" cy="9" r="2.1" fill="none" stroke="{shade}" opacity=".75"/>' for x in runs[:60]]
    if value == value:
        parts.append(f'<path d="M{at(value)} 2V16" stroke="{shade}" stroke-width="2.6"/>')
    return f'<svg width="{width:.0f}" height="{height:.0f}" role="img">{"".join(parts)}</svg>'


def table(header: Sequence[str], rows: Sequence[str], sortable: bool = True) -> str:
    """A table from its headings, as text, and its rows, as HTML."""
    kind = ' class="sort"' if sortable else ""
    heads = "".join(f"<th{kind}>{escape(name)}</th>" for name in header)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
