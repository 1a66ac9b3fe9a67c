"""Fetch Debian's Tux Paint stamps (161 MB, 30 MB unpacked): python scripts/fetch_tux.py [--root DIR] [--deb FILE]."""

import sys
from pathlib import Path

from debian_packages import STAMPS, fetch
from jsonargparse import auto_cli

from embedrl.data.datasets.tux import read_stamps
from embedrl.errors import EmbedRLError


def main(root: Path | None = None, deb: Path | None = None) -> None:
    """Fetch, check and unpack the stamps.

    Args:
        root: The folder to unpack into; by default $EMBEDRL_CACHE or ~/.cache/embedrl.
        deb: The Debian package, if it was downloaded already.
    """
    try:
        folder = fetch(STAMPS, root, deb)
        print(f"{folder}: {len(read_stamps(folder))} captioned pictures")
    except EmbedRLError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    auto_cli(main)
