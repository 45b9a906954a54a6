"""Run folders to one self-contained HTML report.

* `load`: reads and checks run folders;
* `headline`, `tables`, `plots`, `videos`, `compare`: each section's content;
* `seed_groups`: not in the report, but for ``vla-cl compare``: several seeds of each method;
* `svg`, `numbers`: shapes and number formats;
* `page`: puts the sections into ``page.html`` with ``style.css`` and writes the file.
"""

from vla_cl.report.page import write_report

__all__ = ["write_report"]
