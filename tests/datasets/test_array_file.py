import numpy as np
import PIL.Image
import pytest

from dvd_gan.datasets import array_file, input_pipeline, window
from dvd_gan.runtime.errors import UsageError
from tests.datasets.clips import batch

ROWS = np.arange(8)


@pytest.fixture
def clips(config, tmp_path):
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (10, 9, 20, 18, 3), np.uint8)
  label = rng.integers(0, 3, 10)
  config.data.name = 'array_file'
  config.data.source = str(tmp_path / 'clips.npz')
  np.savez(config.data.source, video=video, label=label)
  return video, label


def test_a_batch_holds_the_planned_windows_resized_cropped_and_flipped(config, clips):
  config.data.flip, config.data.stride = True, 2
  video, label = clips
  got = batch(config, array_file.ArrayFile(config), 4)
  assert got['video'].dtype == np.uint8 and got['video'].shape == (2, 8, 5, 16, 16, 3)
  plan = window.plan(config, 4, ROWS, np.full(10, 9))
  np.testing.assert_array_equal(got['label'].ravel(), label[plan.clip])
  for cut, clip, start, crop, flip in zip(got['video'].reshape(-1, 5, 16, 16, 3), *plan, strict=True):
    top = int(crop[0] * 3)  # 20x18 becomes 18x16, as a video file would
    small = [PIL.Image.fromarray(frame).resize((16, 18), PIL.Image.Resampling.BILINEAR) for frame in video[clip]]
    expected = np.stack(small)[start : start + 9 : 2, top : top + 16]
    np.testing.assert_array_equal(cut, expected[:, :, ::-1] if flip else expected)


def test_crop_centre_cuts_the_square_from_the_middle(config, clips):
  config.data.crop = 'centre'
  source = array_file.ArrayFile(config)
  got, plan = batch(config, source), window.plan(config, 0, ROWS, np.full(10, 9))
  expected = [source.video[clip, start : start + 5, 1:17] for clip, start in zip(plan.clip, plan.start, strict=True)]
  np.testing.assert_array_equal(got['video'].reshape(-1, 5, 16, 16, 3), np.stack(expected))


def test_clips_shorter_than_the_window_repeat_their_last_frame_if_short_clips_is_repeat(config, clips):
  config.data.frames, config.data.short_clips = 12, 'repeat'  # the clips have 9
  got = batch(config, array_file.ArrayFile(config))['video']
  np.testing.assert_array_equal(got[:, :, 9:], np.repeat(got[:, :, 8:9], 3, axis=2))
  assert (got[:, :, 8] != got[:, :, 7]).any()


def test_resuming_gives_the_batches_of_an_uninterrupted_run(config, clips):
  source = array_file.ArrayFile(config)
  batches = list(input_pipeline.host_batches(config, source, range(4), ROWS))
  np.testing.assert_array_equal(batch(config, source, 3)['video'], batches[3]['video'])


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (dict(label=np.arange(10)), 'num_classes'),
    (dict(label=np.full(10, 10**9)), 'number the classes from 0'),
    (dict(label=np.zeros(9, int)), 'integers'),
    (dict(video=np.zeros((10, 9, 20, 18, 3), np.float32)), 'uint8'),
    (dict(video=np.zeros((10, 4, 20, 18, 3), np.uint8)), 'the config needs 5'),
    (dict(video=np.zeros((10, 9, 20, 12, 3), np.uint8)), 'at least 16x16'),
  ],
)
def test_an_array_file_that_does_not_fit_the_config_is_reported_in_one_line(config, clips, change, message):
  video, label = clips
  np.savez(config.data.source, **(dict(video=video, label=label) | change))
  with pytest.raises(UsageError, match=message) as error:
    array_file.ArrayFile(config)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('content', [None, b'', b'no zip', b'PK\x03\x04 cut short', b'\x93NUMPY\x01\x00v\x00{}'])
def test_a_missing_or_broken_array_file_is_named_in_the_error(config, tmp_path, content):
  config.data.source = str(tmp_path / 'broken.npz')
  if content is not None:
    (tmp_path / 'broken.npz').write_bytes(content)
  with pytest.raises(UsageError, match='broken.npz'):
    array_file.ArrayFile(config)


def test_an_array_file_without_labels_is_reported(config, clips):
  np.savez(config.data.source, video=clips[0])
  with pytest.raises(UsageError, match='label'):
    array_file.ArrayFile(config)
