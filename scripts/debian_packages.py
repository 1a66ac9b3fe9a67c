"""The packages of Debian that our small real data sets come from: downloaded, checked, unpacked. Needs no root."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from embedrl.data.datasets import eyes17, openclipart, tux
from embedrl.data.local_copy import LocalCopy
from embedrl.errors import DataError

MIRROR = "https://deb.debian.org/debian/pool/main"
TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Package:
    """A package, and what we read of it.

    Attributes:
        name: Its name.
        copy: What is made of it; the package has the same version.
        sha256: What the file hashes to.
        source: Folder of the file in Debian's pool, such as `t/tuxpaint-stamps`.
        suffixes: Files of the copy's folder with these endings are unpacked, and links to them.
    """

    name: str
    copy: LocalCopy
    sha256: str
    source: str
    suffixes: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where the file is."""
        version = self.copy.version
        file_version = version.partition(":")[2] or version  # file names leave out the epoch
        return f"{MIRROR}/{self.source}/{self.name}_{file_version}_all.deb"


STAMPS = Package(
    name="tuxpaint-stamps-default",
    copy=tux.STAMPS,
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    source="t/tuxpaint-stamps",
    suffixes=(".png", ".txt"),
)
MANUAL = Package(
    name="eyes17-manuals-en",
    copy=eyes17.MANUAL,
    sha256="42e8f64cfcadc7358deca16b7255cd2f8e36fa4f20bb75737a43e2d02cb9b493",
    source="e/eyes17-manuals",
    suffixes=(".pdf.gz",),
)
PICTURES = Package(
    name="openclipart-png",
    copy=openclipart.PICTURES,
    sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    source="o/openclipart",
    suffixes=(".png",),
)
TAGS = Package(
    name="openclipart-svg",
    copy=openclipart.TAGS,
    sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    source="o/openclipart",
    suffixes=(".svg",),
)


def fetch(package: Package, root: Path | None = None, deb: Path | None = None) -> Path:
    """Unpack a package into a folder; does nothing if it is there.

    Args:
        package: The package.
        root: The folder; None takes `package.copy.root`.
        deb: The file, if it was downloaded already; None downloads it.

    Returns:
        The folder.

    Raises:
        DataError: If the package cannot be downloaded, is another version, or cannot be unpacked.
    """
    root, folder = root or package.copy.root, package.copy.folder
    if (root / folder).is_dir():
        return root
    if root.exists():
        raise DataError(f"{root} exists but holds no {folder}: remove it, or give another --root")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{package.name}-") as scratch:
        file = deb or _download(package, Path(scratch) / "package.deb")
        _check(package, file)
        unpacked = Path(scratch) / "unpacked"
        _unpack(package, file, unpacked)
        unpacked.rename(root)
    return root


def _download(package: Package, file: Path) -> Path:
    print(f"downloading {package.url}", flush=True)
    try:
        with urllib.request.urlopen(package.url, timeout=TIMEOUT) as answer, file.open("wb") as opened:
            shutil.copyfileobj(answer, opened)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"cannot download {package.url} ({error}): get {package.name} {package.copy.version} elsewhere, such as "
            "snapshot.debian.org, and give it with --deb"
        ) from error
    return file


def _check(package: Package, file: Path) -> None:
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {file} ({error}): download {package.url}") from error
    if found != package.sha256:
        raise DataError(
            f"{file} has sha256 {found}, not {package.sha256}: it is not {package.name} {package.copy.version}, "
            f"download {package.url}"
        )


def _unpack(package: Package, file: Path, out: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        raise DataError("there is no dpkg-deb here: install the package dpkg")
    folder = package.copy.folder.rstrip("/")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    ours = name.startswith(f"{folder}/") and name.endswith(package.suffixes)
                    if ours and (member.isfile() or member.issym()):
                        # The filter refuses paths and links that leave the folder.
                        archive.extract(member, out, filter="data")
        except tarfile.TarError as error:
            raise DataError(f"cannot unpack {file} ({error}): download {package.url}") from error
    if process.returncode or not (out / folder).is_dir():
        raise DataError(f"cannot unpack {file}: download {package.url}")
