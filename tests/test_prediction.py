import json

import av
import numpy as np
import pytest
from etils import epath

from dvd_gan import prediction, sample, train, video
from dvd_gan.datasets import evaluation_windows
from dvd_gan.metrics import similarity
from dvd_gan.runtime.errors import UsageError
from tests.datasets import clips
from tests.tiny_prediction import get_config


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """The workdir of a tiny prediction model after two training steps."""
  folder = tmp_path_factory.mktemp('prediction')
  video = np.random.default_rng(0).integers(0, 256, (20, 7, 16, 16, 3), np.uint8)
  np.savez(folder / 'clips.npz', video=video, label=np.full(20, -1))
  config = with_data(get_config(), folder)
  config.train.steps = config.train.sample_every = 2
  assert train.train(config, epath.Path(folder)) == 0
  return epath.Path(folder)


def with_data(config, folder):
  config.data.name, config.data.source = 'array_file', str(folder / 'clips.npz')
  return config


@pytest.fixture
def config(workdir):
  return with_data(get_config(), workdir)


def frames_of(path):
  with av.open(str(path)) as container:
    return np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]).astype(int)


def border_is(frame, colour):
  """Whether the upper left corner of a frame has a border of that colour, within H.264's error."""
  return abs(frame[0, :40] - colour).max() < 60


def test_training_samples_mark_context_and_generated_frames_by_border_colour(workdir):
  written = frames_of(workdir / 'samples' / 'step_00000002.mp4')
  assert len(written) == 6
  assert all(border_is(frame, video.CONTEXT) for frame in written[:2])
  assert all(border_is(frame, video.GENERATED) for frame in written[2:])


def test_held_out_clips_are_continued_and_their_psnr_and_ssim_are_written(config, workdir, capsys):
  config.sample.num, config.sample.futures, config.sample.each = 5, 2, True
  prediction.predict(config, workdir)
  name = 'step_00000002_clips_truncation_1_seed_0'
  output = capsys.readouterr().out
  assert f'{name}.mp4' in output and 'copying the last frame' in output
  side = 96 + 2 * video.BORDER
  assert frames_of(workdir / 'samples' / f'{name}.mp4').shape == (6, 5 * side, 4 * side, 3)
  assert frames_of(workdir / 'samples' / f'{name}_00004.mp4').shape == (6, side, 4 * side, 3)
  found = json.loads((workdir / 'samples' / f'{name}.json').read_text())
  assert (found['step'], found['clips'], found['futures'], found['context'], found['frames']) == (2, 5, 2, 2, 4)
  truth = prediction.held_out(config).video
  assert truth.shape == (5, 6, 16, 16, 3)
  copied = similarity.psnr_and_ssim(np.broadcast_to(truth[:, 1:2], truth[:, 2:].shape), truth[:, 2:])
  for metric in ('psnr', 'ssim'):
    np.testing.assert_allclose(found[metric]['copy_last'], copied[metric].mean(0), atol=1e-3)
    assert np.mean(found[metric]['best']) >= np.mean(found[metric]['mean'])
  assert found['spread'] > 0


def test_a_comparison_row_shows_the_held_context_the_truth_and_each_future(config):
  rng = np.random.default_rng(0)
  known, made = rng.integers(0, 256, (2, 5, 16, 16, 3), np.uint8), rng.integers(0, 256, (2, 3, 6, 16, 16, 3), np.uint8)
  row = prediction.comparison(config, known, made)
  assert row.shape[0] == 8
  row = row[:, 96 + 2 * video.BORDER :]  # the row of the second clip
  step = 96 + 2 * video.BORDER
  at = slice(video.BORDER, 96, 6)  # one of the enlarged pixels for each pixel of the model
  tiles = [row[:, at, i * step + video.BORDER : i * step + video.BORDER + 96 : 6] for i in range(5)]
  np.testing.assert_array_equal(tiles[0], known[1][[0, 1, 1, 1, 1, 1, 1, 1]])
  np.testing.assert_array_equal(tiles[1][:5], known[1])
  assert (tiles[1][5:] == 128).all()  # the truth has ended
  for i in range(3):
    np.testing.assert_array_equal(tiles[2 + i], np.concatenate([known[1, :2], made[1, i]]))
  np.testing.assert_array_equal(row[:, 0, 2 * step], [video.CONTEXT] * 2 + [video.GENERATED] * 4 + [video.ROLLED] * 2)
  np.testing.assert_array_equal(row[:, 0, 0], [video.CONTEXT] * 2 + [video.GENERATED] * 6)  # none is rolled here


class Counter:
  """Replaces a sampler: each frame is the previous frame plus one. Records its arguments."""

  def __init__(self, config):
    self.config, self.calls = config, []

  def videos(self, standing, labels, *, truncation, seed, context, part):
    self.calls.append((labels.tolist(), context[:, :, 0, 0, 0].tolist(), part))
    ahead = np.arange(1, 5, dtype=np.uint8)[None, :, None, None, None]
    return context[:, -1:] + ahead


@pytest.mark.parametrize(('frames', 'parts'), [(0, 1), (3, 1), (4, 1), (9, 3)])
def test_longer_predictions_use_the_last_frames_of_each_part_as_the_next_context(config, frames, parts):
  config.sample.frames, config.sample.futures = frames, 2
  sampler = Counter(config)
  known = np.broadcast_to(np.array([10, 50], np.uint8)[:, None, None, None, None], (2, 6, 16, 16, 3)) + np.arange(
    6, dtype=np.uint8
  ).reshape(1, 6, 1, 1, 1)
  made = prediction.futures(sampler, None, evaluation_windows.Clips(known, np.array([0, 3])), 1.0)
  assert made.shape == (2, 2, frames or 4, 16, 16, 3)
  assert made[1, 1, :, 0, 0, 0].tolist() == list(range(52, 52 + (frames or 4)))
  for part, (labels, context, number) in enumerate(sampler.calls):
    assert number == part and labels == [0, 0, 3, 3]
    assert context[0] == [10 + 4 * part, 11 + 4 * part] and context[2] == [50 + 4 * part, 51 + 4 * part]
  assert len(sampler.calls) == parts


def test_a_longer_prediction_begins_with_the_frames_of_the_normal_one(config, workdir):
  config.sample.num, config.sample.futures = 2, 2
  opened = sample.open_checkpoint(config, workdir)
  known = prediction.held_out(config)
  short = prediction.futures(opened.sampler, opened.standing(1.0), known, 1.0)
  config.sample.frames = 7
  long = prediction.futures(opened.sampler, opened.standing(1.0), known, 1.0)
  np.testing.assert_array_equal(long[:, :, :4], short)
  prediction.predict(config, workdir)
  name = 'step_00000002_clips_truncation_1_seed_0_rolled_to_7_frames'
  written = frames_of(workdir / 'samples' / f'{name}.mp4')
  assert len(written) == 9 and border_is(written[8][:, -200:], video.ROLLED) and border_is(written[5], video.GENERATED)
  assert json.loads((workdir / 'samples' / f'{name}.json').read_text())['frames'] == 4  # rolled frames are not scored


@pytest.fixture
def own(config, tmp_path):
  """A config whose `sample.video` has 48x32 pixels and 60 frames at 50 fps: 30 frames at the training's 25 fps."""
  clips.encode(tmp_path / 'own.mp4', frames=60, fps=50)
  config.sample.video = str(tmp_path / 'own.mp4')
  return config


def green(clip):
  return clip.video[0, :, 8, 8, 1].astype(int)


def test_a_users_video_is_resized_cropped_and_sampled_at_the_training_frame_rate(own):
  clip = prediction.own_clip(own)
  assert clip.video.shape == (1, 6, 16, 16, 3) and clip.label.tolist() == [0]
  assert abs(green(clip) - 8 * np.arange(6)).max() < 8
  # The square crop keeps the middle two thirds of a ramp from 0 to 250.
  assert clip.video[0, 0, :, 0, 0] == pytest.approx(250 / 6, abs=20) and clip.video[0, 0, :, -1, 0] == pytest.approx(
    250 * 5 / 6, abs=20
  )
  own.data.stride = 3
  assert abs(green(prediction.own_clip(own)) - 24 * np.arange(6)).max() < 8
  own.data.stride, own.sample.start, own.sample.frames = 1, 0.4, 10
  clip = prediction.own_clip(own)
  assert clip.video.shape[1] == 12 and abs(green(clip) - 8 * (10 + np.arange(12))).max() < 8
  own.sample.start = -1.0  # the end of the video is continued, so there is no truth
  clip = prediction.own_clip(own)
  assert clip.video.shape[1] == 2 and abs(green(clip) - 8 * np.array([28, 29])).max() < 8


def test_a_users_video_is_continued_without_a_data_set_unless_statistics_are_missing(own, workdir):
  own.data.source = '/nowhere.npz'
  own.sample.start, own.sample.futures = -1.0, 1
  prediction.predict(own, workdir)
  name = 'step_00000002_own_own_end_truncation_1_seed_0'
  assert len(frames_of(workdir / 'samples' / f'{name}.mp4')) == 6
  assert not (workdir / 'samples' / f'{name}.json').exists()  # nothing to compare with
  own.sample.start, own.sample.frames = 0.0, 3  # fewer frames than in training
  prediction.predict(own, workdir)
  name = 'step_00000002_own_own_from_0s_truncation_1_seed_0'
  assert len(frames_of(workdir / 'samples' / f'{name}.mp4')) == 5
  assert json.loads((workdir / 'samples' / f'{name}.json').read_text())['spread'] is None
  # Statistics at another truncation are computed from training clips.
  own.sample.truncation = (0.5,)
  with pytest.raises(UsageError, match='/nowhere.npz'):
    prediction.predict(own, workdir)


def test_an_unreadable_or_too_short_video_is_a_usage_error(own, tmp_path):
  content = (tmp_path / 'own.mp4').read_bytes()
  (tmp_path / 'cut.mp4').write_bytes(content[: len(content) // 2])
  (tmp_path / 'empty.mp4').write_bytes(b'')
  clips.encode_audio(tmp_path / 'sound.mp4')
  clips.encode(tmp_path / 'short.mp4', frames=1)
  for name in ('cut', 'empty', 'sound', 'none'):
    own.sample.video = str(tmp_path / f'{name}.mp4')
    with pytest.raises(UsageError, match=f'sample.video=.*{name}.mp4') as raised:
      prediction.own_clip(own)
    assert '\n' not in str(raised.value)
  own.sample.video = str(tmp_path / 'short.mp4')
  with pytest.raises(UsageError, match='too short: from frame 0 on it has 1 .* needs 2 context frames'):
    prediction.own_clip(own)
  own.sample.video, own.sample.start = str(tmp_path / 'own.mp4'), 1.18
  with pytest.raises(UsageError, match='too short: 0 frames at 25 fps from frame 30 on'):
    prediction.own_clip(own)


def test_unlabelled_clips_are_refused_if_the_config_uses_labels(config):
  assert prediction.held_out(config).label.tolist() == [-1] * 4  # labels are not used, so they may be missing
  config.data.use_labels = True
  with pytest.raises(UsageError, match='sample.split=validation: .* labels must be from 0'):
    prediction.held_out(config)


def test_class_conditional_prediction_uses_the_labels_of_the_clips(config, tmp_path):
  known = np.zeros((6, 7, 16, 16, 3), np.uint8)
  known[:] = 40 * np.arange(6)[:, None, None, None, None]
  np.savez(tmp_path / 'labelled.npz', video=known, label=np.arange(6) % 3)
  config.data.source, config.data.use_labels = str(tmp_path / 'labelled.npz'), True
  for found in (prediction.held_out(config), evaluation_windows.context_frames(config)):
    assert (found.label == found.video[:, 0, 0, 0, 0] // 40 % 3).all() and set(found.label) > {0}
  assert found.video.shape == (8, 2, 16, 16, 3)  # two batches of four for the statistics


def test_predictions_of_a_clip_differ_at_truncation_1_and_are_equal_at_truncation_0(config, workdir):
  config.sample.num, config.sample.truncation = 1, (1.0, 0.0)
  prediction.predict(config, workdir)
  found = [
    json.loads((workdir / 'samples' / f'step_00000002_clips_truncation_{t}_seed_0.json').read_text()) for t in (1, 0)
  ]
  assert found[0]['spread'] > 0 == found[1]['spread']  # without noise there is one future
