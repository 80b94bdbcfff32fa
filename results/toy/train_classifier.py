"""Trains the classifier of moving_shapes and evaluates it on held-out clips.

python results/toy/train_classifier.py

Writes dvd_gan/metrics/networks/shapes_classifier.npz, and classifier.json beside this file. Clips are drawn once, at 16,
32 or 64 pixels, some as JPEGs, and resized to 32. Their windows, strides and colours are drawn at each step. The result
is a function of SEED, except that another machine rounds differently.
"""

import importlib.metadata
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np
import optax

from dvd_gan.datasets import jpeg, shapes, window
from dvd_gan.metrics import frechet
from dvd_gan.metrics.networks import resize, shapes_classifier, weights

HERE = pathlib.Path(__file__).resolve().parent
SEED = 2  # also of the clips; the training and held-out clips of moving_shapes have seeds 0 and 1
HELD_OUT_SEED = 1
CLIPS, HELD_OUT = 4000, 900
SIZES = (16, 32, 64)  # pixels
SIZE_ODDS = (0.25, 0.5, 0.25)
QUALITY = 95  # JPEG quality of half of the clips
STRIDES = (1, 2)
FRAMES = (6, 8, 10, 12, 16)
TRAINED_FRAMES = (6, 8, 12, 16)  # one compiled step each
DRAWN = window.span(max(FRAMES), max(STRIDES))
STEPS, BATCH, RATE, WARMUP, DECAY = 1200, 64, 3e-3, 100, 1e-3
MAX_NOISE = 0.05  # largest standard deviation of the noise, on the scale of [-1, 1]
FROZEN = 0.5  # share of the still clips that are frozen clips: see `batch`


def resized(video: np.ndarray) -> np.ndarray:
  """uint8 [T, H, W, 3] -> uint8 [T, 32, 32, 3]."""
  return np.asarray(np.round(resize.resize(video, shapes_classifier.RESOLUTION, 'half_pixel'))).astype(np.uint8)


def as_jpeg(video: np.ndarray) -> np.ndarray:
  """Encodes uint8 [T, H, W, 3] as JPEGs and decodes them."""
  return np.stack([jpeg.decode(data) for data in jpeg.encode(video, QUALITY)])


def draw_pool() -> tuple[np.ndarray, np.ndarray]:
  """Training clips, each of a random size, half of them as JPEGs: (uint8 [CLIPS, DRAWN, 32, 32, 3], label)."""
  rng = np.random.default_rng(SEED)
  sizes, jpegs = rng.choice(SIZES, CLIPS, p=SIZE_ODDS), rng.random(CLIPS) < 0.5
  side = shapes_classifier.RESOLUTION
  videos, labels = np.empty((CLIPS, DRAWN, side, side, 3), np.uint8), np.empty(CLIPS, np.int32)
  for i in range(CLIPS):
    video, labels[i] = shapes.draw(SEED, i, frames=DRAWN, size=int(sizes[i]))
    videos[i] = resized(as_jpeg(video) if jpegs[i] else video)
  return videos, labels


def augmented(clip: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
  """A window of a clip in other colours, mirrored or backwards, with noise: f32 [frames, 32, 32, 3] in [-1, 1].

  The class does not change.
  """
  stride = rng.choice(STRIDES)
  start = rng.integers(DRAWN - window.span(frames, stride) + 1)
  video = clip[start::stride][:frames, :, :: rng.choice((1, -1))][:: rng.choice((1, -1)), ..., rng.permutation(3)]
  video = (video / np.float32(127.5) - 1) * rng.choice((-1, 1), 3).astype(np.float32)
  noise = rng.standard_normal(video.shape, np.float32)
  return np.clip(video + np.float32(rng.uniform(0, MAX_NOISE)) * noise, -1, 1)


def split(labels):
  """(shape, motion) of labels."""
  return labels // len(shapes.MOTIONS), labels % len(shapes.MOTIONS)


def batch(videos: np.ndarray, labels: np.ndarray, frames: int, rng: np.random.Generator):
  """(f32 [BATCH, frames, 32, 32, 3] in [-1, 1], label) from the pool.

  Half of the still clips are frozen clips of any class. Drawn still clips lie near the centre, so the network could
  recognise them by position, and would take a frozen sample for a moving one.
  """
  chosen = []
  for at in rng.integers(CLIPS, size=BATCH):
    clip, label = videos[at], labels[at]
    if shapes.MOTIONS[label % len(shapes.MOTIONS)] == 'still' and rng.random() < FROZEN:
      at = rng.integers(CLIPS)
      clip, label = np.broadcast_to(videos[at, rng.integers(DRAWN)], clip.shape), labels[at]
      label += shapes.MOTIONS.index('still') - label % len(shapes.MOTIONS)
    chosen.append((augmented(clip, frames, rng), label))
  return np.stack([clip for clip, _ in chosen]), np.array([label for _, label in chosen])


def train(videos: np.ndarray, labels: np.ndarray) -> dict:
  """The parameters after STEPS steps of AdamW on the sum of both heads' cross-entropies."""
  net = shapes_classifier.ShapesClassifier()
  rate = optax.warmup_cosine_decay_schedule(0, RATE, WARMUP, STEPS)
  optimizer = optax.adamw(rate, weight_decay=DECAY)
  params = jax.jit(net.init)(jax.random.key(SEED), np.zeros((1, 6, *videos.shape[2:]), np.float32))['params']

  def loss(params, video, label):
    found, entropy = net.apply({'params': params}, video), optax.softmax_cross_entropy_with_integer_labels
    shape, motion = split(label)
    right = (found['probabilities'].argmax(1) == label).mean()
    return (entropy(found['shape'], shape) + entropy(found['motion'], motion)).mean(), right

  @jax.jit
  def step(params, state, video, label):
    (value, right), gradient = jax.value_and_grad(loss, has_aux=True)(params, video, label)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value, right

  rng = np.random.default_rng((SEED, 1))
  state, recent = optimizer.init(params), []
  for i in range(STEPS):
    frames = TRAINED_FRAMES[i % len(TRAINED_FRAMES)]
    params, state, value, right = step(params, state, *batch(videos, labels, frames, rng))
    recent.append((value, right))
    if (i + 1) % 100 == 0:
      value, right = np.mean(recent[-100:], axis=0)
      print(f'step {i + 1}: loss {value:.3f}, both right {right:.3f}, {time.process_time():.0f} CPU s', flush=True)
  return params


def run(apply: Callable, video: np.ndarray) -> dict[str, np.ndarray]:
  """The classifier's outputs for clips, uint8 [N, T, 32, 32, 3]."""
  parts = [apply(part.astype(np.float32) / 127.5 - 1) for part in np.split(video, range(100, len(video), 100))]
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def accuracy(found: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
  """Shares of clips whose shape, motion, and both are classified correctly."""
  pairs = zip(('shape', 'motion'), split(labels), strict=True)
  right = {name: found[name].argmax(1) == true for name, true in pairs}
  right['both'] = right['shape'] & right['motion']
  return {name: round(float(hits.mean()), 4) for name, hits in right.items()}


def held_out(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Clips drawn at a size, the same as JPEGs, both resized, and their labels."""
  drawn, labels = shapes.draw_many(HELD_OUT_SEED, HELD_OUT, frames=DRAWN, size=size)
  jpegs = np.stack([resized(as_jpeg(video[: max(FRAMES)])) for video in drawn])
  return np.stack([resized(video) for video in drawn]), jpegs, labels


def evaluate(apply: Callable) -> list[dict]:
  """Rows of accuracy on held-out clips, by source size, stride and frames, and on JPEGs."""
  rows = []
  for size in SIZES:
    videos, jpegs, labels = held_out(size)
    for stride, frames in itertools.product(STRIDES, FRAMES):
      row = {'size': size, 'stride': stride, 'frames': frames, 'jpeg': False}
      rows.append(row | accuracy(run(apply, videos[:, ::stride][:, :frames]), labels))
    row = {'size': size, 'stride': 1, 'frames': max(FRAMES), 'jpeg': True}
    rows.append(row | accuracy(run(apply, jpegs), labels))
  return rows


def sensitivity(apply: Callable) -> list[dict]:
  """Damages one half of the held-out clips: accuracy, and Frechet distance from the other half, by kind of damage."""
  clips, labels = shapes.draw_many(HELD_OUT_SEED, HELD_OUT, frames=max(FRAMES), size=shapes_classifier.RESOLUTION)
  half, rng = HELD_OUT // 2, np.random.default_rng(SEED)
  real, clips, labels = run(apply, clips[:half])['features'], clips[half:], labels[half:]
  small = np.asarray(resize.resize(clips, shapes_classifier.RESOLUTION // 2, 'half_pixel'))
  noise = 12.75 * rng.standard_normal(clips.shape)
  damaged = {
    'none': clips,
    'halved and enlarged again': np.asarray(resize.resize(small, shapes_classifier.RESOLUTION, 'half_pixel')),
    'noise, a deviation of 0.1 of [-1, 1]': np.clip(clips + noise, 0, 255),
    'frames shuffled': np.stack([clip[rng.permutation(len(clip))] for clip in clips]),
    'first frame repeated': np.repeat(clips[:, :1], clips.shape[1], 1),
    'circles alone': clips[labels < len(shapes.MOTIONS)],
  }
  rows = []
  for name, video in damaged.items():
    found = run(apply, np.round(video).astype(np.uint8))
    row = {'damage': name, 'clips': len(video)}
    if len(video) == len(labels):
      still = found['motion'].argmax(1) == shapes.MOTIONS.index('still')
      row |= accuracy(found, labels) | {'called_still': round(float(still.mean()), 4)}
    distance = frechet.distance(frechet.Moments(found['features']), frechet.Moments(real))
    rows.append(row | {'frechet': round(distance, 3)})
  return rows


def main() -> None:
  start = time.monotonic()
  videos, labels = draw_pool()
  print(f'drawn: {time.process_time():.0f} CPU s', flush=True)
  params = train(videos, labels)
  seconds, cpu_seconds = time.monotonic() - start, time.process_time()
  leaves = jax.tree_util.tree_leaves_with_path(params)
  arrays = {jax.tree_util.keystr(path, simple=True, separator='/'): np.float16(leaf) for path, leaf in leaves}
  np.savez(shapes_classifier.WEIGHTS, **arrays)
  loaded = shapes_classifier.load()
  apply = jax.jit(lambda video: shapes_classifier.ShapesClassifier().apply({'params': loaded.params}, video))
  measured = {'accuracy': evaluate(apply), 'sensitivity': sensitivity(apply)}
  result = {
    'command': 'python results/toy/train_classifier.py',
    'settings': {
      'seed': SEED,
      'clips': CLIPS,
      'steps': STEPS,
      'batch': BATCH,
      'rate': RATE,
      'warmup': WARMUP,
      'weight_decay': DECAY,
      'frames': TRAINED_FRAMES,
      'strides': STRIDES,
      'sizes': dict(zip(SIZES, SIZE_ODDS, strict=True)),
      'jpeg_quality': QUALITY,
      'max_noise': MAX_NOISE,
      'frozen': FROZEN,
    },
    'parameters': sum(int(np.prod(shape)) for shape in weights.names(loaded.params).values()),
    'sha256': loaded.sha256,
    'training': {'seconds': round(seconds), 'cpu_seconds': round(cpu_seconds), 'cores': len(os.sched_getaffinity(0))},
    'held_out': {'seed': HELD_OUT_SEED, 'clips': HELD_OUT},
    'versions': {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')},
  }
  text = json.dumps(result, indent=2)
  for name, rows in measured.items():  # one row per line
    rows = ',\n'.join(f'    {json.dumps(row)}' for row in rows)
    text = f'{text[:-2]},\n  "{name}": [\n{rows}\n  ]\n}}'
  (HERE / 'classifier.json').write_text(f'{text}\n')
  print(text)


if __name__ == '__main__':
  main()
