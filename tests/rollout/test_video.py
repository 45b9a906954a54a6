from collections import defaultdict

import av
import numpy as np
import pytest

from vla_cl.rollout.video import write_video


def moving_square(length=24, height=61, width=75):
    frames = np.full((length, height, width, 3), (200, 180, 160), np.uint8)
    for t in range(length):
        frames[t, 20:40, t : t + 20] = (220, 30, 40)
    return frames


def noisy_ramp(height, width, length=21):
    noise = np.random.default_rng(1).integers(0, 9, (length, height, width, 3))
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] + 3 * np.arange(length)[:, None, None, None]
    return np.clip(noise + ramp, 0, 255).astype(np.uint8)


def test_video_has_the_pictures_and_plays_in_a_browser(tmp_path):
    frames, path = moving_square(), tmp_path / "videos" / "0-red-1-success.mp4"
    write_video(path, frames, fps=16)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (76, 62, 16)
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)])
    assert len(shown) == len(frames)
    assert np.abs(shown[:, :61, :75].astype(int) - frames).mean() < 6
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "a player need not read the whole file first"
    assert len(content) < 20_000
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_same_frames_give_the_same_bytes_whatever_the_memory_held(tmp_path):
    generator = np.random.default_rng(0)
    written = defaultdict(set)
    for _ in range(40):
        held = [np.full(generator.integers(100, 200_000), generator.integers(256), np.uint8) for _ in range(50)]
        del held  # the allocator gives this memory to the encoder, as it is
        for sides in ((32, 32), (96, 96), (48, 64), (64, 64)):
            write_video(tmp_path / "video.mp4", noisy_ramp(*sides), fps=10)
            written[sides].add((tmp_path / "video.mp4").read_bytes())
    assert {sides: len(each) for sides, each in written.items()} == dict.fromkeys(written, 1)


@pytest.mark.parametrize("frames", [moving_square()[:0], moving_square().astype(np.float32), moving_square()[..., 0]])
def test_other_arrays_are_refused(tmp_path, frames):
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "video.mp4", frames, fps=16)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="fps"):
        write_video(tmp_path / "video.mp4", moving_square(), fps=0)
    assert list(tmp_path.iterdir()) == []
