"""Fetch what configs/eval/real_small.yaml scores on: python scripts/fetch_real_small.py [--deb '[FILE, ...]'].

Four packages of Debian 12, 322 MB together, checked and unpacked below $EMBEDRL_CACHE or ~/.cache/embedrl.
"""

import sys
from pathlib import Path

from debian_packages import MANUAL, PICTURES, STAMPS, TAGS, fetch
from jsonargparse import auto_cli

from embedrl.errors import ConfigError, EmbedRLError

PACKAGES = (STAMPS, MANUAL, PICTURES, TAGS)


def main(deb: list[Path] | None = None) -> None:
    """Fetch, check and unpack the packages; what is there stays.

    Args:
        deb: Packages that were downloaded already, by any name that begins as Debian's; the others are downloaded.
    """
    try:
        given: dict[str, Path] = {}
        for file in deb or []:
            names = [package.name for package in PACKAGES if file.name.startswith(f"{package.name}_")]
            if not names:
                raise ConfigError(f"--deb {file}: none of {', '.join(package.name for package in PACKAGES)}")
            given[names[0]] = file
        for package in PACKAGES:
            print(f"{package.name} {package.copy.version}: {fetch(package, deb=given.get(package.name))}", flush=True)
    except EmbedRLError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    auto_cli(main)
