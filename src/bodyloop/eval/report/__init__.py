"""The pages of evaluations: one HTML file of one report, or of several that are compared.

`gather` works everything out, `sections` and `confidence` say it in the order in which it is read (how good,
where it fails, why, how sure, how this was measured), `charts` and `cases` draw, `pages` puts it together.
"""

from __future__ import annotations

from bodyloop.eval.report.pages import report_page, write_confidence, write_pck, write_report

__all__ = ["report_page", "write_confidence", "write_pck", "write_report"]
