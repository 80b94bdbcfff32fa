"""Operations on files and folders, local or in a bucket, that epath does not provide."""

import contextlib
import functools
import importlib.util
import operator
import os
import re
import sys
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from dvd_gan.runtime.errors import RunError, UsageError


def is_remote(path: object) -> bool:
  """Whether a path is a URL, such as gs://bucket/file."""
  return '://' in str(path)


def errors() -> tuple[type[Exception], ...]:
  """Exceptions of a failed read or write. For buckets, TensorFlow and Google's client raise types of their own."""
  return (
    OSError,
    *_named('tensorflow', 'errors.OpError'),
    *_named('google.api_core.exceptions', 'GoogleAPIError'),
    *_named('google.auth.exceptions', 'GoogleAuthError'),
    *_named('google.cloud.storage.exceptions', 'DataCorruption', 'InvalidResponse'),
  )


def refused(error: Exception) -> bool:
  """Whether a bucket has rejected a request permanently (not found, forbidden, invalid), so that a retry cannot help.

  401 is not permanent: a TPU VM has no token while its metadata server does not answer.
  """
  kinds = [
    *_named('tensorflow', *(f'errors.{name}Error' for name in ('NotFound', 'PermissionDenied', 'InvalidArgument')))
  ]
  kinds += _named('google.api_core.exceptions', 'NotFound', 'Forbidden', 'BadRequest')
  return isinstance(error, tuple(kinds)) and not re.search('response code 401', str(error))


def passing(error: Exception) -> bool:
  """Whether an error is a transient one of a bucket or a network, so that a restart of the program may help.

  The libraries have already retried: TensorFlow for 3 minutes, Google's client for 2, tensorstore for 15. Tensorstore,
  which orbax uses, gives the cause only in the text of a ValueError.
  """
  if isinstance(error, ValueError) and not isinstance(error, errors()):
    words = 'ABORTED|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|code=.?401|retry attempts failed'
    return bool(re.search(words, str(error)))
  network = (ConnectionError, TimeoutError, *_named('requests.exceptions', 'RequestException'))
  local = isinstance(error, OSError) and not isinstance(error, network)
  return isinstance(error, errors()) and not local and not refused(error)


def first_line(error: Exception) -> str:
  """The first line of an error's message, or the name of its type if the message is empty."""
  line = (str(error).strip() or type(error).__name__).splitlines()[0]
  return line.partition(' [tensorstore_spec')[0]  # tensorstore appends its whole configuration


def failure(error: Exception, message: str) -> UsageError | RunError:
  """The error to raise after a failed access: RunError if a restart may help (`passing`), else UsageError."""
  return (RunError if passing(error) else UsageError)(f'{message}: {first_line(error)}')


def _named(module: str, *names: str) -> Iterator[type[Exception]]:
  """Exception types of a module if it is imported; another thread may still be importing it."""
  for name in names:
    try:
      yield operator.attrgetter(name)(sys.modules[module])
    except (KeyError, AttributeError):
      return


def check_remote(path: str) -> None:
  """Raises UsageError for a gs:// path if TensorFlow, which reads and writes it, is not installed."""
  with contextlib.suppress(ValueError):  # raised by find_spec if the import is blocked
    if not is_remote(path) or importlib.util.find_spec('tensorflow'):
      return
  raise UsageError(f'{path}: gs:// paths need TensorFlow, which is not installed (pip install tensorflow-cpu)')


def size_and_time(path: object) -> tuple[int, float]:
  """Size of a file in bytes and its modification time. epath's own stat fails if the owner has no passwd entry."""
  if is_remote(path):
    import tensorflow as tf

    stat = tf.io.gfile.stat(str(path))
    return stat.length, stat.mtime_nsec / 1e9
  stat = os.stat(path)
  return stat.st_size, stat.st_mtime


def write(path: epath.Path, content: bytes) -> None:
  """Writes a file atomically, even if the process is killed; creates its folder."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.parent / f'{path.name}.{uuid.uuid4().hex[:8]}'
  try:
    partial.write_bytes(content)
    partial.replace(path)
  except BaseException:
    with contextlib.suppress(*errors()):
      partial.unlink(missing_ok=True)  # it takes space on a disk that may be full
    raise


@contextlib.contextmanager
def exclusive(lock: epath.Path, doing: str, *, wait: bool = False) -> Iterator[None]:
  """Holds an exclusive lock on a file. The lock ends with the process, even if it is killed. Buckets are not locked.

  Args:
    lock: the file; its folder is created.
    doing: the activity, for the message, such as 'preparing FOLDER'.
    wait: wait while another process holds it.

  Raises:
    UsageError: if another process holds it, unless `wait`.
  """
  if is_remote(lock):
    yield
    return
  import fcntl

  lock.parent.mkdir(parents=True, exist_ok=True)
  with open(lock, 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if not wait:
        raise UsageError(f'another process is {doing}: stop it or wait until it ends') from None
      print(f'waiting for another process, which is {doing}', file=sys.stderr, flush=True)
      fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
      pass  # a file system without locks
    try:
      yield
    finally:
      lock.unlink(missing_ok=True)


def is_folder(path: epath.Path) -> bool:
  """Whether a folder exists. epath's own check returns False if the bucket does not answer.

  Raises:
    google.api_core.exceptions.GoogleAPIError: if the bucket does not answer.
  """
  if not is_remote(path):
    return path.is_dir()
  bucket, prefix = bucket_and_prefix(path)
  return any(client().list_blobs(bucket, prefix=prefix, max_results=1, fields='items(name)'))


@functools.cache
def client() -> Any:
  """Google's storage client; anonymous without credentials, which is enough for public data sets."""
  from google.auth import exceptions
  from google.cloud import storage

  try:
    return storage.Client()
  except (exceptions.DefaultCredentialsError, OSError):  # OSError: credentials without a project
    return storage.Client.create_anonymous_client()


def bucket_and_prefix(folder: object) -> tuple[str, str]:
  """Bucket of a gs:// folder, and the prefix of its object names."""
  bucket, name = bucket_and_name(str(folder).rstrip('/'))
  return bucket, f'{name}/' if name else ''


def bucket_and_name(path: object) -> tuple[str, str]:
  """Bucket and object name of a gs:// file."""
  bucket, _, name = str(path).removeprefix('gs://').partition('/')
  return bucket, name


def is_junk(path: str) -> bool:
  """Whether part of a relative path is hidden: ._* of macOS archives, .Trash of file managers and the like."""
  return any(part.startswith('.') and part != '.' for part in path.split('/'))


def walk(root: epath.Path) -> list[str]:
  """Relative paths of the files below a folder, sorted, without hidden ones (`is_junk`). For messages use `printable`.

  Symbolic links are followed. Each file is listed once: by its own path, or by that of a link to it if the file is
  hidden, lies elsewhere or has no suffix.

  Raises:
    UsageError: if a local folder cannot be read.
  """
  if is_remote(root):
    bucket, prefix = bucket_and_prefix(root)
    listing = client().list_blobs(bucket, prefix=prefix, fields='items(name),nextPageToken')
    names = (blob.name.removeprefix(prefix) for blob in listing)
    return sorted(name for name in names if name and not name.endswith('/') and not is_junk(name))
  found, links, seen = {}, [str(root)], set()
  while links:
    link = links.pop(0)
    if os.path.isdir(link):
      links += _tree(link, found, seen)
    else:  # a file, or a broken link
      before = found.setdefault(os.path.realpath(link), link)
      if not os.path.splitext(before)[1]:
        found[os.path.realpath(link)] = link
  return sorted(os.path.relpath(path, root) for path in found.values())


def _tree(root: str, found: dict[str, str], seen: set[str]) -> list[str]:
  """Adds the files below a folder to `found` by real path, except folders in `seen`; returns symbolic links."""
  links, folders = [], [root]
  while folders:
    folder = folders.pop()
    real = os.path.realpath(folder)
    if real in seen:
      continue
    seen.add(real)
    try:
      entries = list(os.scandir(folder))
    except OSError as error:
      if os.path.basename(folder) == 'lost+found':  # of the file system; nobody's videos
        continue
      raise UsageError(
        f'{printable(folder)} cannot be read: {error.strerror}; allow it, or move the folder away'
      ) from None
    for entry in entries:
      if is_junk(entry.name):
        continue
      if entry.is_symlink():
        links.append(entry.path)
      elif entry.is_dir():
        folders.append(entry.path)
      elif entry.is_file():  # no pipe or socket
        found[os.path.join(real, entry.name)] = entry.path
  return sorted(links)


def printable(path: object) -> str:
  """A path as text: bytes of its name that are not UTF-8 become \\xNN."""
  return str(path).encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
