"""Reads parts of files in a bucket: the bytes that are asked for and no more. The only file that imports tensorstore."""

import functools
from typing import Any

from etils import epath


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
