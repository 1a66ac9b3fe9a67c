"""The targets of the fuzz by name."""

from __future__ import annotations

from fuzzing.configs import configs
from fuzzing.files import files
from fuzzing.harness import Target
from fuzzing.pictures import pdfs, pictures, videos
from fuzzing.readers import readers
from fuzzing.rows import rows
from fuzzing.servers import servers
from fuzzing.tcots import tcots

TARGETS: dict[str, Target] = {
    "rows": rows,
    "readers": readers,
    "pictures": pictures,
    "videos": videos,
    "pdfs": pdfs,
    "tcots": tcots,
    "servers": servers,
    "configs": configs,
    "files": files,
}
"""Rows of pairs; local copies of benchmarks; pictures, videos, PDF files; T-CoTs; a server's answers; YAML; files that
embedrl itself has written."""
