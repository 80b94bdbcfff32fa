import functools
import math
import pathlib
import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from dvd_gan import checkpoint, models, sharding, train_step
from dvd_gan.runtime import checksums
from dvd_gan.runtime.errors import RunError, UsageError
from tests.conftest import tiny_config


@pytest.fixture(scope='module')
def config():
  return tiny_config()


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope='module')
def state(config, mesh):
  init = functools.partial(train_step.init_state, train_step.make_spec(config, unroll=False))
  return jax.jit(init, out_shardings=sharding.replicated(mesh))(models.init(config), jax.random.key(0))


@pytest.fixture
def saved(state, tmp_path):
  """Checkpoints of steps 1 and 2, with different EMA parameters."""
  checkpoints = checkpoint.Checkpoints(tmp_path)
  for step in (1, 2):
    ema = jax.tree.map(lambda leaf, step=step: leaf + step, state.ema_params)
    checkpoints.save(step, state._replace(step=jnp.int32(step), ema_params=ema))
  checkpoints.wait()
  return checkpoints


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def damage(checkpoints, step, fault):
  """Damages every array file, because orbax leaves a varying set of unreferenced files among them."""
  folder = pathlib.Path(checkpoints.folder) / str(step) / 'state'
  paths = [path for path in folder.rglob('d/*') if path.is_file()]
  assert paths
  for path in paths:
    fault(path)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize('fault', [flip, truncate, lambda path: path.unlink()])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_restored(saved, config, mesh, state, capsys, fault):
  damage(saved, 2, fault)
  with pytest.raises(checkpoint.DamagedError, match='checkpoint 2'):
    saved.restore(2, config, mesh)
  step, restored, _ = saved.restore_newest(config, mesh, set_aside=False)
  assert step == 1 and saved.newest() == 2
  same(restored.ema_params, jax.tree.map(lambda leaf: leaf + 1, state.ema_params))
  output = capsys.readouterr().err
  assert 'warning: checkpoint 2' in output and 'trying the previous checkpoint' in output
  # A run that resumes from step 1 saves step 2 again.
  assert saved.restore_newest(config, mesh, set_aside=True)[0] == 1
  assert saved.newest() == 1 and (saved.folder / 'damaged-2').exists()
  saved.save(2, state._replace(step=jnp.int32(2)))
  saved.wait()
  same(saved.restore(2, config, mesh)[0].ema_params, state.ema_params)
  # The same step may be damaged again.
  damage(saved, 2, fault)
  assert saved.restore_newest(config, mesh, set_aside=True)[0] == 1
  assert (saved.folder / 'damaged-2-2').exists()


def test_if_every_checkpoint_is_damaged_restoring_raises_a_run_error_and_renames_none(saved, config, mesh):
  for step in (1, 2):
    damage(saved, step, flip)
  with pytest.raises(RunError, match='every checkpoint in .* is damaged: \\[2, 1\\]; nothing was deleted'):
    saved.restore_newest(config, mesh, set_aside=True)
  assert not list(saved.folder.glob('damaged-*'))


def test_restoring_a_checkpoint_of_another_model_is_a_usage_error_and_not_damage(saved, mesh):
  other = tiny_config()
  other.gen.ch = 4
  with pytest.raises(UsageError, match=r'does not fit .* is \(4, 1\) there and \(8, 1\) here') as error:
    # A new object, as in another process.
    checkpoint.Checkpoints(saved.folder).restore_newest(other, mesh, set_aside=True)
  assert not isinstance(error.value, checkpoint.DamagedError) and saved.newest() == 2


@pytest.mark.parametrize(('count', 'shard'), [(8, 4), (4, 1)])
def test_a_checkpoint_can_be_restored_on_another_number_of_devices(saved, config, state, tmp_path, count, shard):
  mesh = sharding.make_mesh(shard, jax.devices()[:count])
  there = saved.restore(2, config, mesh)[0]
  same(there.ema_params, jax.tree.map(lambda leaf: leaf + 2, state.ema_params))
  assert len(jax.tree.leaves(there)[0].sharding.device_set) == count
  # Save from these devices and restore on one.
  elsewhere = checkpoint.Checkpoints(epath.Path(tmp_path) / 'elsewhere')
  elsewhere.save(2, there)
  elsewhere.wait()
  same(elsewhere.restore(2, config, sharding.make_mesh(devices=jax.devices()[:1]))[0], there)


def test_the_newest_checkpoint_and_those_with_the_best_metric_are_kept(state, tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, keep_best=2)
  scores = {1: 3.0, 2: 1.0, 3: math.nan, 4: 2.0, 5: -math.inf, 6: 9.0}
  for step, score in scores.items():
    checkpoints.save(step, state, best_metric=score)
    checkpoints.wait()
    assert checkpoints.newest() == step
  # 6 is the newest; 2 and 4 have the smallest finite values.
  assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 4, 6]
  again = checkpoint.Checkpoints(tmp_path, keep=1, keep_best=2)
  assert again.newest() == 6
  again.save(7, state, best_metric=1.5)  # the scores of earlier steps are on disk
  again.wait()
  assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 7]


def test_a_checkpoint_without_its_standing_statistics_counts_as_damaged(state, config, mesh, tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  standing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), models.standing_shapes(config))
  checkpoints.save(1, state, standing)
  checkpoints.wait()
  assert checkpoints.restore(1, config, mesh)[1] is not None
  shutil.rmtree(tmp_path / '1' / 'standing')
  with pytest.raises(checkpoint.DamagedError, match='its folder standing is missing'):
    checkpoints.restore(1, config, mesh)


def test_a_checkpoint_in_a_bucket_is_complete_once_orbax_has_written_its_last_file(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint.files, 'is_remote', lambda path: True)
  assert not checkpoint.is_complete(epath.Path(tmp_path))
  (tmp_path / 'commit_success.txt').touch()
  assert checkpoint.is_complete(epath.Path(tmp_path))


def test_checkpoints_of_multiples_of_keep_every_and_of_marked_steps_are_kept(state, tmp_path):
  folder = tmp_path / 'checkpoints'
  checkpoints = checkpoint.Checkpoints(folder, keep=1, keep_every=3)

  def saved(*steps):
    for step in steps:
      checkpoints.save(step, state)
      checkpoints.wait()
    return sorted(int(path.name) for path in folder.iterdir())

  # A concurrent evaluation marks the step that it evaluates, then the best step so far.
  assert saved(1, 2) == [2]
  checkpoint.mark(tmp_path, 'evaluating', 2)
  assert saved(3, 4) == [2, 3, 4]
  checkpoint.mark(tmp_path, 'best', 2, value=1.0)
  checkpoint.mark(tmp_path, 'evaluating', 4)
  assert saved(5) == [2, 3, 4, 5]
  checkpoint.mark(tmp_path, 'evaluating', 5)
  assert saved(6, 7) == [2, 3, 5, 6, 7]
  # A resumed run also keeps them.
  checkpoints = checkpoint.Checkpoints(folder, keep=1, keep_every=3)
  assert saved(8) == [2, 3, 5, 6, 8]
  # If marks cannot be read, the last known ones apply. If none are known, no checkpoint is deleted.
  (tmp_path / checkpoint.MARKS / 'best.json').write_text('{"step"')
  assert saved(9) == [2, 3, 5, 6, 9]
  checkpoints = checkpoint.Checkpoints(folder, keep=1)
  assert saved(10) == [2, 3, 5, 6, 9, 10]


def test_drop_marks_removes_the_marks_of_later_steps(tmp_path):
  for step in (2, 4, 6):
    checkpoint.mark(tmp_path, f'mark {step}', step)
  checkpoint.drop_marks(tmp_path, after=4)
  assert checkpoint.marks(tmp_path) == {'mark 2': {'step': 2}, 'mark 4': {'step': 4}}


def test_score_averages_are_saved_and_needed_to_restore_with_lecam(state, config, mesh, tmp_path):
  regularised = config.copy_and_resolve_references()
  regularised.train.lecam = 0.3
  means = {'real': {'spatial': jnp.float32(1), 'temporal': jnp.float32(2)}}
  means['fake'] = jax.tree.map(jnp.negative, means['real'])
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, state._replace(score_means=means))
  checkpoints.save(2, state)
  checkpoints.wait()
  same(checkpoints.restore(1, regularised, mesh)[0].score_means, means)
  assert checkpoints.restore(2, config, mesh)[0].score_means is None
  with pytest.raises(UsageError, match='train.lecam as in .* is absent there and'):
    checkpoint.Checkpoints(tmp_path).restore(2, regularised, mesh)


def test_a_failed_checkpoint_write_is_a_one_line_error_and_leaves_older_ones_intact(saved, config, mesh, state):
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # writing fails, as on a full disk
  try:
    with pytest.raises(RunError, match='free space and permissions; the newest checkpoint is of step 2: .') as error:
      saved.save(3, state._replace(step=jnp.int32(3)))
      saved.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGXFSZ, handler)
  assert '\n' not in str(error.value)
  again = checkpoint.Checkpoints(saved.folder)
  assert again.restore_newest(config, mesh, set_aside=True)[0] == 2


@pytest.mark.parametrize('bit', [0, 13, 31])
@pytest.mark.parametrize('place', [0, 5, 11])
def test_a_checksum_changes_with_any_flipped_bit_and_with_the_order_of_rows(bit, place):
  values = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
  flipped = values.copy()
  flipped.view(np.uint32).reshape(-1)[place] ^= np.uint32(1 << bit)
  one, other = (checksums.of({'a': jnp.asarray(leaf)}) for leaf in (values, flipped))
  assert one != other
  # Swapped elements are detected as well.
  assert checksums.of({'a': jnp.asarray(values[::-1].copy())}) != one
