"""Features of video sets, computed on all devices and cached in files."""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from dvd_gan import sampling, sharding
from dvd_gan.metrics import networks
from dvd_gan.metrics.protocols import Protocol
from dvd_gan.metrics.video_sets import VideoSet
from dvd_gan.runtime import files, multihost, progress
from dvd_gan.runtime.errors import UsageError

PART = 64  # minimum videos per cache file; an interruption loses the unfinished file

Part = dict[str, np.ndarray]


class Extractor:
  """Runs networks on a mesh and caches their features in files."""

  def __init__(self, config: Any, folder: epath.Path, mesh: jax.sharding.Mesh):
    """Loads no weights; `network` loads them on first use.

    Args:
      config: the config; only `eval` is read.
      folder: cache folder, shared by all processes.
      mesh: each batch is sharded over its devices.

    Raises:
      UsageError: if `eval.batch_size` is not a multiple of the number of devices.
    """
    size = config.eval.batch_size
    if size % mesh.size:
      raise UsageError(f'eval.batch_size={size} does not divide over the {mesh.size} devices')
    self._files, self._size, self._mesh, self._folder = config.eval, size, mesh, folder
    self._networks: dict[str, networks.Network] = {}

  def network(self, name: str) -> networks.Network:
    """Returns a network, loaded once, with replicated weights; raises as `networks.load`."""
    if name not in self._networks:
      network = networks.load(name, self._files)
      self._networks[name] = network._replace(params=jax.device_put(network.params, sharding.replicated(self._mesh)))
    return self._networks[name]

  def place(self, array: np.ndarray) -> jax.Array:
    """Shards a batch over all devices; every process holds the full batch."""
    return jax.make_array_from_callback(array.shape, sharding.batch(self._mesh), lambda index: array[index])

  def parts(self, protocol: Protocol, videos: VideoSet, title: str) -> Iterator[Part]:
    """Yields features by name, f32 [n, ...], and 'label', int32 [n], part by part.

    A cached part is read from its file. Any other part is computed, and the first process writes it. The name of the
    file's folder is a hash of everything that determines the features.
    """
    network, size = self.network(protocol.network), self._size
    length = -(-PART // size) * size
    key = {'videos': videos.key, 'network': network.sha256, 'resize': protocol.resize, 'part': length}
    key |= {'twice_below': protocol.twice_below} if protocol.twice_below else {}
    folder = self._folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    starts = range(0, videos.count, length)
    names = {start: f'{start:07d}_{min(length, videos.count - start)}.npz' for start in starts}
    here = set(json.loads(multihost.gather(json.dumps([i for i in starts if (folder / names[i]).exists()]))[0]))
    extract = networks.extractor(network.apply, protocol.resize, protocol.twice_below, sharding.replicated(self._mesh))
    if len(here) < len(starts) and not progress.terminal():
      progress.say(f'{title}: {videos.count} videos', sys.stderr)
    with progress.bar(videos.count, title, quiet=len(here) == len(starts)) as shown:
      batches = None
      for start in starts:
        rows = min(length, videos.count - start)
        shown.update(rows if start in here else 0)
        if start in here:
          batches = None
          with (folder / names[start]).open('rb') as file, np.load(file) as arrays:
            yield dict(arrays)
          continue
        batches = batches or videos.batches(start, size)
        found = []
        for _ in range(-(-rows // size)):
          video, label = next(batches)
          video = video if isinstance(video, jax.Array) else self.place(sampling.filled(video, size))
          out = jax.device_get(extract(network.params, video))
          found.append({name: value[: len(label)] for name, value in out.items()} | {'label': label})
          shown.update(len(label))
        part = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        if jax.process_index() == 0:
          buffer = io.BytesIO()
          np.savez(buffer, **part)
          files.write(folder / names[start], buffer.getvalue())
        yield part
