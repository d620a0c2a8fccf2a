"""A study as text: tables, report.md, terminal output, model card, commands."""
