"""Compares the rate of reading a prepared data set with the decoding rate of libjpeg-turbo on the same JPEGs.

python -m dvd_gan.datasets.benchmark --config=configs/FILE.py [--config.field=value ...] [--seconds=10] [--threads=1]

Alternates between reading as training does and decoding the JPEGs of the same windows in a loop (simplejpeg, into one
buffer; no index, no reading, no crop). The process is bound to `threads` cores if the system supports it. Prints one
JSON object last.
"""

import json
import os
import time
from typing import Any

import numpy as np
import simplejpeg
from absl import flags

from dvd_gan.datasets import input_pipeline, sources, window
from dvd_gan.runtime import app
from dvd_gan.runtime.errors import UsageError

flags.adopt_module_key_flags(app)
_SECONDS = flags.DEFINE_float('seconds', 10.0, 'Duration of the measurement, in seconds.')
_THREADS = flags.DEFINE_integer('threads', 1, 'Decoder threads.')
ROWS = 64  # clips in a batch
FRAMES = 24576  # per round, the same in each; the start of the pipeline, 0.1 s, is a few per cent of a round


def measure(config: Any, *, seconds: float, threads: int) -> dict[str, Any]:
  """Measures reading and bare decoding, in clips per second and core.

  Args:
    config: config of a prepared data set of JPEGs; its batch size is set to `ROWS`.
    seconds: total duration of the measurement.
    threads: decoder threads.

  Raises:
    UsageError: if the data set is missing or holds no JPEGs.
  """
  config.data.threads, config.train.batch_size, config.train.d_steps = threads, ROWS, 1
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
  source, rows, count = sources.open_source(config), np.arange(ROWS), max(1, FRAMES // (ROWS * config.data.frames))
  if source.in_memory:
    raise UsageError(f'data.name={config.data.name} holds no JPEGs')

  def batches(steps):
    return input_pipeline.host_batches(config, source, range(steps), rows)  # no step after the last is prefetched

  for _ in batches(1):  # imports TensorFlow and starts its threads before the measurement
    pass
  start = time.perf_counter()
  for _ in batches(1):
    pass
  first = time.perf_counter() - start
  plans = [window.plan(config, step, rows, source.lengths) for step in range(count)]
  jpegs = [bytes(jpeg) for plan in plans for frames in source.encoded(plan) for jpeg in frames]
  if any(jpeg[:2] != b'\xff\xd8' for jpeg in jpegs):
    raise UsageError(f'data.name={config.data.name} holds no JPEGs')
  largest = max(np.prod(simplejpeg.decode_jpeg_header(jpeg)[:2]) for jpeg in jpegs)
  buffer = np.empty(int(largest) * 3, np.uint8)
  read, bare = [], []
  until = time.perf_counter() + seconds
  while time.perf_counter() < until or len(read) < 3:
    start = time.perf_counter()
    for _ in batches(count):
      pass
    between = time.perf_counter()
    for jpeg in jpegs:
      simplejpeg.decode_jpeg(jpeg, buffer=buffer)
    read.append(between - start)
    bare.append(time.perf_counter() - between)
  clips = ROWS * count
  return {
    'data': config.data.name,
    'resolution': config.data.resolution,
    'frames': config.data.frames,
    'stride': config.data.stride,
    'span': window.span(config.data.frames, config.data.stride),
    'jpeg_bytes': round(float(np.mean([len(jpeg) for jpeg in jpegs]))),
    'threads': threads,
    'clips_per_s_core': round(clips / float(np.median(read)) / threads, 1),
    'libjpeg_turbo_clips_per_s_core': round(clips / float(np.median(bare)), 1),
    'share_of_libjpeg_turbo': round(float(np.median(np.array(bare) / read)) / threads, 3),
    'rounds': len(read),
    'first_batch_s': round(first, 3),
  }


def _main(argv: list[str]) -> None:
  del argv
  print(json.dumps(measure(app.CONFIG.value, seconds=_SECONDS.value, threads=_THREADS.value)))


if __name__ == '__main__':
  app.run(_main)
