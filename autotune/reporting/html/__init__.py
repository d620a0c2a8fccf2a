"""report.html: one file that needs no network and no script.

page.py       the page from a study: `report_html`
sections.py   what each section shows, as plain data
figures.py    every plot as inline SVG that follows the reader's light or dark mode
svg.py        one matplotlib figure as inline SVG
templates/    the page, its style and its small script
"""
