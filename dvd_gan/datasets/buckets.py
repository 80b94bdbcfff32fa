"""Record files in a bucket: the bytes of a window, their sizes, copies on this machine's disk."""

import concurrent.futures
import fcntl
import functools
import pathlib
import shutil
import time
from typing import Any

from etils import epath

from dvd_gan.runtime import files, progress
from dvd_gan.runtime.errors import UsageError

DOWNLOADS = 8  # at once
TIMEOUT = 300  # seconds for a read, attempts included: a connection may be half open


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
    found = _bucket(bucket).read(name, byte_range=slice(offset, offset + length)).result(timeout=TIMEOUT)
  except ValueError as error:  # whatever it is, tensorstore says it in the text alone
    raise OSError(f'{path}: {error}') from None
  if found.state != 'value':
    raise FileNotFoundError(f'{path} is not there')
  return found.value


def folders(folder: epath.Path) -> list[str]:
  """Names of the folders in a gs:// folder.

  Raises:
    google.api_core.exceptions.GoogleAPIError: if the bucket does not answer.
  """
  bucket, prefix = files.bucket_and_prefix(folder)
  listing = files.client().list_blobs(bucket, prefix=prefix, delimiter='/', fields='prefixes,nextPageToken')
  for _ in listing:
    continue  # the folders are known when all pages are read
  return sorted(name.removeprefix(prefix).rstrip('/') for name in listing.prefixes)


def sizes(paths: list[epath.Path]) -> list[int]:
  """Bytes of gs:// files, by listing their folders: asking for one after another would take minutes for thousands.

  Raises:
    UsageError: if one is not there.
    google.api_core.exceptions.GoogleAPIError: if the bucket does not answer.
  """
  found = {}
  for folder in {path.parent for path in paths}:
    bucket, prefix = files.bucket_and_prefix(folder)
    listing = files.client().list_blobs(bucket, prefix=prefix, delimiter='/', fields='items(name,size),nextPageToken')
    found |= {f'gs://{bucket}/{blob.name}': blob.size for blob in listing}
  missing = [path for path in paths if str(path) not in found]
  if missing:
    raise UsageError(f'{missing[0]} is not there')
  return [found[str(path)] for path in paths]


def stage(paths: list[epath.Path], folder: str) -> list[pathlib.Path]:
  """Copies gs:// files to a local folder, but for those that are there from an earlier start.

  Processes of one host take turns, and the later ones find the copies there.

  Args:
    paths: gs:// files.
    folder: local; a file's place in it is its bucket and name.

  Returns:
    The copies, in the order of `paths`.

  Raises:
    UsageError: if the disk is too small.
    google.api_core.exceptions.GoogleAPIError: if the bucket does not answer. What has been copied stays.
  """
  root = pathlib.Path(folder).expanduser().absolute()
  root.mkdir(parents=True, exist_ok=True)
  with (root / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    return _stage(paths, root)


def _stage(paths: list[epath.Path], root: pathlib.Path) -> list[pathlib.Path]:
  for partial in root.rglob('*.partial'):  # of a start that was stopped
    partial.unlink()
  copies = [root / str(path).removeprefix('gs://') for path in paths]
  todo = [
    (path, copy, size)
    for path, copy, size in zip(paths, copies, sizes(paths), strict=True)
    if not copy.exists() or copy.stat().st_size != size
  ]
  total, done, begun = sum(size for *_, size in todo), 0, time.monotonic()
  free = shutil.disk_usage(root).free
  if total > free:
    raise UsageError(f'data.stage={root}: {total / 1e9:.1f} GB are to be copied and {free / 1e9:.1f} GB are free')
  if todo:
    progress.say(f'copying {len(todo)} of {len(paths)} files to {root}: {total / 1e9:.2f} GB')

  def copy(path: epath.Path, to: pathlib.Path, size: int) -> int:
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f'{to.name}.partial')  # a copy has its name when it is whole
    bucket, _, name = str(path).removeprefix('gs://').partition('/')
    files.client().bucket(bucket).blob(name).download_to_filename(str(partial))
    partial.rename(to)
    return size

  pool, said = concurrent.futures.ThreadPoolExecutor(DOWNLOADS), begun
  try:
    for running in concurrent.futures.as_completed([pool.submit(copy, *one) for one in todo]):
      done += running.result()
      if time.monotonic() - said > progress.EVERY_LINE:
        said = time.monotonic()
        left = progress.span((said - begun) * (total - done) / done)
        progress.say(f'copied {done / 1e9:.2f} of {total / 1e9:.2f} GB, {left} left')
  finally:
    pool.shutdown(wait=False, cancel_futures=True)  # after an error the others need not be waited for
  return copies
