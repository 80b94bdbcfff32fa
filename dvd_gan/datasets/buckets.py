"""Record files in a bucket: byte-range reads, file sizes, copies on the local disk."""

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

DOWNLOADS = 8  # files copied at once
TIMEOUT = 300  # seconds for a read, retries included; a half-open connection may never answer


@functools.cache
def _bucket(name: str) -> Any:
  import tensorstore

  # 32 attempts, tensorstore's default, take a quarter of an hour.
  context = tensorstore.Context({'gcs_request_retries': {'max_retries': 8}})
  return tensorstore.KvStore.open({'driver': 'gcs', 'bucket': name}, context=context).result()


def read(path: epath.Path, offset: int, length: int) -> bytes:
  """`length` bytes of a gs:// file from `offset` on, in one request.

  TensorFlow's reads fetch a block of a megabyte or more, ten times what a window of frames needs.

  Raises:
    OSError: if the file is missing or too short; ConnectionError or TimeoutError if the bucket does not answer.
  """
  bucket, name = files.bucket_and_name(path)
  try:
    found = _bucket(bucket).read(name, byte_range=slice(offset, offset + length)).result(timeout=TIMEOUT)
  except ValueError as error:  # tensorstore reports read errors of every kind as ValueError
    raise (ConnectionError if files.passing(error) else OSError)(f'{path}: {error}') from None
  if found.state != 'value':
    raise FileNotFoundError(f'{path} does not exist')
  return found.value


def folders(folder: epath.Path) -> list[str]:
  """Names of the subfolders of a gs:// folder.

  Raises:
    google.api_core.exceptions.GoogleAPIError: if the bucket does not answer.
  """
  bucket, prefix = files.bucket_and_prefix(folder)
  listing = files.client().list_blobs(bucket, prefix=prefix, delimiter='/', fields='prefixes,nextPageToken')
  for _ in listing:
    continue  # `prefixes` is complete once all pages have been read
  return sorted(name.removeprefix(prefix).rstrip('/') for name in listing.prefixes)


def sizes(paths: list[epath.Path]) -> list[int]:
  """Sizes in bytes of gs:// files. Lists their folders, because one request per file takes minutes for thousands.

  Raises:
    UsageError: if a file is missing.
    google.api_core.exceptions.GoogleAPIError: if the bucket does not answer.
  """
  found = {}
  for folder in {path.parent for path in paths}:
    bucket, prefix = files.bucket_and_prefix(folder)
    listing = files.client().list_blobs(bucket, prefix=prefix, delimiter='/', fields='items(name,size),nextPageToken')
    found |= {f'gs://{bucket}/{blob.name}': blob.size for blob in listing}
  missing = [path for path in paths if str(path) not in found]
  if missing:
    raise UsageError(f'{missing[0]} does not exist: correct data.dir, or prepare the data set again')
  return [found[str(path)] for path in paths]


def stage(paths: list[epath.Path], folder: str) -> list[pathlib.Path]:
  """Copies gs:// files to a local folder; copies of the same size from an earlier run are kept.

  Processes on one host take turns, so that later ones find the copies.

  Args:
    paths: gs:// files.
    folder: local folder; a file is copied to FOLDER/BUCKET/NAME.

  Returns:
    The copies, in the order of `paths`.

  Raises:
    UsageError: if the disk is too small.
    google.api_core.exceptions.GoogleAPIError: if the bucket does not answer. Finished copies are kept.
  """
  root = pathlib.Path(folder).expanduser().absolute()
  root.mkdir(parents=True, exist_ok=True)
  with (root / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    return _stage(paths, root)


def _stage(paths: list[epath.Path], root: pathlib.Path) -> list[pathlib.Path]:
  copies = [root / str(path).removeprefix('gs://') for path in paths]
  for path in copies:
    path.with_name(f'{path.name}.partial').unlink(missing_ok=True)  # left by an interrupted run
  todo = [
    (path, copy, size)
    for path, copy, size in zip(paths, copies, sizes(paths), strict=True)
    if not copy.exists() or copy.stat().st_size != size
  ]
  total, done, begun = sum(size for *_, size in todo), 0, time.monotonic()
  free = shutil.disk_usage(root).free
  if total > free:
    space = f'{total / 1e9:.1f} GB are to be copied, but only {free / 1e9:.1f} GB are free'
    raise UsageError(f'data.stage={root}: {space}; choose a larger disk, or leave data.stage empty')
  if todo:
    progress.say(f'copying {len(todo)} of {len(paths)} files to {root}: {total / 1e9:.2f} GB')

  def copy(path: epath.Path, to: pathlib.Path, size: int) -> int:
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f'{to.name}.partial')  # renamed when the copy is complete
    bucket, name = files.bucket_and_name(path)
    files.client().bucket(bucket).blob(name).download_to_filename(str(partial))
    partial.rename(to)
    return size

  pool, said = concurrent.futures.ThreadPoolExecutor(DOWNLOADS), begun
  try:
    for running in concurrent.futures.as_completed([pool.submit(copy, *one) for one in todo]):
      done += running.result()
      if time.monotonic() - said > progress.EVERY_LINE:
        said = time.monotonic()
        left = progress.span((said - begun) * (total - done) / max(done, 1))
        progress.say(f'copied {done / 1e9:.2f} of {total / 1e9:.2f} GB, {left} left')
  finally:
    pool.shutdown(wait=False, cancel_futures=True)  # after an error, do not wait for other downloads
  return copies
