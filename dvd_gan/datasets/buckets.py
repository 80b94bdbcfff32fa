"""Record files in a bucket: the bytes of a window, their sizes, copies on this machine's disk."""

import concurrent.futures
import functools
import pathlib
import shutil
import time
import uuid
from typing import Any

from etils import epath

from dvd_gan.runtime import progress
from dvd_gan.runtime.errors import UsageError

DOWNLOADS = 8  # at once


@functools.cache
def _bucket(name: str) -> Any:
  import tensorstore

  # 32 attempts, tensorstore's default, take a quarter of an hour.
  context = tensorstore.Context({'gcs_request_retries': {'max_retries': 8}})
  return tensorstore.KvStore.open({'driver': 'gcs', 'bucket': name}, context=context).result()


def read(path: epath.Path, offset: int, length: int) -> bytes:
  """`length` bytes of a gs:// file from `offset` on, by one request.

  TensorFlow's reads fetch a block of a megabyte or more, ten times what a window of frames needs.

  Raises:
    OSError: if the file is not there or too short, or the bucket does not answer.
  """
  bucket, _, name = str(path).removeprefix('gs://').partition('/')
  try:
    found = _bucket(bucket).read(name, byte_range=slice(offset, offset + length)).result()
  except ValueError as error:  # whatever it is, tensorstore says it in the text alone
    raise OSError(f'{path}: {error}') from None
  if found.state != 'value':
    raise FileNotFoundError(f'{path} is not there')
  return found.value


def sizes(paths: list[epath.Path]) -> list[int]:
  """Bytes of gs:// files, by listing their folders: asking for one after another would take minutes for thousands.

  Raises:
    FileNotFoundError: if one is not there.
    google.api_core.exceptions.GoogleAPIError: if the bucket does not answer.
  """
  from google.cloud import storage

  found, client = {}, storage.Client()
  for folder in {path.parent for path in paths}:
    bucket, _, name = str(folder).removeprefix('gs://').partition('/')
    for blob in client.list_blobs(bucket, prefix=f'{name}/', delimiter='/', fields='items(name,size),nextPageToken'):
      found[f'gs://{bucket}/{blob.name}'] = blob.size
  missing = [path for path in paths if str(path) not in found]
  if missing:
    raise FileNotFoundError(f'{missing[0]} is not there')
  return [found[str(path)] for path in paths]


def stage(paths: list[epath.Path], folder: str) -> list[pathlib.Path]:
  """Copies gs:// files to a local folder, but for those that are there from an earlier start.

  Args:
    paths: gs:// files.
    folder: local; a file's place in it is its bucket and name.

  Returns:
    The copies, in the order of `paths`.

  Raises:
    UsageError: if the disk is too small.
    google.api_core.exceptions.GoogleAPIError: if the bucket does not answer. What has been copied stays.
  """
  from google.cloud import storage

  root, client = pathlib.Path(folder).expanduser().absolute(), storage.Client()
  copies = [root / str(path).removeprefix('gs://') for path in paths]
  todo = [(path, copy, size) for path, copy, size in zip(paths, copies, sizes(paths), strict=True)
          if not copy.exists() or copy.stat().st_size != size]  # fmt: skip
  total, done, begun = sum(size for *_, size in todo), 0, time.monotonic()
  root.mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(root).free
  if total > free:
    raise UsageError(f'data.stage={folder}: {total / 1e9:.1f} GB are to be copied and {free / 1e9:.1f} GB are free')
  if todo:
    progress.say(f'copying {len(todo)} of {len(paths)} files to {root}: {total / 1e9:.2f} GB')

  def copy(path: epath.Path, to: pathlib.Path, size: int) -> int:
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f'{to.name}.{uuid.uuid4().hex[:8]}')  # a copy has its name when it is whole
    storage.Blob.from_string(str(path), client).download_to_filename(str(partial))
    partial.rename(to)
    return size

  with concurrent.futures.ThreadPoolExecutor(DOWNLOADS) as pool:
    said = begun
    for running in concurrent.futures.as_completed([pool.submit(copy, *one) for one in todo]):
      done += running.result()
      if time.monotonic() - said > progress.EVERY_LINE:
        said = time.monotonic()
        left = progress.span((said - begun) * (total - done) / done)
        progress.say(f'copied {done / 1e9:.2f} of {total / 1e9:.2f} GB, {left} left')
  return copies
