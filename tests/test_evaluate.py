import base64
import dataclasses
import datetime
import functools
import html.parser
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from etils import epath

import dvd_gan
from dvd_gan import checkpoint, evaluate, export, models, sample, sharding, train_step, video
from dvd_gan.datasets import shapes
from dvd_gan.metrics import features, frechet, networks, plots, protocols, report, results, scores, video_sets
from dvd_gan.metrics.protocols import Protocol
from dvd_gan.runtime import config_file, run_config
from dvd_gan.runtime.errors import RunError, UsageError
from tests.conftest import ROOT
from tests.tiny import get_config
from tests.tiny_prediction import get_config as get_prediction_config

CLIPS = 70


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A workdir with a checkpoint of the tiny model and a file of real clips."""
  return make(get_config(), tmp_path_factory.mktemp('evaluate'))


def make(config, folder):
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, (CLIPS, 7, 16, 16, 3), np.uint8)
  np.savez(folder / 'clips.npz', video=clips, label=np.arange(CLIPS) % 3)
  with_data(config, folder)
  spec = train_step.make_spec(config, unroll=False)
  state = jax.jit(functools.partial(train_step.init_state, spec))(models.init(config), jax.random.key(0))
  state = jax.device_put(state, sharding.state(sharding.make_mesh(), state))
  checkpoints = checkpoint.Checkpoints(folder / 'checkpoints')
  checkpoints.save(2, state)
  checkpoints.close()
  run_config.write(config, epath.Path(folder))
  return epath.Path(folder)


def with_data(config, folder):
  config.data.name, config.data.source = 'array_file', str(folder / 'clips.npz')
  return config


def look(params, video):
  """Replaces a network: means over parts of the frames, as features and as probabilities."""
  cut = video.reshape(*video.shape[:2], 2, video.shape[2] // 2, 2, video.shape[3] // 2, 3).mean((3, 5))
  found = params * cut.mean(1).reshape(len(video), 12)
  change = jnp.abs(jnp.diff(cut, axis=1)).mean((1, 2, 3, 4))
  return {
    'features': jnp.concatenate([found, change[:, None]], axis=1),
    'probabilities': jax.nn.softmax(10 * found),
    'shape': found[:, :6],
    'motion': found[:, :5],
  }


STAND_IN = networks.Network(look, np.float32(2), {'weights': '0'})


@pytest.fixture
def config(workdir, monkeypatch):
  config = with_data(get_config(), workdir)
  config.eval.batch_size, config.eval.samples, config.eval.protocols = 16, 30, ('toy',)
  monkeypatch.setattr(networks, 'load', lambda name, files: STAND_IN)
  monkeypatch.setattr(features, 'PART', 20)  # two batches, so that a set has several parts
  monkeypatch.setitem(protocols.PROTOCOLS, 'toy', protocols.PROTOCOLS['toy'].__class__(
    source='test', number='toy', network='stand_in', feature='features', resize=((8, 'half_pixel'),), frames=0
  ))  # fmt: skip
  return config


def result(workdir, name):
  return json.loads((workdir / 'eval' / f'{name}.json').read_text())


def seen(videos):
  return jax.device_get(look(np.float32(2), networks.prepared(jnp.asarray(videos), ((8, 'half_pixel'),))))


def test_evaluation_results_match_those_computed_directly_from_samples_and_real_clips(config, workdir, capsys):
  config.eval.follow, config.train.steps = True, 2  # the run has ended, so no later checkpoint is awaited
  evaluate.evaluate(config, workdir)
  found = result(workdir, 'toy-2-of_30')
  assert checkpoint.marks(workdir)['best-toy-30-1.0-0'] == {'step': 2, 'value': found['value'], 'worse': 0}
  opened = sample.open_checkpoint(config, workdir)
  labels = np.random.default_rng((0, 1)).integers(3, size=30, dtype=np.int32)
  made = seen(opened.sampler.videos(opened.standing(1.0), labels, truncation=1.0, seed=0))
  real = seen(video_sets.evaluation_windows.Windows(config, 'train').first(60, frames=5).video)
  moments = [frechet.Moments(real['features'][:30]), frechet.Moments(real['features'][30:])]
  assert found['frechet']['distance'] == pytest.approx(
    frechet.distance(moments[0], frechet.Moments(made['features'])), rel=1e-4
  )
  assert found['frechet']['floor'] == pytest.approx(frechet.distance(*moments), rel=1e-3)
  assert found['value'] == found['frechet']['distance'] > 5 * found['frechet']['floor']
  assert found['frechet']['warning'] is None
  expected = scores.neighbours.precision_recall(real['features'][:30], made['features'])
  assert {name: found['frechet'][name] for name in expected} == pytest.approx(expected, abs=0.04)
  shape, motion = np.divmod(labels, 5)
  expected = (made['shape'].argmax(1) == shape).mean(), (made['motion'].argmax(1) == motion).mean()
  assert (found['accuracy']['shape'], found['accuracy']['motion']) == pytest.approx(expected, abs=0.04)
  assert found['inception_score']['real'] == pytest.approx(
    scores.inception_score(real['probabilities'][30:], 1).mean, rel=1e-4
  )
  assert (found['samples'], found['step'], found['truncation'], found['seed']) == (30, 2, 1.0, 0)
  assert found['real'] == {'split': 'train', 'clips': CLIPS, 'reference': 30}
  assert found['network_sha256'] == {'weights': '0'} and found['definition']['frames'] == 5
  assert 'real against real' in capsys.readouterr().out


def test_cached_features_are_reused_if_complete_and_of_the_same_seed(config, workdir, tmp_path, monkeypatch):
  config.eval.cache = str(tmp_path)
  evaluate.evaluate(config, workdir)
  before = result(workdir, 'toy-2-of_30')
  parts = sorted(tmp_path.glob('*/*.npz'))
  assert [part.name for part in parts if part.name.startswith('0000032')] == ['0000032_28.npz']  # of the real clips
  assert len(parts) == 3
  written = [part.stat().st_mtime_ns for part in parts]
  evaluate.evaluate(config, workdir)
  assert [part.stat().st_mtime_ns for part in parts] == written
  parts[-1].unlink()
  evaluate.evaluate(config, workdir)
  assert [part.stat().st_mtime_ns for part in parts[:-1]] == written[:-1] and parts[-1].exists()
  again = result(workdir, 'toy-2-of_30')
  assert again['frechet'] == before['frechet'] and again['accuracy'] == before['accuracy']
  # Another seed gives other samples; the features of real clips are reused.
  config.eval.seed = 1
  evaluate.evaluate(config, workdir)
  assert result(workdir, 'toy-2-of_30-seed_1')['frechet'] != before['frechet']
  assert len(list(tmp_path.glob('*/*.npz'))) == 4


@pytest.mark.parametrize('size', [8, 32])
def test_evaluation_results_do_not_depend_on_the_batch_size(config, workdir, tmp_path, size):
  config.eval.cache = str(tmp_path / 'one')
  evaluate.evaluate(config, workdir)
  before = result(workdir, 'toy-2-of_30')
  config.eval.batch_size, config.eval.cache = size, str(tmp_path / 'other')
  evaluate.evaluate(config, workdir)
  after = result(workdir, 'toy-2-of_30')
  assert after['frechet']['distance'] == pytest.approx(before['frechet']['distance'], rel=1e-3)
  assert after['frechet']['floor'] == pytest.approx(before['frechet']['floor'], rel=1e-5)


def test_several_truncations_give_a_curve_as_json_and_png(config, workdir):
  config.eval.truncation = (1.0, 0.5)
  evaluate.evaluate(config, workdir)
  curve = result(workdir, 'curve-2')
  assert [point['truncation'] for point in curve] == [1.0, 0.5]
  half = result(workdir, 'toy-2-truncation_0.5-of_30')
  assert curve[1]['frechet'] == half['frechet']['distance']
  assert curve[1]['inception_score'] == half['inception_score']['score']
  assert (workdir / 'eval' / 'curve-2.png').read_bytes().startswith(b'\x89PNG')


def test_a_folder_of_videos_is_evaluated_without_a_checkpoint(config, workdir, tmp_path):
  real = video_sets.evaluation_windows.Windows(config, 'train').first(40, frames=5).video[30:]
  folder = tmp_path / 'theirs'
  folder.mkdir()
  for i, clip in enumerate(real):
    (folder / f'{i:02d}.mp4').write_bytes(video.mp4(np.repeat(np.repeat(clip, 4, 1), 4, 2), 8))
  config.eval.videos = str(folder)
  evaluate.evaluate(config, tmp_path / 'elsewhere')  # no checkpoint is needed
  found = result(tmp_path / 'elsewhere', 'toy-theirs-of_10')
  assert found['fewer'] == '10 videos, not 30, 10 reference clips, not 30'
  assert found['samples'] == 10 and found['accuracy'] is None and found['videos'] == str(folder)
  config.eval.videos = ''
  evaluate.evaluate(config, workdir)
  assert found['frechet']['distance'] < 0.5 * result(workdir, 'toy-2-of_30')['frechet']['distance']
  config.eval.videos = str(folder)
  (folder / '05.mp4').write_bytes(b'')
  with pytest.raises(UsageError, match='05.mp4: empty file'):
    evaluate.evaluate(config, tmp_path / 'elsewhere')
  config.eval.videos = str(tmp_path / 'nothing')
  with pytest.raises(UsageError, match='is not a folder'):
    evaluate.evaluate(config, tmp_path / 'elsewhere')


def test_prediction_samples_continue_real_clips_and_are_evaluated_with_their_context_frames(config, tmp_path):
  folder = make(get_prediction_config(), tmp_path)
  config = with_data(get_prediction_config(), folder)
  config.eval.batch_size, config.eval.samples, config.eval.protocols = 8, 12, ('toy',)
  evaluate.evaluate(config, folder)
  found = result(folder, 'toy-2-of_12')
  assert found['accuracy'] is not None and found['definition']['frames'] == 6  # from the labels of the continued clips
  config.sample.batch_size = 8
  opened = sample.open_checkpoint(config, folder)
  known = video_sets.evaluation_windows.Windows(config, 'train').first(4, frames=6)
  protocol = Protocol(source='test', futures=3, frames=5, samples=12)
  made, label = next(video_sets.samples(config, opened, 1.0, protocol).batches(0, 8))
  np.testing.assert_array_equal(made[:, :2], known.video[np.arange(8) // 3, :2])
  assert made.shape == (8, 5, 16, 16, 3) and label.tolist() == known.label[np.arange(8) // 3].tolist()
  assert (np.asarray(made[0, 2:]) != np.asarray(made[1, 2:])).any()


class Page(html.parser.HTMLParser):
  """Collects images, meta tags and texts of an HTML page, and checks that it has no scripts, links or frames."""

  def __init__(self, text):
    super().__init__()
    self.images, self.metas, self.texts = [], {}, []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    if tag == 'img':
      self.images.append(attributes)
    elif tag == 'meta' and 'name' in attributes:
      self.metas[attributes['name']] = attributes['content']
    assert tag not in ('script', 'link', 'iframe')

  def handle_data(self, data):
    self.texts.append(' '.join(data.split()))


def test_the_report_page_shows_real_clips_samples_nearest_clips_and_results(config, workdir, tmp_path, monkeypatch):
  workdir = epath.Path(shutil.copytree(workdir, tmp_path / 'run', ignore=shutil.ignore_patterns('eval', 'events*')))
  names = [name for _, names, _ in plots.CURVES[:2] for name in names]
  (workdir / 'metrics.jsonl').write_text(
    ''.join(json.dumps({'step': i} | dict.fromkeys(names, 1 + i)) + '\n' for i in range(4))
  )
  shown, page = [], report.page
  monkeypatch.setattr(report, 'page', lambda *args: shown.append(args[3]) or page(*args))
  evaluate.evaluate(config, workdir)
  found = result(workdir, 'toy-2-of_30')
  assert found['memorised']['nearer'] == 0 and found['real']['split'] == 'train'
  opened = sample.open_checkpoint(config, workdir)
  windows = video_sets.evaluation_windows.Windows(config, 'train').first(CLIPS, frames=5)
  made = opened.sampler.videos(opened.standing(1.0), np.repeat([0, 1, 2], 3), truncation=1.0, seed=0).astype(int)
  for label, row in enumerate(shown[0]):
    assert row.caption == opened.classes[label] and row.titles == ('real', *['sample'] * 3)
    np.testing.assert_array_equal(row.videos[0], windows.video[list(windows.label).index(label)])
    assert np.abs(row.videos[1:] - made[3 * label : 3 * label + 3]).max() <= 1
  assert len(shown[0]) == 3
  opened.sampler.config.sample.batch_size = 2  # smaller than a row
  rows = evaluate.gallery(config, opened, 'train', 1.0)
  assert all(
    np.abs(one.videos.astype(int) - other.videos).max() <= 1 for one, other in zip(rows, shown[0], strict=True)
  )
  numbers, clips = found['memorised']['closest'][0]
  labels = np.random.default_rng((0, 1)).integers(3, size=30, dtype=np.int32)
  made = opened.sampler.videos(opened.standing(1.0), labels, truncation=1.0, seed=0)
  drawn = []
  monkeypatch.setattr(evaluate.video, 'grid', lambda videos, **kwargs: drawn.append(videos) or videos[0])
  evaluate.write_nearest(
    config, workdir / 'eval' / 'gone.gif', {'memorised': {'closest': [[numbers, clips]]}},
    video_sets.VideoSet({}, 30, lambda first, size: iter([(made[first : first + size], None)])),
    video_sets.VideoSet({}, CLIPS, lambda first, size: iter([(windows.video[first : first + size], None)])),
  )  # fmt: skip
  np.testing.assert_array_equal(drawn[0], [made[numbers], windows.video[clips]])

  text = (workdir / 'eval' / 'report-2.html').read_text()
  page = Page(text)
  assert page.metas['viewport'] == 'width=device-width, initial-scale=1'
  kinds = []
  for image in page.images:
    kind, _, data = image['src'].removeprefix('data:image/').partition(';base64,')
    opened = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
    opened.load()
    assert opened.format.lower() == kind and image['alt']
    kinds.append((kind, getattr(opened, 'n_frames', 1)))
  assert kinds == 4 * [('gif', 5)] + 2 * [('png', 1)]  # three classes and the nearest clips; the plots that have data
  words = ' '.join(page.texts)
  for word in ('toy', 'Frechet distance', f'{found["value"]:.3f}', 'real against real (30 and 30)', 'shape right'):
    assert word in words
  assert (
    datetime.date.today().isoformat() in words and run_config.code_version() in words and 'disc.frames_k=3' in words
  )
  events = [event for file in workdir.glob('events.*') for event in tf.compat.v1.train.summary_iterator(str(file))]
  tags = {value.tag for event in events for value in event.summary.value if event.step == 2}
  assert {'eval/toy', 'eval/toy_floor', 'eval/toy_both', 'eval/toy_nearer'} <= tags


def test_a_second_evaluation_of_a_step_is_added_to_its_report_page(config, workdir, tmp_path):
  config.eval.cache, config.eval.truncation = str(tmp_path), (0.8,)
  evaluate.evaluate(config, workdir)
  config.eval.truncation = (0.6,)
  evaluate.evaluate(config, workdir)
  words = ' '.join(Page((workdir / 'eval' / 'report-2.html').read_text()).texts)
  for truncation in (0.8, 0.6):
    assert f'toy, truncation {truncation}' in words
    assert f'{result(workdir, f"toy-2-truncation_{truncation}-of_30")["value"]:.3f}' in words


def test_result_files_of_earlier_versions_can_be_read(tmp_path):
  (tmp_path / 'eval').mkdir()
  old = json.loads((ROOT / 'results' / 'moving_shapes_32' / 'eval' / 'toy-2032-truncation_0.4.json').read_text())
  assert 'fewer' not in old
  (tmp_path / 'eval' / 'toy-2032-truncation_0.4.json').write_text(json.dumps(old))
  (found,) = results.of_step(epath.Path(tmp_path), 2032)
  assert results.summary(found).startswith('toy, truncation 0.4, 600 samples') and plots.scores([found]) == {}


def test_fvd_short_doubles_frames_and_is_reported_as_no_standard_fvd(config, workdir, tmp_path, monkeypatch, capsys):
  kept = protocols.PROTOCOLS['fvd_short']
  short = dataclasses.replace(kept, network='stand_in', feature='features', resize=((8, 'half_pixel'),))
  monkeypatch.setitem(protocols.PROTOCOLS, 'fvd_short', short)
  # A few long clips: more windows are needed than there are clips.
  clips = np.load(workdir / 'clips.npz')
  np.savez(tmp_path / 'few.npz', video=np.resize(clips['video'], (3, 40, 16, 16, 3)), label=np.arange(3))
  config.data.source, config.eval.protocols, config.eval.cache = (
    str(tmp_path / 'few.npz'),
    ('fvd_short',),
    str(tmp_path),
  )
  evaluate.evaluate(config, workdir)
  found = result(workdir, 'fvd_short-2-of_30')
  assert (
    found['frechet']['floor_clips'] == [30, 30]
    and 'nearer' not in found['memorised']
    and 'no standard FVD' in found['definition']['remark']
  )
  assert 'no standard FVD' in capsys.readouterr().out
  assert 'fvd_short: no standard FVD' in ' '.join(Page((workdir / 'eval' / 'report-2.html').read_text()).texts)
  # In short videos each frame is shown twice: five frames become ten.
  seen = []
  apply = lambda params, video: seen.append(np.asarray(video)) or look(params, video)  # noqa: E731
  extract = networks.extractor(apply, ((8, 'half_pixel'),), short.twice_below, None)
  with jax.disable_jit():
    extract(np.float32(2), jnp.asarray(clips['video'][:1, :5]))
    extract(np.float32(2), jnp.asarray(np.concatenate([clips['video'][:1]] * 2, axis=1)))
  assert [video.shape[1] for video in seen] == [10, 14]
  np.testing.assert_array_equal(seen[0][:, ::2], seen[0][:, 1::2])
  config.data.frames = 16
  with pytest.raises(UsageError, match='fvd_short needs 5 to 15 frames'):
    evaluate.evaluate(config, workdir)


def test_protocols_select_real_clips_loops_and_sample_counts_as_defined(config, workdir, monkeypatch):
  toy = protocols.PROTOCOLS['toy']
  for name, fields in {
    'whole': {'real': -1},
    'drawn': {'windows': 'replacement'},
    'loops': {'number': 'inception_score', 'loops': 3, 'samples': 10, 'feature': 'probabilities'},
    'many': {'samples': 60},
  }.items():
    monkeypatch.setitem(protocols.PROTOCOLS, name, dataclasses.replace(toy, **{'number': 'frechet'} | fields))
  config.eval.protocols, config.eval.samples = ('whole', 'drawn'), 30
  evaluate.evaluate(config, workdir)
  config.eval.protocols, config.eval.samples = ('loops', 'many'), 0
  evaluate.evaluate(config, workdir)
  windows = video_sets.evaluation_windows.Windows(config, 'train')
  clips = windows.first(CLIPS, frames=5).video
  real, labels = seen(clips), np.random.default_rng((0, 1)).integers(3, size=60, dtype=np.int32)
  opened = sample.open_checkpoint(config, workdir)
  made = seen(opened.sampler.videos(opened.standing(1.0), labels, truncation=1.0, seed=0))

  whole = result(workdir, 'whole-2-of_30')
  assert whole['real']['reference'] == CLIPS and whole['frechet']['floor_clips'] == [CLIPS - 30, 30]
  assert whole['frechet']['distance'] == pytest.approx(
    frechet_distance(real['features'], made['features'][:30]), rel=1e-4
  )

  drawn, numbers = result(workdir, 'drawn-2-of_30'), np.random.default_rng((0, 2)).integers(CLIPS, size=60)
  assert len(set(numbers[:30])) < 30
  assert drawn['frechet']['distance'] == pytest.approx(
    frechet_distance(real['features'][numbers[:30]], made['features'][:30]), rel=1e-4
  )
  one, label = windows.one(40, frames=3)
  np.testing.assert_array_equal(one, clips[40, :3])
  assert label == windows.first(41, frames=1).label[40]

  loops = result(workdir, 'loops-2')
  expected = [scores.inception_score(made['probabilities'][i : i + 10], 1).mean for i in (0, 10, 20)]
  assert loops['inception_score']['score'] == loops['value'] == pytest.approx(np.mean(expected), rel=1e-4)
  assert loops['inception_score']['std'] == pytest.approx(np.std(expected), rel=0.1)
  assert loops['inception_score']['real'] == pytest.approx(
    scores.inception_score(real['probabilities'][:10], 1).mean, rel=1e-4
  )
  assert loops['fewer'] is None and loops['real']['reference'] == 0

  many = result(workdir, 'many-2')
  assert many['fewer'] == '35 real clips in their place, not 60'
  assert many['frechet']['floor_clips'] == [35, 35]


def test_loops_use_different_real_windows_and_sample_classes_follow_windows_or_data(config, workdir, monkeypatch):
  """As in MAGVIT, each loop has its own windows and their classes; if clips run out, new windows of them are used."""
  toy = dataclasses.replace(protocols.PROTOCOLS['toy'], number='frechet', samples=40)
  again = {'loops': 2, 'windows': 'again', 'classes': 'windows', 'version': 2}
  monkeypatch.setitem(protocols.PROTOCOLS, 'again', dataclasses.replace(toy, **again))
  monkeypatch.setitem(protocols.PROTOCOLS, 'data', dataclasses.replace(toy, classes='data', crop='centre'))
  config.eval.protocols, config.eval.samples = ('again', 'data'), 0
  config.eval.follow, config.train.steps = True, 2
  evaluate.evaluate(config, workdir)
  windows = video_sets.evaluation_windows.Windows(config, 'train')
  real = windows.first(80, frames=5)
  np.testing.assert_array_equal(windows.labels(80), real.label)
  assert len({clip.tobytes() for clip in real.video}) > CLIPS  # the last ten are new windows
  opened = sample.open_checkpoint(config, workdir)

  def made(labels):
    return seen(opened.sampler.videos(opened.standing(1.0), labels, truncation=1.0, seed=0))['features']

  real_features, fake = seen(real.video)['features'], made(real.label)
  expected = [frechet_distance(real_features[i : i + 40], fake[i : i + 40]) for i in (0, 40)]
  found = result(workdir, 'again-2')
  assert found['frechet']['distances'] == pytest.approx(expected, rel=1e-4)
  assert found['value'] == pytest.approx(np.mean(expected), rel=1e-4) and found['loops'] == 2
  assert found['frechet']['std'] == pytest.approx(np.std(expected), rel=0.1)
  assert found['frechet']['floor_clips'] == [35, 35] and found['definition']['version'] == 2
  assert 'best-again-40-1.0-0-version_2' in checkpoint.marks(workdir)  # not compared with results of an earlier version
  drawn = windows.clip_labels[np.random.default_rng((0, 1)).integers(CLIPS, size=40)]
  expected = frechet_distance(real_features[:40], made(drawn))
  assert result(workdir, 'data-2')['value'] == pytest.approx(expected, rel=1e-4)  # 16 pixels need no crop


def test_unlabelled_clips_give_the_same_distance_but_no_sample_classes(config, workdir, tmp_path, monkeypatch):
  with np.load(config.data.source) as arrays:
    np.savez(tmp_path / 'unlabelled.npz', video=arrays['video'], label=np.full(CLIPS, -1))
  toy = dataclasses.replace(protocols.PROTOCOLS['toy'], number='frechet')
  monkeypatch.setitem(protocols.PROTOCOLS, 'uniform', toy)
  monkeypatch.setitem(protocols.PROTOCOLS, 'data', dataclasses.replace(toy, classes='data'))
  config.eval.protocols = ('uniform',)
  evaluate.evaluate(config, workdir)
  expected = result(workdir, 'uniform-2-of_30')['value']
  config.data.source = str(tmp_path / 'unlabelled.npz')
  evaluate.evaluate(config, workdir)
  found = result(workdir, 'uniform-2-of_30')
  assert found['value'] == expected and found['sets']['real']['real']['source'] == config.data.source
  config.eval.protocols = ('data',)
  with pytest.raises(UsageError, match='label'):
    evaluate.evaluate(config, workdir)


def test_saved_standing_statistics_are_ignored_if_the_config_asks_for_another_size(config, workdir, tmp_path):
  """Their size is stored with them; for older checkpoints it is read from the run's config.json."""
  opened = sample.open_checkpoint(config, workdir)
  standing = opened.standing(1.0)
  spec = train_step.make_spec(config, unroll=False)
  state = jax.jit(functools.partial(train_step.init_state, spec))(models.init(config), jax.random.key(0))
  state = jax.device_put(state, sharding.state(sharding.make_mesh(), state))
  changed = jax.tree.map(lambda leaf: leaf + 1, standing)  # differs from newly computed statistics
  for said in (None, (2, 4)):
    folder = tmp_path / str(said)
    checkpoints = checkpoint.Checkpoints(folder / 'checkpoints')
    checkpoints.save(2, state, changed, statistics=said)
    checkpoints.close()
    run_config.write(config, epath.Path(folder))
    assert 1.0 in sample.open_checkpoint(config, epath.Path(folder)).standing_cache
    other = with_data(get_config(), workdir)
    other.sample.statistics_batches = 3
    assert not sample.open_checkpoint(other, epath.Path(folder)).standing_cache


def frechet_distance(real, made):
  return frechet.distance(frechet.Moments(real), frechet.Moments(made))


def test_invalid_evaluation_settings_and_non_finite_features_are_reported_as_errors(config, workdir, monkeypatch):
  for name, fields, message in (
    ('fvd_nowhere', {}, 'there is no protocol fvd_nowhere; choose from'),
    ('fvd_google', {}, 'fvd_google needs 16 frames, but data.frames is 5'),
    ('toy', {'batch_size': 12}, 'does not divide over the 8 devices'),
    ('toy', {'step': 7}, 'no checkpoint of step 7'),
  ):
    broken = with_data(get_config(), workdir)
    broken.eval.protocols = (name,)
    broken.eval.update(fields)
    with pytest.raises(UsageError, match=message):
      evaluate.evaluate(broken, workdir)
  config.eval.protocols = ()
  with pytest.raises(UsageError, match='eval.protocols is empty'):
    evaluate.evaluate(config, workdir)
  monkeypatch.setattr(networks, 'load', lambda name, files: STAND_IN._replace(params=np.float32('nan')))
  config.eval.protocols, config.eval.cache = ('toy',), str(workdir / 'nan')
  with pytest.raises(RunError, match='not finite'):
    evaluate.evaluate(config, workdir)


def test_gather_returns_the_rows_of_ranges_that_cross_part_boundaries():
  protocol = Protocol(source='test', number='toy', feature='features')
  rows = np.random.default_rng(0).standard_normal((50, 3))
  parts = [
    {
      'features': rows[a:b],
      'probabilities': rows[a:b],
      'shape': rows[a:b],
      'motion': rows[a:b],
      'label': np.zeros(b - a),
    }
    for a, b in ((0, 20), (20, 40), (40, 50))
  ]
  ranges = [(0, 50), (5, 10), (18, 45), (40, 50)]
  for (first, end), found in zip(ranges, scores.gather(protocol, parts, ranges), strict=True):
    assert found.moments.count == end - first
    np.testing.assert_allclose(found.moments.mean, rows[first:end].mean(0))
    np.testing.assert_array_equal(found.all('probabilities'), rows[first:end])


def test_every_protocol_names_an_output_and_the_input_size_of_its_network():
  sizes = {'i3d_400': 224, 'i3d_600': 224, 'shapes': 32}
  outputs = {
    'i3d_400': {'logits', 'average_pool'}, 'i3d_600': {'logits', 'average_pool', 'probabilities'},
    'c3d_101': {'probabilities'}, 'c3d_101_255': {'probabilities'}, 'shapes': {'features'},
  }  # fmt: skip
  assert {'fvd_stylegan_v', 'fvd_google', 'fvd_magvit', 'fvd_bair_256x100', 'fvd_k600_16f', 'fid_k600', 'is_k600',
          'is_ucf101_tgan2', 'is_ucf101_magvit', 'toy'} <= set(protocols.PROTOCOLS)  # fmt: skip
  for name, protocol in protocols.PROTOCOLS.items():
    assert protocol.feature in outputs[protocol.network], name
    if protocol.network in sizes:
      assert protocol.resize[-1][0] == sizes[protocol.network], name
    assert protocol.source and protocol.number in ('frechet', 'inception_score', 'toy'), name


def test_toy_accuracy_divides_labels_into_shape_and_motion():
  found = scores.Gathered(frechet.Moments(), {
    'label': [np.arange(30)],
    'shape': [np.eye(6)[np.arange(30) // 5]],
    'motion': [np.eye(5)[(np.arange(30) + (np.arange(30) < 6)) % 5]],  # wrong for six
  })  # fmt: skip
  assert scores.accuracy(found) == pytest.approx({'shape': 1, 'motion': 0.8, 'both': 0.8})
  assert len(shapes.SHAPES) == 6 and len(shapes.MOTIONS) == 5


def test_a_loaded_or_exported_model_draws_the_same_samples_as_the_program(workdir, tmp_path):
  model = dvd_gan.load(str(workdir))
  assert model.classes == ('0', '1', '2') and model.step == 2
  config = with_data(get_config(), workdir)
  opened = sample.open_checkpoint(config, workdir)
  labels = np.array([2, 0, 2], np.int32)
  expected = opened.sampler.videos(opened.standing(0.5), labels, truncation=0.5, seed=7)
  made = model.sample(classes=['2', 0], num=3, seed=7, truncation=0.5)
  assert made.dtype == np.uint8 and made.shape == (3, 5, 16, 16, 3)
  np.testing.assert_array_equal(made, expected)
  assert len(model.sample()) == 3  # one of each class
  config = config_file.get_config(str(workdir / 'config.json'))
  for dtype, off in (('float32', 0), ('float16', 2)):
    config.export.folder, config.export.dtype = str(tmp_path / dtype), dtype
    export.export(config, workdir)
    exported = dvd_gan.load(tmp_path / dtype)
    assert exported.classes == model.classes and exported.step == 2
    for truncation in (1.0, 0.5, 0.3):  # the statistics for 0.3 are computed
      one, other = (of.sample(num=4, seed=3, truncation=truncation).astype(int) for of in (exported, model))
      assert abs(one - other).max() <= off
  assert sorted(path.name for path in (tmp_path / 'float16').iterdir()) == [
    'README.md', 'classes.txt', 'config.json', 'model.safetensors', 'samples.gif'
  ]  # fmt: skip
  text = (tmp_path / 'float16' / 'README.md').read_text()
  assert 'samples differ from float32 by' in text and '2 steps, 32 real clips shown' in text
  own = tmp_path / 'own' / 'README.md'
  own.parent.mkdir()
  own.write_text('mine')
  for folder, message in ((own.parent, 'would replace: README.md'), (own, 'cannot write to export.folder')):
    config.export.folder = str(folder)
    with pytest.raises(UsageError, match=message):
      export.export(config, workdir)
  assert own.read_text() == 'mine' and list(own.parent.iterdir()) == [own]
  broken = (tmp_path / 'float32' / 'model.safetensors').read_bytes()
  (tmp_path / 'float32' / 'model.safetensors').write_bytes(broken[: len(broken) // 2])
  with pytest.raises(UsageError, match='model.safetensors cannot be read'):
    dvd_gan.load(tmp_path / 'float32')
  state, _ = checkpoint.Checkpoints(workdir / 'checkpoints').restore(2, config, sharding.make_mesh(), full_state=False)
  assert state.disc is None and state.gen.params is None and state.gen.opt_state is None
  for call, message in (
    (lambda: model.sample(['nothing']), 'no class nothing'),
    (lambda: model.predict(np.zeros((1, 2, 16, 16, 3), np.uint8)), 'takes no context'),
    (lambda: dvd_gan.load(str(workdir), step=7), 'no checkpoint of step 7'),
    (lambda: dvd_gan.load(str(tmp_path / 'none')), 'none/config.json: there is no such file'),
  ):
    with pytest.raises(UsageError, match=message):
      call()


def test_a_loaded_or_exported_prediction_model_continues_videos_as_the_program_does(tmp_path):
  config = get_prediction_config()
  workdir = make(config, tmp_path)
  clips = video_sets.evaluation_windows.Windows(config, 'train').first(3, frames=2).video
  opened = sample.open_checkpoint(config, workdir)
  expected = opened.sampler.videos(opened.standing(1.0), np.zeros(3, np.int32), truncation=1.0, seed=1, context=clips)
  model = dvd_gan.load(workdir)
  np.testing.assert_array_equal(model.predict(clips, seed=1), expected)
  config.export.folder = str(tmp_path / 'exported')
  export.export(config, workdir)
  np.testing.assert_array_equal(dvd_gan.load(tmp_path / 'exported').predict(clips, seed=1), expected)
  with pytest.raises(UsageError, match=r'takes uint8 \[N, 2, 16, 16, 3\], not uint8 \[1, 2, 8, 8, 3\]'):
    model.predict(np.zeros((1, 2, 8, 8, 3), np.uint8))
  with pytest.raises(UsageError, match='truncation=0.5: predictions need training clips'):
    model.predict(clips, truncation=0.5)
  with pytest.raises(UsageError, match='this model continues videos'):
    model.sample()
