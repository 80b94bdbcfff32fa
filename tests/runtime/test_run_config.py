import json

import pytest
from etils import epath

from dvd_gan.runtime import run_config
from dvd_gan.runtime.errors import UsageError
from tests.conftest import tiny_config


@pytest.fixture
def before_the_renaming(tmp_path):
  """A workdir whose config.json has the fields' old names."""
  run_config.write(tiny_config(), epath.Path(tmp_path))
  content = json.loads((tmp_path / 'config.json').read_text())
  for old, new in run_config.RENAMED.items():
    (group, old), (_, new) = old.split('.'), new.split('.')
    content['config'][group][old] = content['config'][group].pop(new)
  (tmp_path / 'config.json').write_text(json.dumps(content))
  return epath.Path(tmp_path)


def test_a_config_json_with_old_field_names_is_compared_under_the_new_names(before_the_renaming):
  run_config.check(tiny_config(), before_the_renaming)
  other = tiny_config()
  other.gen.remat = True  # changes neither parameters nor results
  run_config.check(other, before_the_renaming)
  other.data.context = 2
  with pytest.raises(UsageError, match='was trained with data.context=0, not 2'):
    run_config.check(other, before_the_renaming)
