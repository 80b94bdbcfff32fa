import dataclasses
import json

import pytest

from dvd_gan.datasets import catalog
from dvd_gan.datasets.prepare import building
from dvd_gan.runtime.errors import UsageError
from tests.datasets.clips import encode, examples
from tests.datasets.prepare.test_kinetics600 import LAYOUTS, build, clips  # noqa: F401

TWO_PROCESSES = ('--direct_num_workers=2', '--direct_running_mode=multi_processing')


def rejects(folder):
  return [json.loads(line) for line in (folder / 'rejects.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('layout', ['class folders', 'tars'])
def test_kinetics600_prepared_by_beam_equals_the_locally_prepared_one(config, tmp_path, clips, layout):  # noqa: F811
  (tmp_path / 'source').mkdir()
  LAYOUTS[layout](tmp_path / 'source', clips)
  here = build(config, tmp_path, 'here')
  config.data.runner, config.data.beam_options = 'DirectRunner', TWO_PROCESSES
  beam = build(config, tmp_path, 'beam')
  for split in ('train', 'validation', 'test'):
    assert examples(beam, split) == examples(here, split) != []
  assert rejects(beam) == rejects(here)
  assert not list((tmp_path / 'beam').rglob('*.cache'))


def test_a_video_folder_prepared_by_beam_in_four_shards_equals_the_local_one(config, tmp_path, monkeypatch):
  """Beam splits shards by ranges of key hashes, the local writer by equal counts. The order of clips is the same."""
  for name in ('cats', 'dogs'):
    (tmp_path / 'source' / name).mkdir(parents=True)
    for i in range(6):
      encode(tmp_path / 'source' / name / f'{i}.mp4', frames=20 + i)
  (tmp_path / 'source' / 'dogs' / 'bad.mp4').write_bytes(b'not a video')
  config.data.name, config.data.source = 'video_folder', str(tmp_path / 'source')
  config.data.dir = str(tmp_path / 'here')
  here = catalog.open_records(config).folder
  config.data.dir = str(tmp_path / 'beam')
  config.data.runner = 'DirectRunner'
  on_beam = building._beam_download_config
  monkeypatch.setattr(building, '_beam_download_config', lambda data: dataclasses.replace(on_beam(data), num_shards=4))
  beam = catalog.open_records(config).folder
  assert len(list(here.glob('*.tfrecord*'))) == 1 and len(list(beam.glob('*.tfrecord*'))) == 4
  assert examples(beam, 'train') == examples(here, 'train') and len(examples(beam, 'train')) == 12
  assert rejects(beam) == rejects(here) and len(rejects(beam)) == 1


def test_missing_apache_beam_gives_an_error_with_the_install_command(config, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'apache_beam.options.pipeline_options', None)
  config.data.runner = 'DirectRunner'
  with pytest.raises(UsageError, match="pip install -e '.\\[beam\\]'"):
    building._beam_download_config(config.data)
