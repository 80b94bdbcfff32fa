"""A small prepared data set that the tests of reading share."""

from typing import Any, NamedTuple

import pytest
from etils import epath

from dvd_gan.datasets import prepare, records
from tests.conftest import tiny_config


class Prepared(NamedTuple):
  """30 drawn clips of 13 frames, 16x16; the label of clip i names it."""

  config: Any
  source: records.Records
  builder: Any
  folder: epath.Path
  files: list[epath.Path]


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
  config = tiny_config()
  config.data.num_classes = 30
  config.data.dir = str(tmp_path_factory.mktemp('tfds'))
  source = prepare.open_records(config)
  builder = prepare.make_builder(config)
  return Prepared(config, source, builder, source.folder, sorted(source.folder.glob('*-train.tfrecord*')))
