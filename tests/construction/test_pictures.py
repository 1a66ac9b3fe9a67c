"""Files are opened in several processes as in one."""

import pytest
from captioned import pictures

from embedrl.construction.pictures import PictureCheck
from embedrl.data.images import ImageFile
from embedrl.types import Pair, Side


@pytest.mark.slow
def test_several_processes_find_what_one_finds(tmp_path):
    names = [name for name, _ in pictures(tmp_path)]
    (tmp_path / names[3]).write_bytes(b"broken")
    (tmp_path / names[5]).unlink()
    pairs = [Pair(Side("x"), Side(images=(ImageFile(str(tmp_path / name)),)), "cards", name) for name in names]
    answers = []
    for workers in (1, 2):
        with PictureCheck(decode=True, workers=workers) as check:
            check.look_ahead(pairs)
            assert len(check._known) == (len(names) if workers > 1 else 0)
            answers.append([check(pair) for pair in pairs])
    assert answers[0] == answers[1]
    assert [cause for cause, _ in answers[0] if cause] == ["broken_picture", "missing_file"]
