import pytest

from embedrl.data.local_copy import LocalCopy
from embedrl.errors import DataError

ART = LocalCopy("art", "2:1.0+dfsg-3", "usr/share/art")


def test_where_a_copy_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDRL_CACHE", str(tmp_path))
    assert ART.root == tmp_path / "art-2%3a1.0+dfsg-3"
    with pytest.raises(DataError, match=r"art does not exist: run python scripts/fetch_real_small.py, or set root"):
        ART.find()
    (ART.root / ART.folder).mkdir(parents=True)
    assert ART.find() == ART.root / "usr/share/art"
    (tmp_path / "mine/usr/share/art").mkdir(parents=True)
    assert ART.find(str(tmp_path / "mine")) == tmp_path / "mine/usr/share/art"


def test_without_a_cache_folder_it_lies_at_home(tmp_path, monkeypatch):
    monkeypatch.delenv("EMBEDRL_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ART.root == tmp_path / ".cache/embedrl/art-2%3a1.0+dfsg-3"
