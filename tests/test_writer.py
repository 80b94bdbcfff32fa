import json
import os
import sys

import pytest
from etils import epath

from dvd_gan import writer
from dvd_gan.runtime import app
from dvd_gan.runtime.errors import RunError, UsageError


def test_damaged_lines_of_metrics_jsonl_and_those_after_the_resumed_step_are_removed(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"step": 1}\n{"\xff\xfe\n{"step": 2}\n{"step": 3}\n{"st')
  out = writer.Writer(epath.Path(tmp_path), 2)
  out.scalars(3, {'loss': 0.5})
  out.close()
  assert [json.loads(line) for line in path.read_text().splitlines()] == [
    {'step': 1},
    {'step': 2},
    {'step': 3, 'loss': 0.5},
  ]


def test_a_full_disk_raises_oserror_when_the_writer_is_closed(tmp_path):
  out = writer.Writer(epath.Path(tmp_path), 0)
  (tmp_path / 'metrics.jsonl').unlink()
  (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
  out.scalars(1, {'loss': 0.5})
  with pytest.raises(OSError, match='No space left'):
    out.close()


@pytest.mark.parametrize(
  ('error', 'code'),
  [(UsageError('so not'), 2), (RunError('so far'), 1), (OSError(28, 'No space left on device', 'metrics.jsonl'), 1)],
)
def test_usage_run_and_disk_errors_print_one_line_and_set_the_exit_code(error, code, capsys, monkeypatch):
  monkeypatch.setattr(os, '_exit', sys.exit)

  def program(_):
    raise error

  with pytest.raises(SystemExit) as end:
    app._guarded(program, [])
  assert end.value.code == code and capsys.readouterr().err == f'error: {error}\n'
