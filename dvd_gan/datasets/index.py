"""Where every frame of a prepared data set lies: an index over TFRecord files, so that clips are random access.

Works on any TFRecord of tf.train.Example that stores a clip as a list of encoded frames, whoever wrote it. The wire
format is read by hand because protobuf gives values, not the places of values.
"""

import contextlib
import os
import struct
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from etils import epath


class Index(NamedTuple):
  """All clips of a split, in the order of its files; frames of clip i are first[i] to first[i + 1]."""

  shard: np.ndarray  # int32 [N], which file
  label: np.ndarray  # int32 [N]
  first: np.ndarray  # int64 [N + 1]
  offset: np.ndarray  # int64 [F], of each frame's bytes in its file
  length: np.ndarray  # int32 [F]

  @property
  def frames(self) -> np.ndarray:
    """Frames in each clip, int64 [N]."""
    return np.diff(self.first)


def load(
  folder: epath.Path, files: list[epath.Path], name: str, *, video: str = 'video', label: str = 'label'
) -> Index:
  """The index of some record files, kept as `index-NAME.npz` beside them; built where it is missing or out of date.

  Args:
    folder: where to keep it.
    files: the TFRecord files, in order.
    name: of the split.
    video: feature with the list of encoded frames.
    label: integer feature.
  """
  cache = folder / f'index-{name}.npz'
  sizes = np.array([file.stat().length for file in files])
  if cache.exists():
    # What cannot be read, a file cut short by a crash say, is as good as missing.
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
      with cache.open('rb') as opened, np.load(opened) as arrays:
        if np.array_equal(arrays['sizes'], sizes):
          return Index(*(arrays[field] for field in Index._fields))
  index = build(files, video, label)
  with contextlib.suppress(OSError):  # a read-only data set is indexed anew at every start
    partial = folder / f'{cache.name}.{os.getpid()}'
    with partial.open('wb') as opened:
      np.savez(opened, sizes=sizes, **index._asdict())
    partial.replace(cache)
  return index


def build(files: list[epath.Path], video: str, label: str) -> Index:
  """Scans record files."""
  shards, labels, counts, offsets, lengths = [], [], [], [], []
  for shard, file in enumerate(files):
    for start, record in _records(file.read_bytes()):
      features = dict(_features(record))
      frames = list(_bytes_list(record, features[video.encode()]))
      shards.append(shard)
      labels.append(_integer(record, features[label.encode()]))
      counts.append(len(frames))
      offsets.extend(start + offset for offset, _ in frames)
      lengths.extend(length for _, length in frames)
  return Index(
    np.array(shards, np.int32),
    np.array(labels, np.int32),
    np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
    np.array(offsets, np.int64),
    np.array(lengths, np.int32),
  )


def _records(content: bytes) -> Iterator[tuple[int, bytes]]:
  """(offset, payload) of each TFRecord: length u64, its crc u32, payload, its crc u32."""
  at = 0
  while at < len(content):
    (size,) = struct.unpack_from('<Q', content, at)
    yield at + 12, content[at + 12 : at + 12 + size]
    at += 16 + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 0x7F) << shift
    at += 1
    if byte < 0x80:
      return value, at
    shift += 7


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
  """(number, start, end) of each field of a message; varint fields give the place of the varint."""
  while at < end:
    tag, at = _varint(data, at)
    number, wire = tag >> 3, tag & 7
    if wire == 2:  # length-delimited
      size, at = _varint(data, at)
      stop = at + size
    elif wire == 0:
      stop = _varint(data, at)[1]
    else:
      stop = at + {1: 8, 5: 4}[wire]
    yield number, at, stop
    at = stop


def _features(record: bytes) -> Iterator[tuple[bytes, tuple[int, int]]]:
  """(name, place of its Feature) in an Example: features = 1, each a map entry with key = 1 and value = 2."""
  for _, start, end in _fields(record, 0, len(record)):
    for _, entry, entry_end in _fields(record, start, end):
      parts = {number: (a, b) for number, a, b in _fields(record, entry, entry_end)}
      key = parts[1]
      yield record[key[0] : key[1]], parts[2]


def _bytes_list(record: bytes, feature: tuple[int, int]) -> Iterator[tuple[int, int]]:
  """(offset, length) of each value of a bytes Feature: bytes_list = 1, value = 1."""
  for _, start, end in _fields(record, *feature):
    for _, a, b in _fields(record, start, end):
      yield a, b - a


def _integer(record: bytes, feature: tuple[int, int]) -> int:
  """The first value of an integer Feature: int64_list = 3, value = 1, packed or not."""
  for _, start, end in _fields(record, *feature):
    for _, a, _ in _fields(record, start, end):
      return _varint(record, a)[0]
  raise ValueError('a label without a value')
