"""A small prepared data set, shared by the tests of reading."""

from typing import Any, NamedTuple

import pytest
from etils import epath

from dvd_gan.datasets import catalog, record_files
from dvd_gan.datasets.prepare import building
from tests.conftest import tiny_config


class Prepared(NamedTuple):
  """30 drawn clips of 13 frames, 16x16; each clip has a label of its own."""

  config: Any
  source: record_files.Records
  builder: Any
  folder: epath.Path
  files: list[epath.Path]


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
  config = tiny_config()
  config.data.num_classes = 30
  config.data.dir = str(tmp_path_factory.mktemp('tfds'))
  source = catalog.open_records(config)
  builder = building.make_builder(config, *building.builder_class(config))
  return Prepared(config, source, builder, source.folder, sorted(source.folder.glob('*-train.tfrecord*')))
