"""What scripts/report.py makes of a sweep's folder: results beside the paper's, as a page and as Markdown."""
