"""Where every frame of a prepared data set lies: an index over TFRecord files, so that clips are random access.

Works on any TFRecord of tf.train.Example that stores a clip as a list of encoded frames, whoever wrote it. The wire
format is read by hand because protobuf gives values, not the places of values.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import mmap
import multiprocessing
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dvd_gan.files import errors, is_remote, size_and_time, write

PARALLEL_BYTES = 1 << 28  # less than this is scanned before other processes would have started


class Index(NamedTuple):
  """All clips of a split, in the order of its files.

  The frames of a clip lie side by side, each as one protobuf field: a tag byte, the length as a varint, the bytes.
  `offset` has one more entry for each clip than it has frames: the end of its last.
  """

  shard: np.ndarray  # int32 [N], which file
  begin: np.ndarray  # int64 [N], of the clip's first frame in its file
  first: np.ndarray  # int64 [N + 1], clip i has entries first[i] to first[i + 1] of `offset`
  offset: np.ndarray  # uint32 [F + N], of each frame's field from `begin`; perhaps mapped from the disk
  numbers: dict[str, np.ndarray]  # int64 [N] each: the integer features asked for

  @property
  def frames(self) -> np.ndarray:
    """Frames in each clip, int64 [N]."""
    return np.diff(self.first) - 1

  def place(self, clip: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the encoded pictures of a clip's frames begin and end in its file, int64 each."""
    at = self.first[clip] + frames
    start, end = self.offset[at].astype(np.int64), self.offset[at + 1].astype(np.int64)
    size = end - start
    header = 2 + (size > 129) + (size > 16386) + (size > 2097155)  # the tag, and a varint of 1 to 4 bytes
    return self.begin[clip] + start + header, self.begin[clip] + end


def load(
  folder: epath.Path, files: list[epath.Path], name: str, *, video: str = 'video', numbers: Iterable[str] = ('label',)
) -> Index:
  """The index of some record files, kept beside them; built where it is missing or out of date.

  A read-only data set's index is kept in the user's cache folder.

  Args:
    folder: of the data set.
    files: its TFRecord files, in order.
    name: of the split.
    video: feature with the list of encoded frames.
    numbers: integer features to keep, one value each.

  Raises:
    ValueError: if a file is no such TFRecord.
  """
  sizes = np.array([size_and_time(file)[0] for file in files])
  numbers = tuple(numbers)
  home = epath.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  elsewhere = home / 'dvd_gan' / 'index' / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
  for place in (folder, elsewhere):
    # What cannot be read, a file cut short by a crash say, is as good as missing.
    with contextlib.suppress(*errors(), ValueError, KeyError, EOFError, zipfile.BadZipFile):
      return _read(place, name, sizes, video, numbers)
  index = build(files, video, numbers)
  for place in (folder, elsewhere):
    with contextlib.suppress(*errors()):
      _write(index, place, name, sizes, video)
      break
  return index


def _read(folder: epath.Path, name: str, sizes: np.ndarray, video: str, numbers: tuple[str, ...]) -> Index:
  with (folder / f'index-{name}.npz').open('rb') as opened, np.load(opened) as arrays:
    stored = dict(arrays)
  if not np.array_equal(stored['sizes'], sizes) or stored['video'] != video:
    raise ValueError('of other files')
  path = folder / f'index-{name}.npy'
  if is_remote(folder):
    with path.open('rb') as opened:
      offset = np.load(opened)
  else:
    offset = np.load(path, mmap_mode='r')  # gigabytes for Kinetics: its pages come when they are needed
  if len(offset) != stored['first'][-1] or _digest(offset) != stored['digest']:
    raise ValueError('two halves of different runs')
  values = {number: stored[f'number-{number}'] for number in numbers}
  return Index(stored['shard'], stored['begin'], stored['first'], offset, values)


def _write(index: Index, folder: epath.Path, name: str, sizes: np.ndarray, video: str) -> None:
  values = {f'number-{number}': value for number, value in index.numbers.items()}
  about = {'sizes': sizes, 'video': video, 'digest': _digest(index.offset)}
  arrays = {'shard': index.shard, 'begin': index.begin, 'first': index.first, **values, **about}
  # By way of memory: a bucket's files cannot seek, as numpy's zip files do.
  for suffix, save in (
    ('npy', lambda file: np.save(file, index.offset)),
    ('npz', lambda file: np.savez(file, **arrays)),
  ):
    buffer = io.BytesIO()
    save(buffer)
    write(folder / f'index-{name}.{suffix}', buffer.getvalue())


def _digest(offset: np.ndarray) -> int:
  """A few entries' sum: tells two indices apart without reading gigabytes."""
  return int(offset[:: max(1, len(offset) // 997)].sum(dtype=np.int64))


def build(files: list[epath.Path], video: str, numbers: tuple[str, ...]) -> Index:
  """Scans record files, large sets of them in as many processes as there are cores."""
  scan = functools.partial(_scan, video=video, numbers=numbers)
  workers = min(os.cpu_count() or 1, len(files))
  if workers > 1 and sum(size_and_time(file)[0] for file in files) > PARALLEL_BYTES:
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
  """(begin, entries of each clip, offset, numbers [N, K]) of one file."""
  begins, counts, values = [], [], []
  offsets: list[int] = []
  with _content(file) as content:
    for start, stop in _records(content, file):
      try:
        features = dict(_features(content, start, stop))
        places = list(_values(content, *features[video.encode()]))
        values.append([_integer(content, *features[number.encode()]) for number in numbers])
      except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f'{file}: the record at byte {start} has no {error}') from None
      begins.append(places[0][0] if places else start)
      counts.append(len(places) + 1)
      offsets.extend(field - begins[-1] for field, _ in places)
      offsets.append(places[-1][1] - begins[-1] if places else 0)
  return (
    np.array(begins, np.int64),
    np.array(counts, np.int64),
    np.array(offsets, np.uint32),
    np.array(values, np.int64).reshape(len(begins), len(numbers)),
  )


@contextlib.contextmanager
def _content(file: str) -> Iterator[Any]:
  """The bytes of a file: mapped where it is local."""
  if is_remote(file):
    yield epath.Path(file).read_bytes()
  elif not os.path.getsize(file):
    yield b''
  else:
    with open(file, 'rb') as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
      yield mapped


def _records(content: Any, file: str) -> Iterator[tuple[int, int]]:
  """(start, end) of each TFRecord's payload: length u64, its crc u32, payload, its crc u32."""
  at = 0
  while at < len(content):
    if at + 12 <= len(content):
      (size,) = struct.unpack_from('<Q', content, at)
    if at + 12 > len(content) or at + 16 + size > len(content):
      raise ValueError(f'{file} ends in the middle of a record, at byte {at}: it is truncated or no TFRecord')
    yield at + 12, at + 12 + size
    at += 16 + size


def _varint(data: Any, at: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 0x7F) << shift
    at += 1
    if byte < 0x80:
      return value, at
    shift += 7


def _fields(data: Any, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
  """(number, tag, start, end) of each field of a message: places of its tag and content; of a varint, its place."""
  while at < end:
    begin = at
    tag, at = _varint(data, at)
    number, wire = tag >> 3, tag & 7
    if wire == 2:  # length-delimited
      size, at = _varint(data, at)
      stop = at + size
    elif wire == 0:
      stop = _varint(data, at)[1]
    elif wire in (1, 5):
      stop = at + (8 if wire == 1 else 4)
    else:
      raise ValueError('protobuf message')
    yield number, begin, at, stop
    at = stop


def _features(data: Any, start: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
  """(name, place of its Feature) in an Example: features = 1, each a map entry with key = 1 and value = 2."""
  for _, _, features, features_end in _fields(data, start, end):
    for _, _, entry, entry_end in _fields(data, features, features_end):
      parts = {number: (a, b) for number, _, a, b in _fields(data, entry, entry_end)}
      yield data[slice(*parts[1])], parts[2]


def _values(data: Any, start: int, end: int) -> Iterator[tuple[int, int]]:
  """(start, end) of the field of each value of a bytes Feature: bytes_list = 1, value = 1."""
  for _, _, values, values_end in _fields(data, start, end):
    for _, tag, _, stop in _fields(data, values, values_end):
      yield tag, stop


def _integer(data: Any, start: int, end: int) -> int:
  """The first value of an integer Feature: int64_list = 3, value = 1, packed or not; -1 takes ten bytes."""
  for _, _, values, values_end in _fields(data, start, end):
    for _, _, at, _ in _fields(data, values, values_end):
      value = _varint(data, at)[0]
      return value - (1 << 64) if value >> 63 else value
  raise ValueError('value of an integer feature')
