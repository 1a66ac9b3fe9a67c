"""Frames of video files: evenly sampled, upright, within bounds, and one error for a broken file."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from embedrl.data import video_file
from embedrl.data.formats import JsonlSource
from embedrl.data.video import is_video, sample_frames
from embedrl.data.video_file import file_frames, video_frames
from embedrl.errors import ConfigError, DataError, MissingFileError
from embedrl.tcot.store import content_hash
from embedrl.types import Modality, Side

av = pytest.importorskip("av")
SIZE = (64, 48)


def colour(i):
    return (i * 5 % 256, 40, 255 - i * 5 % 256)


def write_video(path, frames=45, codec="mpeg4", rotation=0, gop=12, size=SIZE, b_frames=0):
    """A video whose frame `i` has `colour(i)`, its left half black."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        stream.bit_rate = 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(frames):
            image = Image.new("RGB", size, colour(i))
            image.paste("black", (0, 0, size[0] // 2, size[1]))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def shown(image, at=(0.75, 0.5)):
    return image.getpixel((int(image.width * at[0]), int(image.height * at[1])))


CASES = {
    "key frames now and then": {},
    "one key frame": {"gop": 300},
    "frames that refer to later ones": {"b_frames": 2},
    "fewer than are sampled": {"frames": 3},
    "one": {"frames": 1},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_frames_are_those_that_lie_evenly(name, suffix, tmp_path):
    options = CASES[name]
    frames = video_frames(write_video(tmp_path / f"clip{suffix}", **options), 8)
    expected = [colour(i) for i in sample_frames(options.get("frames", 45), 8)]
    seen = [shown(frame.load()) for frame in frames]
    np.testing.assert_allclose(seen, expected, atol=14)
    assert all(frame.load().size == SIZE and frame.load().mode == "RGB" for frame in frames)


@pytest.mark.parametrize(("rotation", "black"), [(90, (0.5, 0.75)), (-90, (0.5, 0.25)), (180, (0.75, 0.5))])
def test_a_turned_video_is_upright(rotation, black, tmp_path):
    (frame,) = file_frames(write_video(tmp_path / "clip.mp4", frames=2, rotation=rotation), 1)
    image = frame.load()
    assert image.size == (SIZE if rotation == 180 else SIZE[::-1])
    assert sum(shown(image, black)) < 60
    assert sum(shown(image, tuple(1 - x for x in black))) > 200


def test_frames_are_known_by_content(tmp_path):
    write_video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    write_video(tmp_path / "c.mp4", frames=44)
    sides = [Side(frames=file_frames(tmp_path / f"{name}.mp4", 4)) for name in "abc"]
    assert len({side.key for side in sides}) == 3
    hashes = [content_hash(side) for side in sides]
    assert hashes[0] == hashes[1] != hashes[2]
    assert content_hash(Side(frames=file_frames(tmp_path / "a.mp4", 3))) not in hashes


def test_rows_of_a_mix_name_video_files(tmp_path):
    write_video(tmp_path / "clip.mp4")
    rows = [{"id": "1", "query": {"text": "a film"}, "target": {"frames": ["clip.mp4"]}}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = JsonlSource(str(tmp_path / "pairs.jsonl"), num_frames=4, cache_dir=str(tmp_path / "cache"))
    assert source.modality is Modality.VIDEO
    frames = source[0].target.frames
    np.testing.assert_allclose([shown(f.load()) for f in frames], [colour(i) for i in sample_frames(45, 4)], atol=14)
    assert len(JsonlSource(str(tmp_path / "pairs.jsonl"), cache_dir=str(tmp_path / "cache"))[0].target.frames) == 8


def _cut(path):
    whole = write_video(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


BROKEN = {
    "missing": (lambda path: None, "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "cannot decode video .*clip.mp4"),
    "a text": (lambda path: path.write_text("no video"), "cannot decode video .*clip.mp4"),
    "cut short": (_cut, "cannot decode video .*clip.mp4"),
    "a folder": (lambda path: path.mkdir(), "a folder"),
    "sound alone": (_sound, "holds no pictures"),
    "a playlist": (
        lambda path: path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
        "cannot decode video",
    ),
    "thin": (lambda path: write_video(path, 1, size=(1024, 4)), "one side more than 200 times"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line(name, tmp_path, capfd):
    make, message = BROKEN[name]
    make(tmp_path / "clip.mp4")
    with pytest.raises(DataError, match=message) as error:
        file_frames(tmp_path / "clip.mp4", 4)[0].load()
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("bound", "value", "message"),
    [
        ("MAX_SECONDS", 4, "takes 4 s, more than 4"),
        ("MAX_FRAMES", 44, "more than 44 frames"),
        ("MAX_FRAME_PIXELS", 3000, "more than max_pixels=3000"),
        ("MAX_BYTES", 1000, "more than 1000: cut it"),
    ],
)
def test_a_file_beyond_a_bound_is_refused(bound, value, message, tmp_path, monkeypatch):
    monkeypatch.setattr(video_file, bound, value)
    path = write_video(tmp_path / "clip.mp4")
    with pytest.raises(DataError, match=message):
        file_frames(path, 4)[0].load()


def test_without_the_extra_it_says_so(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", frames=1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"video files need PyAV: run pip install 'embedrl\[video\]'"):
        file_frames(path, 2)[0].load()


def test_a_folder_of_frames_is_a_video_too(tmp_path):
    for i in range(3):
        Image.new("RGB", SIZE, colour(i)).save(tmp_path / f"{i}.png")
    assert [shown(frame.load()) for frame in video_frames(tmp_path, 2)] == [colour(0), colour(2)]
    with pytest.raises(MissingFileError):
        video_frames(tmp_path / "gone.mp4", 2)
    assert is_video("A/B.MP4")
    assert not is_video("a.png")
