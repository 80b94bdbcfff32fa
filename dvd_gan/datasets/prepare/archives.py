"""Sources of clips: video files, and tar and zip archives, which are read member by member without extraction."""

import contextlib
import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from etils import epath

from dvd_gan.datasets.prepare import ingest
from dvd_gan.runtime import files

# Suffixes of video files. Other files are not tried, because FFmpeg also decodes text files as video.
SUFFIXES = (
  '.mp4', '.avi', '.mov', '.mkv', '.webm', '.gif', '.m4v', '.flv', '.mpg', '.mpeg', '.3gp', '.wmv', '.ts', '.mts', '.m2ts',
  '.ogv', '.webp', '.apng', '.vob', '.asf', '.f4v', '.3g2', '.qt', '.mxf', '.dv', '.divx', '.xvid', '.m1v', '.m2v', '.mpe',
  '.mpv', '.m2t', '.mod', '.tod', '.rm', '.rmvb', '.nut', '.y4m', '.ivf', '.h264', '.264', '.hevc', '.h265', '.265', '.obu',
)  # fmt: skip
TARS = ('.tar', '.tar.gz', '.tgz')


class Archive(NamedTuple):
  """A tar or zip file of clips; `clip` maps a member's path to its Clip, or to None if it belongs to another split."""

  path: str
  name: str  # for messages: its path below the source
  clip: Callable[[str], ingest.Clip | None]


Source = ingest.Clip | Archive


class Damage(Exception):
  """The archive is truncated, or other data follow it."""


def clips_of(source: Source) -> Iterator[ingest.Clip]:
  """Yields the clip of a file, with its stamp, or the clips of an archive, with their bytes."""
  if isinstance(source, Archive):
    yield from members(source)
  elif source.reject:
    yield source
  elif files.is_remote(source.path):  # asking for the size of each of 500,000 files takes hours
    yield source._replace(stamp=source.path)
  else:
    try:
      length, changed = files.size_and_time(source.path)
      yield source._replace(stamp=f'{length}-{changed}', reject='' if length else 'empty file')
    except OSError as error:
      yield source._replace(reject=f'cannot be read: {error.strerror or error}')


def members(archive: Archive) -> Iterator[ingest.Clip]:
  """Yields the clips of an archive, with their bytes. Damage to the archive is reported as a rejected clip."""
  read = _zip_members if archive.path.lower().endswith('.zip') else _tar_members
  count = 0
  try:
    for name, content, share, fault in read(archive.path):
      name = files.printable(name.removeprefix('./'))
      if files.is_junk(name) or not name.lower().endswith(SUFFIXES):
        continue
      count += 1
      clip = archive.clip(name)
      if clip is None:
        continue
      reject = clip.reject or fault or ('' if content else 'empty file')
      yield clip._replace(
        name=f'{archive.name}:{name}',
        content=b'' if reject else content,
        stamp=str(zlib.crc32(content)),
        share=share,
        reject=reject,
      )
  except Exception as error:  # no damage to an archive may end a run that takes days
    reason = f'the archive is damaged after {count} clips: {error or type(error).__name__}'
    yield ingest.Clip(f'archive {archive.name}', archive.name, share=1.0, reject=reason)


def _tar_members(path: str) -> Iterator[tuple[str, bytes, float, str]]:
  """Yields (name, content, share of the file read, fault). Raises Damage if the archive does not end in zeros."""
  size = files.size_and_time(path)[0]
  with epath.Path(path).open('rb') as file:
    packed = file.read(2) == b'\x1f\x8b'
    file.seek(0)
    stream: Any = gzip.GzipFile(fileobj=file) if packed else file
    # Not tarfile's stream mode, which takes any unreadable header for the end of the archive.
    with tarfile.open(fileobj=stream, mode='r:') as tar:
      while (member := tar.next()) is not None:
        tar.members = []  # otherwise this list grows with every member
        if member.isfile():
          content = tar.extractfile(member).read()
          if len(content) < member.size:
            raise Damage(f'{member.name} is cut short')
          yield member.name, content, file.tell() / max(size, 1), ''
      stream.seek(tar.offset)
      rest = 0
      while chunk := stream.read(1 << 20):
        if chunk.strip(b'\0'):
          raise Damage('what follows is no tar')
        rest += len(chunk)
      if rest < tarfile.BLOCKSIZE:
        raise Damage('its end is missing')


def _zip_members(path: str) -> Iterator[tuple[str, bytes, float, str]]:
  with epath.Path(path).open('rb') as file, zipfile.ZipFile(file) as opened:
    names = sorted(info.filename for info in opened.infolist() if not info.is_dir())
    for i, name in enumerate(names):
      content, fault = b'', ''
      if name.lower().endswith(SUFFIXES):
        try:
          content = opened.read(name)
        except Exception as error:
          fault = f'cannot be unpacked: {error}'
      yield name, content, (i + 1) / len(names), fault


def zip_names(path: epath.Path) -> list[str]:
  """Names of the members of a zip file; [] if it cannot be read."""
  with contextlib.suppress(zipfile.BadZipFile, *files.errors()):
    with path.open('rb') as file, zipfile.ZipFile(file) as opened:
      return opened.namelist()
  return []


def zip_text(path: epath.Path, name: str) -> str:
  """Content of a text file in a zip file."""
  with path.open('rb') as file, zipfile.ZipFile(file) as opened:
    return opened.read(name).decode('utf-8-sig')
