"""An index over TFRecord files: the byte offset of every frame, for random access to clips.

Works on any TFRecord of tf.train.Example that stores a clip as a list of encoded frames.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import multiprocessing
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dvd_gan.datasets import buckets
from dvd_gan.runtime.files import errors, is_remote, size_and_time, write

PARALLEL_BYTES = 1 << 28  # smaller sets are scanned faster than worker processes start
MAX_WORKERS = 16  # each uses about 0.25 GB of memory


class Index(NamedTuple):
  """All clips of a split, in the order of its files.

  The frames of a clip are contiguous, each stored as one protobuf field: a tag byte, the length as a varint, the bytes.
  `offset` has T + 1 entries for a clip of T frames: the start of each frame's field, then the end.
  """

  shard: np.ndarray  # int32 [N], index of the file that holds the clip
  begin: np.ndarray  # int64 [N], byte offset of the clip's first frame field in its file
  first: np.ndarray  # int64 [N + 1]; the entries of clip i are offset[first[i] : first[i + 1]]
  offset: np.ndarray  # uint32 [F + N], byte offsets of the fields from `begin`; may be memory-mapped
  numbers: dict[str, np.ndarray]  # int64 [N] each: the requested integer features

  @property
  def frames(self) -> np.ndarray:
    """Number of frames in each clip, int64 [N]."""
    return np.diff(self.first) - 1

  def place(self, clip: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end byte offsets of the encoded images of a clip's `frames` in its file, int64 [len(frames)] each."""
    at = self.first[clip] + frames
    start, end = self.offset[at].astype(np.int64), self.offset[at + 1].astype(np.int64)
    size = end - start
    header = 2 + (size > 129) + (size > 16386) + (size > 2097155)  # the tag, and a varint of 1 to 4 bytes
    return self.begin[clip] + start + header, self.begin[clip] + end


def load(
  folder: epath.Path, files: list[epath.Path], name: str, *, video: str = 'video', numbers: Iterable[str] = ('label',)
) -> Index:
  """Loads the index of some record files; builds it if it is missing or was made for other files.

  The index is stored beside the record files, or in the user's cache folder if their folder is read-only. An index in a
  bucket is copied to the cache folder. The local file is memory-mapped, because the index of Kinetics takes gigabytes.

  Args:
    folder: folder of the data set.
    files: its TFRecord files, in order.
    name: name of the split.
    video: feature with the list of encoded frames.
    numbers: integer features to keep, one value each.

  Raises:
    ValueError: if a file is not such a TFRecord.
    UsageError: if a file is missing from its bucket.
    tf.errors.OpError, google.api_core.exceptions.GoogleAPIError: if a bucket does not answer. The index is not built
      then, because it may exist.
  """
  sizes = np.array(buckets.sizes(files) if is_remote(folder) else [size_and_time(file)[0] for file in files])
  home = epath.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  elsewhere = home / 'dvd_gan' / 'index' / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
  about = name, sizes, video, tuple(numbers)
  found = _read(folder, *about) if not is_remote(folder) else None
  found = found or _read(elsewhere, *about) or (_copied(folder, elsewhere, *about) if is_remote(folder) else None)
  if found:
    return found
  if is_remote(folder) or sizes.sum() > PARALLEL_BYTES:
    print(f'indexing {len(files)} files of {folder} ({sizes.sum() / 1e9:.1f} GB are read)', file=sys.stderr, flush=True)
  index = build(files, video, about[-1], sizes)
  for place in (folder, elsewhere):
    with contextlib.suppress(*errors()):
      _write(index, place, name, sizes, video)
      if not is_remote(place):
        break
  return index


def _copied(folder: epath.Path, to: epath.Path, name: str, *about: Any) -> Index | None:
  """Copies the index from a bucket, or holds it in memory if it cannot be copied; None if it is missing or rejected."""
  try:
    npy, npz = ((folder / f'index-{name}.{suffix}').read_bytes() for suffix in ('npy', 'npz'))
  except FileNotFoundError:
    return None
  try:
    write(to / f'index-{name}.npy', npy)
    write(to / f'index-{name}.npz', npz)
  except OSError as error:
    print(f'cannot copy the index to {to}, so it is kept in memory: {error}', file=sys.stderr, flush=True)
    return _parsed(folder, name, io.BytesIO(npz), lambda: np.load(io.BytesIO(npy)), *about)
  return _read(to, name, *about)


def _read(folder: epath.Path, name: str, *about: Any) -> Index | None:
  """The index in a local folder; None if it is missing or `_parsed` rejects it."""
  npy, npz = (folder / f'index-{name}.{suffix}' for suffix in ('npy', 'npz'))
  if not (npy.exists() and npz.exists()):
    return None
  with npz.open('rb') as opened:
    # Mapped, so that pages are read on demand; as a plain array, because indexing np.memmap is slow.
    return _parsed(folder, name, opened, lambda: np.asarray(np.load(npy, mmap_mode='r')), *about)


def _parsed(
  folder: epath.Path,
  name: str,
  npz: Any,
  offset_of: Callable[[], np.ndarray],
  sizes: np.ndarray,
  video: str,
  numbers: tuple[str, ...],
) -> Index | None:
  """The index from its two files; None, with a message, if it was truncated by a crash or made for other files."""
  try:
    with np.load(npz) as arrays:
      stored = dict(arrays)
    offset = offset_of()
    if not np.array_equal(stored['sizes'], sizes) or stored['video'] != video:
      raise ValueError('it belongs to other record files')
    if len(offset) != stored['first'][-1] or _digest(offset) != stored['digest']:
      raise ValueError('its two files do not belong together')
    values = {number: stored[f'number-{number}'] for number in numbers}
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    print(f'the index {folder}/index-{name} is ignored: {error}', file=sys.stderr, flush=True)
    return None
  return Index(stored['shard'], stored['begin'], stored['first'], offset, values)


def _write(index: Index, folder: epath.Path, name: str, sizes: np.ndarray, video: str) -> None:
  values = {f'number-{number}': value for number, value in index.numbers.items()}
  about = {'sizes': sizes, 'video': video, 'digest': _digest(index.offset)}
  arrays = {'shard': index.shard, 'begin': index.begin, 'first': index.first, **values, **about}
  # Through memory, because numpy's zip writer seeks and files in a bucket cannot.
  for suffix, save in (
    ('npy', lambda file: np.save(file, index.offset)),
    ('npz', lambda file: np.savez(file, **arrays)),
  ):
    buffer = io.BytesIO()
    save(buffer)
    write(folder / f'index-{name}.{suffix}', buffer.getvalue())


def _digest(offset: np.ndarray) -> int:
  """The sum of a sample of entries: detects a mismatch without reading gigabytes."""
  return int(offset[:: max(1, len(offset) // 997)].sum(dtype=np.int64))


def build(files: list[epath.Path], video: str, numbers: tuple[str, ...], sizes: np.ndarray | None = None) -> Index:
  """Scans record files, in several processes if they are large; `sizes` are the file sizes in bytes, if known."""
  sizes = np.array([size_and_time(file)[0] for file in files]) if sizes is None else sizes
  scan = functools.partial(_scan, video=video, numbers=numbers)
  workers = min(os.cpu_count() or 1, len(files), MAX_WORKERS)
  if workers > 1 and sizes.sum() > PARALLEL_BYTES:
    context = multiprocessing.get_context('spawn')  # threads of this process may hold locks
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
      parts = list(pool.map(scan, map(str, files)))
  else:
    parts = [scan(str(file)) for file in files]
  begin, counts, offset, values = (np.concatenate(part) for part in zip(*parts, strict=True))
  shard = np.repeat(np.arange(len(files), dtype=np.int32), [len(part[0]) for part in parts])
  first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
  return Index(shard, begin, first, offset, dict(zip(numbers, values.T, strict=True)))


def _scan(file: str, video: str, numbers: tuple[str, ...]) -> tuple[np.ndarray, ...]:
  """Scans one file; returns (begin, number of `offset` entries of each clip, offset, numbers [N, K])."""
  import tensorflow as tf
  from google.protobuf.message import DecodeError

  begins, counts, offsets, values = [], [], [], []
  for at, payload in _records(epath.Path(file)):
    try:
      features = tf.train.Example.FromString(payload).features.feature
      if features[video].WhichOneof('kind') != 'bytes_list':
        raise ValueError
      frames = features[video].bytes_list
      begins.append(at + payload.index(frames.SerializeToString()))
      values.append([features[number].int64_list.value[0] for number in numbers])
    except (DecodeError, IndexError, ValueError):
      wanted = ', '.join([video, *numbers])
      raise ValueError(f'{file}: the record at byte {at} is no tf.train.Example with {wanted}') from None
    size = np.array([len(frame) for frame in frames.value], np.int64)
    field = 2 + (size > 127) + (size > 16383) + (size > 2097151) + size  # the tag, a varint of 1 to 4 bytes, the frame
    counts.append(len(size) + 1)
    offsets.append(np.concatenate([[0], np.cumsum(field)]))
  return (
    np.array(begins, np.int64),
    np.array(counts, np.int64),
    np.concatenate(offsets or [[]]).astype(np.uint32),
    np.array(values, np.int64).reshape(len(begins), len(numbers)),
  )


def _records(path: epath.Path) -> Iterator[tuple[int, bytes]]:
  """Yields the byte offset and the content of the payload of each record of a TFRecord file.

  A record is the payload's length as u64, a checksum of the length as u32, the payload and its checksum as u32.
  Checksums are not verified: tf.data.TFRecordDataset stops at the first wrong one, but training replaces a damaged
  frame and uses the rest.
  """
  length, at = size_and_time(path)[0], 0
  with path.open('rb') as file:
    while at < length:
      size = int.from_bytes(file.read(12)[:8], 'little')
      if at + 16 + size > length:
        raise ValueError(f'{path} ends in the middle of a record, at byte {at}: it is truncated or no TFRecord')
      yield at + 12, file.read(size + 4)[:size]
      at += 16 + size
