"""Fetches a pinned package of Debian, checks it, and unpacks the files we read. Needs no root."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from embedrl.errors import DataError

MIRROR = "https://deb.debian.org/debian/pool/main"


@dataclass(frozen=True)
class Package:
    """One version of a package, and what we read of it.

    Attributes:
        name: Its name.
        version: Its version.
        sha256: What the file hashes to.
        source: Folder of the file in Debian's pool, such as `t/tuxpaint-stamps`.
        folder: The folder that is unpacked, as it lies in the package.
        suffixes: Files with these endings are unpacked, and links to them.
        home: Name of the folder it is unpacked into; empty takes `name`.
        script: The script that fetches it, for errors.
    """

    name: str
    version: str
    sha256: str
    source: str
    folder: str
    suffixes: tuple[str, ...]
    home: str = ""
    script: str = "scripts/fetch_real_small.py"

    @property
    def url(self) -> str:
        """Where the file is."""
        file_version = self.version.partition(":")[2] or self.version  # file names leave out the epoch
        return f"{MIRROR}/{self.source}/{self.name}_{file_version}_all.deb"

    @property
    def root(self) -> Path:
        """Where it is unpacked by default: `$EMBEDRL_CACHE` or `~/.cache/embedrl`, then name and version."""
        cache = os.environ.get("EMBEDRL_CACHE") or Path.home() / ".cache" / "embedrl"
        return Path(cache) / f"{self.home or self.name}-{self.version.replace(':', '%3a')}"


def find(package: Package, root: str | None) -> Path:
    """The folder of an unpacked package's files.

    Args:
        package: The package.
        root: Where it was unpacked; None takes the default.

    Raises:
        DataError: If it is not there.
    """
    folder = (Path(root) if root is not None else package.root) / package.folder
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist: run python {package.script}, or set root")
    return folder


def fetch(package: Package, root: Path | None = None, deb: Path | None = None) -> Path:
    """Unpack a package into a folder; does nothing if it is there.

    Args:
        package: The package.
        root: The folder; None takes `package.root`.
        deb: The file, if it was downloaded already; None downloads it with `apt-get download`.

    Returns:
        The folder.

    Raises:
        DataError: If the package cannot be downloaded, is another version, or cannot be unpacked.
    """
    root = root or package.root
    if (root / package.folder).is_dir():
        return root
    if root.exists():
        raise DataError(f"{root} exists but holds no {package.folder}: remove it, or give another --root")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{package.name}-") as scratch:
        file = deb or _download(package, Path(scratch))
        _check(package, file)
        unpacked = Path(scratch) / "unpacked"
        _unpack(package, file, unpacked)
        unpacked.rename(root)
    return root


def _download(package: Package, folder: Path) -> Path:
    cure = f"download {package.url} and give it with --deb"
    if shutil.which("apt-get") is None:
        raise DataError(f"there is no apt-get here: {cure}")
    wanted = f"{package.name}={package.version}"
    done = subprocess.run(["apt-get", "download", wanted], cwd=folder, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.deb"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["no package came"])[-1]
        raise DataError(f"apt-get download {wanted}: {reason}; {cure}")
    return found[0]


def _check(package: Package, file: Path) -> None:
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {file} ({error}): download {package.url}") from error
    if found != package.sha256:
        raise DataError(
            f"{file} has sha256 {found}, not {package.sha256}: it is not {package.name} {package.version}, "
            f"download {package.url}"
        )


def _unpack(package: Package, file: Path, out: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        raise DataError("there is no dpkg-deb here: install the package dpkg")
    inside = package.folder.rstrip("/") + "/"
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    wanted = name.startswith(inside) and name.endswith(package.suffixes)
                    if wanted and (member.isfile() or member.issym()):
                        archive.extract(member, out, filter="data")
        except tarfile.TarError as error:
            raise DataError(f"cannot unpack {file} ({error}): download {package.url}") from error
    if process.returncode or not (out / package.folder).is_dir():
        raise DataError(f"cannot unpack {file}: download {package.url}")
