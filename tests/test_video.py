import io
import sys

import av
import numpy as np
import pytest
from PIL import Image

from dvd_gan import video


def _clips(n=5, t=4, h=10, w=12):
  return np.random.default_rng(0).integers(0, 256, (n, t, h, w, 3), np.uint8)


def test_grid_places_videos_row_by_row_and_enlarges_small_ones():
  clips = _clips()
  grid = video.grid(clips, columns=3)
  scale = 10  # 96 / 10, rounded up
  assert grid.shape == (4, 2 * 10 * scale, 3 * 12 * scale, 3)
  small = grid[:, ::scale, ::scale]
  np.testing.assert_array_equal(small[:, :10, 12:24], clips[1])
  np.testing.assert_array_equal(small[:, 10:, 12:24], clips[4])
  assert (small[:, 10:, 24:] == video.PAPER).all()  # no black tile where there is no video


def test_captions_stand_above_their_videos():
  clips = _clips(3)
  grid = video.grid(clips, columns=2, captions=['bikes, 0.5', 'a class whose name is far too long', ''])
  plain = video.grid(clips, columns=2)
  high, wide = 100 + video.LINE, 120
  assert grid.shape == (4, 2 * high, 2 * wide, 3)
  np.testing.assert_array_equal(grid[:, video.LINE : high, :wide], plain[:, :100, :wide])
  for row, column, written in ((0, 0, True), (0, 1, True), (1, 0, False)):
    line = grid[:, row * high : row * high + video.LINE, column * wide : (column + 1) * wide]
    assert (line.min() < 100) == written and line.max() == video.PAPER and (line == line[:1]).all()


def test_an_mp4_is_h264_yuv420p_with_all_frames_and_odd_sizes_padded_to_even(tmp_path):
  clip = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 9 * 11 * 3).reshape(5, 9, 11, 3)
  with av.open(io.BytesIO(video.mp4(clip, 12))) as container:
    stream = container.streams.video[0]
    assert stream.codec_context.name == 'h264' and stream.pix_fmt == 'yuv420p' and stream.average_rate == 12
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
  assert len(frames) == 5 and frames[0].shape == (10, 12, 3)
  assert abs(np.stack(frames)[:, :9, :11].astype(int) - clip).max() < 8


@pytest.mark.parametrize('fps', [0.3, 1.4, 12.5, 24000 / 1001, 60, 240])
def test_durations_of_mp4_and_gif_match_the_frame_rate(fps):
  clip = np.repeat(np.arange(0, 240, 8, dtype=np.uint8), 8 * 8 * 3).reshape(30, 8, 8, 3)
  with av.open(io.BytesIO(video.mp4(clip, fps))) as container:
    stream = container.streams.video[0]
    assert stream.frames == 30 and float(stream.duration * stream.time_base) == pytest.approx(30 / fps, rel=1e-3)
  picture, shown = Image.open(io.BytesIO(video.gif(clip, fps))), []
  for t in range(picture.n_frames):
    picture.seek(t)
    shown.append(picture.info['duration'])
  assert min(shown) >= 20 and sum(shown) == pytest.approx(1000 * 30 / fps, abs=10)  # ms; browsers slow down below 20
  assert picture.n_frames == (30 if fps <= 50 else {60: 25, 240: 6}[fps])


def test_a_gif_shows_every_frame_and_repeats():
  clip = _clips(1)[0] // 128 * 255  # eight colours survive the palette
  picture = Image.open(io.BytesIO(video.gif(clip, 10)))
  assert picture.n_frames == 4 and picture.info['loop'] == 0 and picture.info['duration'] == 100
  for t in range(4):
    picture.seek(t)
    np.testing.assert_array_equal(np.asarray(picture.convert('RGB')), clip[t])


def test_without_pyav_only_a_gif_is_written_with_one_warning(tmp_path, monkeypatch):
  from etils import epath

  monkeypatch.setitem(sys.modules, 'av', None)
  with pytest.warns(UserWarning, match='GIF only') as warned:
    written = video.write(epath.Path(tmp_path) / 'clip', _clips(1)[0], 10)
  assert len(warned) == 1 and written == [str(tmp_path / 'clip.gif')] and (tmp_path / 'clip.gif').exists()
