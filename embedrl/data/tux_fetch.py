"""Fetches Debian's package of Tux Paint stamps, checks it, and unpacks its pictures and captions. Needs no root."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from embedrl.data.tux import VERSION, default_root
from embedrl.errors import DataError

PACKAGE = "tuxpaint-stamps-default"
SHA256 = "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
URL = f"https://deb.debian.org/debian/pool/main/t/tuxpaint-stamps/{PACKAGE}_{VERSION}_all.deb"
_FOLDER = "usr/share/tuxpaint/stamps/"


def fetch(root: Path | None = None, deb: Path | None = None, sha256: str = SHA256) -> Path:
    """Unpack the stamps into a folder; does nothing if they are there.

    Args:
        root: The folder; None takes `default_root()`.
        deb: The package, if it was downloaded already; None downloads it with `apt-get download` (161 MB).
        sha256: What the package must hash to.

    Returns:
        The folder.

    Raises:
        DataError: If the package cannot be downloaded, is another version, or cannot be unpacked.
    """
    root = root or default_root()
    if (root / _FOLDER).is_dir():
        return root
    if root.exists():
        raise DataError(f"{root} exists but holds no stamps: remove it, or give another --root")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".tux-") as scratch:
        package = deb or _download(Path(scratch))
        _check(package, sha256)
        unpacked = Path(scratch) / "unpacked"
        _unpack(package, unpacked)
        unpacked.rename(root)
    return root


def _download(folder: Path) -> Path:
    cure = f"download {URL} and give it with --deb"
    if shutil.which("apt-get") is None:
        raise DataError(f"there is no apt-get here: {cure}")
    done = subprocess.run(
        ["apt-get", "download", f"{PACKAGE}={VERSION}"], cwd=folder, capture_output=True, text=True, check=False
    )
    found = list(folder.glob("*.deb"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["no package came"])[-1]
        raise DataError(f"apt-get download {PACKAGE}={VERSION}: {reason}; {cure}")
    return found[0]


def _check(package: Path, sha256: str) -> None:
    try:
        with package.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {package} ({error}): download {URL}") from error
    if found != sha256:
        raise DataError(f"{package} has sha256 {found}, not {sha256}: it is not {PACKAGE} {VERSION}, download {URL}")


def _unpack(package: Path, out: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        raise DataError("there is no dpkg-deb here: install the package dpkg")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if member.isfile() and name.startswith(_FOLDER) and name.endswith((".png", ".txt")):
                        archive.extract(member, out, filter="data")
        except tarfile.TarError as error:
            raise DataError(f"cannot unpack {package} ({error}): download {URL}") from error
    if process.returncode or not (out / _FOLDER).is_dir():
        raise DataError(f"cannot unpack {package}: download {URL}")
