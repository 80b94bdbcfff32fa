import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from etils import epath

from dvd_gan.datasets import jpeg
from dvd_gan.datasets.prepare import building, decoding, ingest
from dvd_gan.runtime.errors import UsageError
from tests.conftest import ROOT
from tests.datasets.clips import encode, examples

FORM = ingest.Form(short_side=16, fps=25, min_frames=5, quality=95, seconds=60)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  root = tmp_path_factory.mktemp('files')
  encode(root / 'good.mp4')
  (root / 'bad.mp4').write_bytes(b'not a video')
  return root


def clips(*paths):
  return [ingest.Clip(f'{i}', path.name, str(path), features={'label': i}) for i, path in enumerate(paths)]


def test_accepted_clips_keep_key_label_and_frames_and_a_broken_file_is_rejected(files, tmp_path):
  accepted, rejected = ingest.fill(
    epath.Path(tmp_path), clips(files / 'good.mp4', files / 'bad.mp4', files / 'good.mp4'), FORM, workers=2
  )
  assert [(one.key, one.features) for one in accepted] == [('0', {'label': 0}), ('2', {'label': 2})]
  assert [one.file for one in rejected] == ['bad.mp4'] and 'cannot be decoded' in rejected[0].reason
  expected = decoding.decode(files / 'good.mp4', short_side=16, fps=25)
  frames = np.stack([jpeg.decode(frame) for frame in accepted[0].frames()])
  assert frames.shape == expected.shape and abs(frames.astype(int) - expected).mean() < 3


def fail(*_):
  raise RuntimeError('no reason at all')


def test_any_error_while_a_file_is_converted_rejects_the_file(files, monkeypatch):
  for module, function in ((jpeg, 'encode'), (decoding.picture, 'upright')):
    with monkeypatch.context() as patch:
      patch.setattr(module, function, fail)
      with pytest.raises(decoding.RejectedError, match='cannot be decoded: RuntimeError no reason at all'):
        ingest.jpegs(str(files / 'good.mp4'), FORM)
  monkeypatch.setattr(ingest, 'MAX_RECORD', 2000)
  with pytest.raises(decoding.RejectedError, match='too long: .* frames fill a record'):
    ingest.jpegs(str(files / 'good.mp4'), FORM)


def crash(source, file, form, name):
  os.kill(os.getpid(), signal.SIGSEGV)


def hang(source, file, form, name):
  while True:
    time.sleep(1)


@pytest.mark.parametrize(('fault', 'reason'), [(crash, 'the decoder crashed'), (hang, 'the decoder hangs')])
def test_a_file_that_crashes_or_hangs_the_decoder_is_rejected_then_retried(files, tmp_path, monkeypatch, fault, reason):
  monkeypatch.setattr(ingest, 'GRACE', 0.5)
  with monkeypatch.context() as patch:
    patch.setattr(ingest, '_store', fault)
    form = FORM._replace(seconds=1.0)
    _, rejected = ingest.fill(epath.Path(tmp_path), clips(files / 'good.mp4', files / 'bad.mp4'), form, workers=1)
  assert [reason in one.reason for one in rejected] == [True, True]
  # The cause may have been the machine, so another run tries again.
  assert len(ingest.fill(epath.Path(tmp_path), clips(files / 'good.mp4'), FORM, workers=1)[0]) == 1


def test_the_next_run_retries_unreadable_and_slow_files_but_not_undecodable_ones(files, tmp_path, capsys):
  """A file that cannot be decoded is not tried again; one that could not be read, or took too long, is."""
  later = tmp_path / 'later.mp4'

  def fill(form=FORM):
    found = clips(files / 'bad.mp4', later, files / 'good.mp4')
    return ingest.fill(epath.Path(tmp_path / 'cache'), found, form, workers=1)

  reasons = [one.reason for one in fill(FORM._replace(seconds=0.0))[1]]
  assert 'cannot be decoded' in reasons[0] and 'cannot be read' in reasons[1] and 'takes longer' in reasons[2]
  later.write_bytes((files / 'good.mp4').read_bytes())
  capsys.readouterr()
  accepted, rejected = fill()
  assert [one.key for one in accepted] == ['1', '2'] and len(rejected) == 1
  assert '1 of 3 clips were decoded by an earlier run' in capsys.readouterr().out


def test_of_several_files_of_a_clip_the_first_usable_one_is_kept(files, tmp_path):
  bad, good, more = (clip._replace(key='one') for clip in clips(files / 'bad.mp4', *[files / 'good.mp4'] * 2))
  accepted, rejected = ingest.fill(epath.Path(tmp_path), [bad, good, more], FORM, workers=1)
  assert [one.features for one in accepted] == [{'label': 1}]
  assert 'cannot be decoded' in rejected[0].reason and rejected[1].reason == ingest.DUPLICATE


def test_a_clip_whose_cache_file_is_empty_is_decoded_again(files, tmp_path):
  clip = ingest.fill(epath.Path(tmp_path), clips(files / 'good.mp4'), FORM, workers=1)[0][0]
  clip.file.write_bytes(b'')  # as a power cut leaves it
  assert len(ingest.fill(epath.Path(tmp_path), clips(files / 'good.mp4'), FORM, workers=1)[0][0].frames()) == 30


def test_a_file_that_takes_too_long_to_decode_is_rejected(files):
  with pytest.raises(decoding.RejectedError, match='takes longer than 0 s'):
    decoding.decode(files / 'good.mp4', short_side=16, fps=25, seconds=0)


def test_an_unwritable_cache_is_reported_in_one_line(files, tmp_path):
  (tmp_path / 'cache').write_text('a file where the folder should be')
  with pytest.raises(UsageError, match='cannot write decoded clips') as error:
    ingest.fill(epath.Path(tmp_path / 'cache' / 'train'), clips(files / 'good.mp4'), FORM, workers=1)
  assert '\n' not in str(error.value)


def test_a_damaged_cache_file_is_reported_and_decoded_again_in_the_next_run(files, tmp_path):
  def fill():
    return ingest.fill(epath.Path(tmp_path), clips(files / 'good.mp4'), FORM, workers=1)[0][0]

  clip = fill()
  content = clip.file.read_bytes()
  clip.file.write_bytes(content[: len(content) // 2])
  with pytest.raises(UsageError, match='run the same command again'):
    clip.frames()
  assert len(fill().frames()) == 30


def test_prepare_killed_with_sigkill_resumes_and_writes_the_same_data_set(tmp_path, config):
  """A real process, killed with SIGKILL while it decodes."""
  source = tmp_path / 'source' / 'class'
  source.mkdir(parents=True)
  encode(source / '00.mp4', frames=250, width=320, height=240)
  for i in range(1, 24):
    (source / f'{i:02d}.mp4').write_bytes((source / '00.mp4').read_bytes())
  (source / 'bad.mp4').write_bytes(b'not a video')
  command = [sys.executable, '-m', 'dvd_gan.main', '--mode=prepare', '--config=configs/video_folder.py']
  command += [f'--config.data.source={source.parent}', '--config.train.batch_size=8', '--config.data.resolution=32']
  command += ['--config.gen.attention=()', '--config.data.threads=1']

  def run(name):
    return subprocess.Popen(
      [*command, f'--config.data.dir={tmp_path / name}'], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip

  whole, broken = run('whole'), run('broken')
  deadline = time.monotonic() + 120
  while len(list((tmp_path / 'broken').rglob('*.npz'))) < 5:
    assert broken.poll() is None and time.monotonic() < deadline, broken.communicate()
    time.sleep(0.01)
  broken.send_signal(signal.SIGKILL)
  broken.communicate()
  kept = len(list((tmp_path / 'broken').rglob('*.cache/*/*/*.npz')))
  assert 5 <= kept < 24
  again = run('broken')
  output, errors = again.communicate(timeout=300)
  assert again.returncode == 0, errors
  assert f'{kept} of 25 clips were decoded by an earlier run' in output
  assert '24 clips of split train' in output and '1 files rejected' in output
  assert whole.communicate(timeout=300)[0] and whole.returncode == 0

  def written(name):
    (rejects,) = (tmp_path / name).rglob('rejects.jsonl')
    return examples(rejects.parent, 'train'), rejects.read_text()

  assert written('broken') == written('whole')
  assert len(written('whole')[0]) == 24
  left = [path for path in (tmp_path / 'broken').rglob('*') if 'cache' in path.name or 'incomplete' in path.name]
  assert not left, left


def test_a_second_preparation_of_a_data_set_waits_for_the_first(tmp_path, capsys):
  folder, order = epath.Path(tmp_path) / 'set' / '1.0.0', []

  def second():
    with building._exclusive(folder):
      order.append('second')

  thread = threading.Thread(target=second)
  with building._exclusive(folder):
    thread.start()
    thread.join(0.5)
    order.append('first')
  thread.join(10)
  assert order == ['first', 'second']
  assert f'waiting for another process, which is preparing {folder}' in capsys.readouterr().err
