import operator
import os
import subprocess
import sys

import pytest

from dvd_gan import augment, models
from dvd_gan.configs import default, fields
from dvd_gan.datasets import sources
from dvd_gan.models import conv_gru, discriminators
from dvd_gan.runtime import validation
from dvd_gan.runtime.errors import UsageError
from tests.conftest import ROOT, tiny_config

PREDICTION = ('--config=tests/tiny_prediction.py', '--mode=sample', '--workdir={tmp}')


def program(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'dvd_gan.main', *arguments], cwd=ROOT, capture_output=True, text=True, check=False
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config=configs/smoke.py', '--config.train.stesp=3', '--workdir=x'], 'stesp'),
    (['--config=tests/conftest.py', '--workdir=x'], 'AttributeError in --config=tests/conftest.py: '),
    (['--config=configs/nothing.py', '--workdir=x'], 'configs/nothing.py'),
    (['--config=configs/smoke.py', '--config.train.steps=many', '--workdir=x'], 'steps'),
    (
      ['--config=configs/smoke.py', '--config.data.given=3', '--workdir=x'],
      '--config.data.given is now --config.data.context',
    ),
    (['--config=configs/smoke.py', '--config.batch_size=4', '--workdir=x'], 'did you mean train.batch_size'),
    (['--config=configs/smoke.py', '--config.sample.truncation=(0.5,nan)', '--workdir=x'], 'sample.truncation='),
    (['--config=configs/smoke.py', '--workdir=https://host/x'], '--workdir=https://host/x is not a path'),
    ([*PREDICTION, '--config.sample.video=http://host/x.mp4'], 'sample.video=http://host/x.mp4 is not a path'),
    (['--config=configs/smoke.py', '--mode=fly', '--workdir=x'], 'mode'),
    (['--config=configs/smoke.py', '--config.data.resolution=24', '--workdir=x'], 'data.resolution=24'),
    (['--config=configs/smoke.py', '--config.train.batch_size=12', '--workdir=x'], '8 devices'),
    (['--config=configs/smoke.py'], '--workdir'),
    (['--config=configs/smoke.py', '--mode=evaluate', '--workdir={tmp}'], 'eval.protocols is empty'),
    (['--config=configs/smoke.py', '--mode=sample', '--workdir={tmp}/none'], 'no checkpoint'),
    ([*PREDICTION, '--config.sample.video={tmp}/none.mp4'], 'none.mp4: [Errno 2]'),
    ([*PREDICTION, f'--config.sample.video={ROOT}/README.md'], 'README.md: cannot be decoded'),
    (
      ['--config=configs/smoke.py', '--config.data.name=webvid', '--mode=prepare'],
      'data.name=webvid is not moving_shapes, video_folder, ucf101',
    ),
    (['--config=configs/smoke.py', '--config.data.name=array_file', '--mode=prepare'], 'data.source=FILE.npz'),
    (['--config=configs/video_folder.py', '--workdir={tmp}'], 'data.source=FOLDER'),
    (
      ['--config=configs/video_folder.py', '--config.data.source=none', '--workdir={tmp}'],
      f'data.source={ROOT}/none is not a folder',
    ),
  ],
)
def test_a_usage_error_on_the_command_line_prints_one_line_and_exits_with_code_2(arguments, message, tmp_path):
  result = program(*(argument.format(tmp=tmp_path) for argument in arguments))
  output = [line for line in result.stderr.splitlines() if line]
  assert result.returncode == 2, result.stderr
  assert len(output) == 1 and output[0].startswith('error: ') and message in output[0], result.stderr
  assert not (ROOT / 'x').exists()


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('data.resolution', 4, 'data.resolution=4 is not a whole number of 8 or more'),
    ('data.resolution', 48, '48 is not a power of two'),
    ('data.frames', 3, 'must be 4 or more'),
    ('disc.frames_k', 6, 'frames_k=6'),
    ('disc.frames_k', 0, 'frames_k=0'),
    ('gen.multipliers', (4, 2), 'needs 3'),
    ('disc.multipliers', (1, 1, 1, 1, 1, 1), 'allow 3 to 4'),
    ('disc.pool', 3, 'must be 1, 2, 4 or 8, and at most data.resolution / 4 = 4'),
    ('disc.parts', ('temporal', 'audio'), 'disc.parts='),
    ('disc.parts', (), 'is not spatial, temporal or both'),
    ('gen.activation', 'gelu', 'relu or tanh'),
    ('gen.upsampling', 'cubic', 'bilinear or nearest'),
    ('dtype', 'float16', 'bfloat16'),
    ('gen.attention', (16,), 'units only at'),
    ('disc.attention', (16,), 'blocks only at'),
    ('mesh.shard', 64, 'mesh.shard=64'),
    ('mesh.loops', 'both', 'mesh.loops'),
    ('mesh.resampling', 'before', 'mesh.resampling'),
    ('train.batch_size', 0, 'train.batch_size=0'),
    ('seed', -1, 'seed=-1'),
    ('sample.seed', -1, 'sample.seed=-1'),
    ('train.keep_checkpoints', -1, 'keep_checkpoints'),
    ('data.clips', 0, 'data.clips=0'),
    ('train.b1', 1.0, 'train.b1=1.0 is not a number of 0 to 0.999999'),
    ('sample.video', 'x.mp4', 'sample.video is for prediction'),
    ('sample.frames', 20, 'sample.frames is for prediction'),
    ('train.truth_weight', 1.0, 'train.truth_weight=1.0 is for prediction'),
    ('gen.from_last_frame', True, 'gen.from_last_frame is for prediction'),
    ('sample.futures', 0, 'sample.futures=0'),
    ('data.context', 5, 'must be from 0 to data.frames - 1 = 4'),
    ('sample.start', float('nan'), 'sample.start=nan'),
    ('data.context', 3, 'from 1 to the number of generated frames, 2'),
    ('data.short_clips', 'stretch', 'skip or repeat'),
    ('data.ram_gib', 0.0, 'ram_gib'),
    ('data.file_seconds', -1.0, 'file_seconds'),
    ('train.steps', 0, 'train.steps=0'),
    ('train.sample_every', -1, 'sample_every'),
    ('sample.classes', (0, 3), 'sample.classes'),
    ('sample.truncation', (-1.0,), 'truncation'),
    ('sample.fps', 0.0, 'sample.fps=0.0 is not a number above 0'),
    ('sample.fps', float('inf'), 'sample.fps=inf'),
    ('data.fps', -25.0, 'data.fps=-25'),
    ('data.fps', float('nan'), 'data.fps=nan'),
    ('data.jpeg_quality', 200, 'data.jpeg_quality=200 is not a whole number of 1 to 100'),
    ('gen.multipliers', (4, 2, 0), 'gen.multipliers=.* holds 0, which is not a whole number of 1 or more'),
    ('gen.multipliers', (4.5, 2, 2), 'holds 4.5'),
    ('disc.multipliers', ('a', 2, 2), "holds 'a'"),
    ('sample.truncation', (0.5, None), 'holds None, which is not a number of 0 or more'),
    ('sample.truncation', (float('inf'),), 'holds inf'),
    ('sample.classes', (1.5,), 'holds 1.5, which is not a name or a whole number of 0 or more'),
    ('eval.samples', -1, 'eval.samples=-1'),
    ('eval.batch_size', 0, 'eval.batch_size=0'),
    ('eval.truncation', (), 'eval.truncation'),
  ],
)
def test_an_invalid_config_value_raises_a_one_line_usage_error(field, value, message):
  config = tiny_config()
  validation.validate(config)
  group, _, name = field.rpartition('.')
  (config[group] if group else config)[name] = value
  with pytest.raises(UsageError, match=message) as error:
    validation.validate(config)
  assert '\n' not in str(error.value)


def test_each_field_of_the_default_config_has_a_validation_rule_and_satisfies_it():
  config = default.get_config()
  assert sorted(validation.names(config)) == sorted(fields.RULES)
  for name, rule in fields.RULES.items():
    value = operator.attrgetter(name)(config)
    assert rule.fault(value) is None, name
    assert rule.fault((value,) if rule.several else None), name  # of another type
    assert rule.several == isinstance(value, tuple), name
  assert sources.TFDS_SOURCES + ('array_file',) == fields.RULES['data.name'].choices
  assert augment.KINDS == fields.RULES['train.augment'].choices
  assert set(conv_gru.ACTIVATIONS) == set(fields.RULES['gen.activation'].choices)
  assert discriminators.PARTS == fields.RULES['disc.parts'].choices


def test_the_smallest_resolution_has_default_multipliers():
  config = tiny_config()
  config.data.resolution = 8
  config.gen.multipliers = config.disc.multipliers = config.gen.attention = ()
  validation.validate(config)
  gen, disc = models.shapes(config)
  assert 'up_4' in gen and 'block_2' in disc['temporal']


def test_a_batch_size_that_does_not_divide_over_the_devices_is_refused_only_by_validate_batch():
  config = tiny_config()
  config.train.batch_size = 12
  validation.validate(config)
  with pytest.raises(UsageError, match='does not divide over the 8 devices'):
    validation.validate_batch(config, 8)


def test_a_resolution_without_default_multipliers_is_a_usage_error():
  config = default.get_config()
  config.train.batch_size = 8
  config.data.resolution = 512
  with pytest.raises(UsageError, match='set gen.multipliers'):
    validation.validate(config)


@pytest.mark.parametrize(
  ('name', 'message'),
  [('data.given', 'no field data.given; it is now data.context'), ('train.stesp', 'no field train.stesp')],
)
def test_a_config_file_with_an_unknown_field_is_refused(config, name, message):
  group, field = name.split('.')
  config[group][field] = 1
  with pytest.raises(UsageError, match=message):
    validation.validate(config)


def test_importing_models_train_step_and_sampling_does_not_import_tensorflow():
  code = (
    'import sys, dvd_gan.models, dvd_gan.train_step, dvd_gan.losses, dvd_gan.sample, dvd_gan.model, dvd_gan.benchmark;'
    'sys.exit(any(name.split(".")[0] in ("tensorflow", "clu", "tensorflow_datasets") for name in sys.modules))'
  )
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0


def test_the_compilation_cache_is_hit_after_source_lines_have_moved(tmp_path):
  source = 'import jax\nfrom dvd_gan.models.ops.convolution import conv2d\n\n\ndef program(argv):\n'
  source += '  x, kernel = jax.numpy.ones((2, 8, 8, 3)), jax.numpy.ones((3, 3, 3, 5))\n'
  source += '  jax.jit(jax.grad(lambda x, kernel: conv2d(x, kernel).sum(), 1))(x, kernel)\n'
  code = f'import sys; sys.path.insert(0, {str(tmp_path)!r})\n'
  code += 'import moved; from dvd_gan.runtime import app; app.run(moved.program)'
  env = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache')}
  del env['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS']  # set by tests/conftest.py
  compiled = []
  for lines_above in ('', '# Pulled.\n' * 3):
    (tmp_path / 'moved.py').write_text(lines_above + source)
    command = [sys.executable, '-B', '-c', code, '--config=configs/smoke.py']
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    compiled.append({path.name for path in (tmp_path / 'cache').glob('*-cache')})
  # Several programs, each compiled in less than a second: JAX's default would cache none of them.
  assert len(compiled[0]) > 1 and compiled[0] == compiled[1]
