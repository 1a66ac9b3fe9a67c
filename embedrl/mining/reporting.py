"""The report that `embedrl mine` and `embedrl gain` leave beside their mix."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedrl.training.checkpoints import config_form
from embedrl.utils.atomic_files import replacing
from embedrl.utils.secrets import without_secrets
from embedrl.utils.versions import environment


def write_report(out: Path, facts: Mapping[str, Any], started: float, settings: Mapping[str, Any]) -> None:
    """Write `report.json`: what was done, how long it took, where, and with which settings.

    Args:
        out: The folder.
        facts: What was done.
        started: `time.monotonic()` when the work began.
        settings: The command's settings, as objects.
    """
    report = {
        **facts,
        "wall_seconds": round(time.monotonic() - started, 1),
        **environment(),
        "config": without_secrets(config_form(dict(settings))),
    }
    with replacing(out / "report.json") as part:
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
