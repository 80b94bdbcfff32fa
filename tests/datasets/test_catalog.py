import numpy as np
import pytest
import tensorflow_datasets as tfds

from dvd_gan.datasets import catalog
from dvd_gan.runtime.errors import UsageError
from tests.datasets.clips import batch


class BairRobotPushingSmall(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes the features of TFDS's builder of that name, at 16 pixels."""

  VERSION = tfds.core.Version('2.0.0')
  name = catalog.BAIR

  def _info(self):
    image = tfds.features.Image(shape=(16, 16, 3))
    vector = tfds.features.Tensor(shape=(4,), dtype=np.float32)
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.Sequence({'image_main': image, 'image_aux1': image, 'action': vector}, length=30),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(6), 'test': self._generate_examples(2)}

  def _generate_examples(self, count):
    for i in range(count):
      frames = np.full((30, 16, 16, 3), 10 * i, np.uint8)
      frames[..., 0] = 5 * np.arange(30)[:, None, None]
      yield i, {'image_main': frames, 'image_aux1': 255 - frames, 'action': np.zeros((30, 4), np.float32)}


def test_bair_prepared_by_tfds_is_read_exactly(config, tmp_path):
  BairRobotPushingSmall(data_dir=str(tmp_path)).download_and_prepare()
  config.data.name, config.data.dir = 'bair', str(tmp_path)
  source = catalog.open_records(config)
  assert '6 clips of split train' in source.describe()
  got = batch(config, source)
  assert got['video'].shape == (2, 8, 5, 16, 16, 3) and (got['label'] == 0).all()
  red = got['video'][..., 0].astype(int)
  assert (red == red[..., :1, :1]).all() and (np.diff(red[..., 0, 0], axis=-1) == 5).all()  # PNG: exact
  assert set(np.unique(got['video'][..., 1])) <= set(range(0, 60, 10))


def test_missing_bair_gives_an_error_that_names_mode_prepare(config, tmp_path):
  config.data.name, config.data.dir = 'bair', str(tmp_path)
  with pytest.raises(UsageError, match='run --mode=prepare'):
    catalog.open_records(config)
