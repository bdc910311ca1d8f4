"""The page of an evaluation: `write_report` makes one HTML file of one report, or of several compared.

`gather` works everything out, `sections` puts it in the order in which it is read (how good, where it fails,
why, and how this was measured), `charts` and `cases` draw.
"""

from __future__ import annotations

from bodyloop.eval.report.sections import report_page, write_report

__all__ = ["report_page", "write_report"]
