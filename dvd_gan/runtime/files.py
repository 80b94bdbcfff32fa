"""Files and folders, local or in a bucket, where epath alone is not enough."""

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
  """Whether a path is a URL, gs://bucket/file say."""
  return '://' in str(path)


def errors() -> tuple[type[Exception], ...]:
  """What a failing read or write raises: those of TensorFlow and of Google's client, which buckets give, are no OSErrors."""
  return (
    OSError,
    *_named('tensorflow', 'errors.OpError'),
    *_named('google.api_core.exceptions', 'GoogleAPIError'),
    *_named('google.auth.exceptions', 'GoogleAuthError'),
    *_named('google.cloud.storage.exceptions', 'DataCorruption', 'InvalidResponse'),
  )


def refused(error: Exception) -> bool:
  """Whether a bucket has said no: what is asked for is not there, or not for this account. Asking again will not help.

  401 is no refusal: a TPU VM whose metadata server does not answer for a moment has no token.
  """
  kinds = [
    *_named('tensorflow', *(f'errors.{name}Error' for name in ('NotFound', 'PermissionDenied', 'InvalidArgument')))
  ]
  kinds += _named('google.api_core.exceptions', 'NotFound', 'Forbidden', 'BadRequest')
  return isinstance(error, tuple(kinds)) and not re.search('response code 401', str(error))


def passing(error: Exception) -> bool:
  """Whether an error is a bucket's or a network's that may be gone when the program is started again.

  The libraries have retried by then: TensorFlow for 3 minutes, Google's client for 2, tensorstore for 15. The last of
  them, by which orbax reads and writes, says what went wrong only in the text of a ValueError.
  """
  if isinstance(error, ValueError) and not isinstance(error, errors()):
    words = 'ABORTED|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|code=.?401|retry attempts failed'
    return bool(re.search(words, str(error)))
  network = (ConnectionError, TimeoutError, *_named('requests.exceptions', 'RequestException'))
  local = isinstance(error, OSError) and not isinstance(error, network)
  return isinstance(error, errors()) and not local and not refused(error)


def first_line(error: Exception) -> str:
  """The first line of an error's message, else its name."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]


def failure(error: Exception, message: str) -> UsageError | RunError:
  """The error that ends the program with one line: a mistake of the user's, but where a launcher may try again."""
  return (RunError if passing(error) else UsageError)(
    f'{message}: {(str(error).strip() or type(error).__name__).splitlines()[0]}'
  )


def _named(module: str, *names: str) -> Iterator[type[Exception]]:
  """Exceptions of a module that is imported; another thread may be importing it."""
  for name in names:
    try:
      yield operator.attrgetter(name)(sys.modules[module])
    except (KeyError, AttributeError):
      return


def check_remote(path: str) -> None:
  """Raises UsageError for a gs:// path on a host without TensorFlow, which reads and writes it."""
  with contextlib.suppress(ValueError):  # where its import is barred
    if not is_remote(path) or importlib.util.find_spec('tensorflow'):
      return
  raise UsageError(f'{path}: gs:// paths need TensorFlow, which is not installed (pip install tensorflow-cpu)')


def size_and_time(path: object) -> tuple[int, float]:
  """Bytes of a file and when it was changed. (epath's own stat fails where the owner is not in the password file.)"""
  if is_remote(path):
    import tensorflow as tf

    stat = tf.io.gfile.stat(str(path))
    return stat.length, stat.mtime_nsec / 1e9
  stat = os.stat(path)
  return stat.st_size, stat.st_mtime


def write(path: epath.Path, content: bytes) -> None:
  """Writes a file whole or not at all, also where the process is killed; makes its folder."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.parent / f'{path.name}.{uuid.uuid4().hex[:8]}'
  partial.write_bytes(content)
  partial.replace(path)


@contextlib.contextmanager
def exclusive(lock: epath.Path, doing: str) -> Iterator[None]:
  """Holds a lock file, which is gone with the process however it ends; nothing is locked in a bucket.

  Args:
    lock: the file; its folder is made.
    doing: what for, 'preparing FOLDER' say.

  Raises:
    UsageError: if another process holds it.
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
      raise UsageError(f'another process is {doing}') from None
    except OSError:
      pass  # a file system without locks
    try:
      yield
    finally:
      lock.unlink(missing_ok=True)


def is_folder(path: epath.Path) -> bool:
  """Whether a folder is there. (epath says that it is not where the bucket does not answer.)

  Raises:
    google.api_core.exceptions.GoogleAPIError: if the bucket does not answer.
  """
  if not is_remote(path):
    return path.is_dir()
  bucket, prefix = bucket_and_prefix(path)
  return any(client().list_blobs(bucket, prefix=prefix, max_results=1, fields='items(name)'))


@functools.cache
def client() -> Any:
  """Google's client of buckets; without credentials, as public data sets need none, anonymous."""
  from google.auth import exceptions
  from google.cloud import storage

  try:
    return storage.Client()
  except (exceptions.DefaultCredentialsError, OSError):  # OSError: credentials without a project
    return storage.Client.create_anonymous_client()


def bucket_and_prefix(folder: object) -> tuple[str, str]:
  """Bucket of a gs:// folder, and what the names of its files begin with."""
  bucket, _, name = str(folder).removeprefix('gs://').rstrip('/').partition('/')
  return bucket, f'{name}/' if name else ''


def is_junk(path: str) -> bool:
  """Whether a relative path is litter: ._* of macOS archives, .Trash and the like of file managers."""
  return any(part.startswith('.') and part != '.' for part in path.split('/'))


def walk(root: epath.Path) -> list[str]:
  """Paths below a folder of its files without the litter, sorted; for people, `printable` makes them text.

  Links are followed. Each real file is listed once: where it lies, or under the first of the links to it; under a link
  also where it lies hidden, or has no suffix and the link has.
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
  """Adds the files of a folder, and of those in it that are not `seen`, by real path to `found`; returns the links."""
  links, folders = [], [root]
  while folders:
    folder = folders.pop()
    real = os.path.realpath(folder)
    if real in seen:
      continue
    seen.add(real)
    try:
      entries = list(os.scandir(folder))
    except OSError as error:  # lost+found, say
      print(f'{printable(folder)} is left out: {error.strerror}', file=sys.stderr)
      continue
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
