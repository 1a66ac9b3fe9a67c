import subprocess

import pytest


@pytest.fixture
def make_deb(tmp_path_factory):
    """Builds a real Debian package with the files of a folder."""

    def build(root):
        (root / "DEBIAN").mkdir()
        (root / "DEBIAN/control").write_text(
            "Package: some\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: test\n"
        )
        path = tmp_path_factory.mktemp("deb") / "some.deb"
        subprocess.run(["dpkg-deb", "--build", "-Znone", str(root), str(path)], check=True, capture_output=True)
        return path

    return build
