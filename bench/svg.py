"""A grouped bar chart as SVG text: minima per verb and runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = {"ociruntime": "#0969da", "runc": "#bf8700", "crun": "#8250df"}


def chart(
    title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], unit: str = "ms"
) -> str:
    """Bars of ``series[name][i]`` for each ``groups[i]``; returns a whole SVG document."""
    bar, gap, height, left, top = 22, 26, 240, 48, 56
    group = bar * len(series) + gap
    width = left + group * len(groups) + 40
    highest = max((value for values in series.values() for value in values), default=1.0) or 1.0
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + top + 40}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height + top + 40}" fill="#ffffff"/>',
        f'<text x="{left}" y="20" font-size="14" font-weight="600">{escape(title)}</text>',
    ]
    for index, name in enumerate(series):
        x = left + index * 110
        colour = COLOURS.get(name, "#57606a")
        out.append(f'<rect x="{x}" y="30" width="12" height="12" fill="{colour}"/>')
        out.append(f'<text x="{x + 17}" y="40">{escape(name)}</text>')
    for step in range(5):
        value = highest * step / 4
        y = top + height - height * step / 4
        out.append(
            f'<line x1="{left}" x2="{width - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>'
        )
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.0f}</text>')
    for position, label in enumerate(groups):
        x = left + position * group + gap / 2
        for index, (name, values) in enumerate(series.items()):
            tall = height * values[position] / highest
            out.append(
                f'<rect x="{x + index * bar:.1f}" y="{top + height - tall:.1f}" width="{bar - 3}" '
                f'height="{tall:.1f}" fill="{COLOURS.get(name, "#57606a")}">'
                f"<title>{escape(name)} {escape(label)}: {values[position]:.1f} {unit}</title></rect>"
            )
        middle = x + bar * len(series) / 2
        out.append(
            f'<text x="{middle:.1f}" y="{top + height + 18}" text-anchor="middle">{escape(label)}</text>'
        )
    out.append("</svg>")
    return "\n".join(out) + "\n"
