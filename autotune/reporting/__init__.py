"""Write a study's results: tables, plots, pages, comparisons."""
