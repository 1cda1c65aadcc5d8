"""A bar chart as SVG, without any library: one panel for each job, one bar for each peer, lengths relative to the best."""

from html import escape

COLOURS = {"ours": "#1a6fb5", "plain": "#7fb3d9", "limit": "#c9c9c9", "peer": "#d98c3f"}
LABEL, BAR, VALUE, ROW, PANEL_HEAD, GAP = 190, 300, 110, 18, 28, 14


def rate(value, unit):
    if unit != "MB/s" and value >= 1000:
        return f"{value / 1000:.1f}k {unit}"
    return f"{value:,.0f} {unit}".replace(",", "\u202f")


def draw(panels, title):
    """`panels`: (title, unit, [(label, kind, value)]). Returns the SVG text."""
    columns = 2
    width = columns * (LABEL + BAR + VALUE) + 3 * GAP
    heights = [PANEL_HEAD + ROW * len(rows) + GAP for _, _, rows in panels]
    row_heights = [max(heights[index:index + columns]) for index in range(0, len(heights), columns)]
    height = 40 + sum(row_heights) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{GAP}" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    top = 40
    for index, (name, unit, rows) in enumerate(panels):
        column = index % columns
        if column == 0 and index:
            top += row_heights[index // columns - 1]
        left = GAP + column * (LABEL + BAR + VALUE + GAP)
        out.append(f'<text x="{left}" y="{top + 18}" font-weight="bold">{escape(name)}</text>')
        # The raw file is off the scale of everything else: it would make all other bars slivers.
        longest = max((value for _, kind, value in rows if kind != "limit"), default=1)
        for line, (label, kind, value) in enumerate(rows):
            y = top + PANEL_HEAD + line * ROW
            length = min(value / longest, 1.0) * BAR
            more = " \u2192" if value > longest else ""
            weight = ' font-weight="bold"' if kind == "ours" else ""
            out.append(f'<text x="{left + LABEL - 6}" y="{y + 12}" text-anchor="end"{weight}>{escape(label)}</text>')
            out.append(f'<rect x="{left + LABEL}" y="{y + 2}" width="{length:.1f}" height="{ROW - 5}" fill="{COLOURS[kind]}"/>')
            out.append(f'<text x="{left + LABEL + length + 5:.1f}" y="{y + 12}"{weight}>{rate(value, unit)}{more}</text>')
    legend = [("ours", "our encrypted disk"), ("plain", "our plain FUSE mode"), ("peer", "other programs"), ("limit", "no FUSE at all")]
    x = GAP
    for kind, text in legend:
        out.append(f'<rect x="{x}" y="{height - 22}" width="12" height="12" fill="{COLOURS[kind]}"/>')
        out.append(f'<text x="{x + 17}" y="{height - 12}">{text}</text>')
        x += 160
    out.append("</svg>")
    return "\n".join(out) + "\n"
