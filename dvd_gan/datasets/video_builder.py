"""What the TFDS builders of video files share: from sources to records, on this machine or on Apache Beam."""

import abc
import dataclasses
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from dvd_gan.datasets import decoding, ingest
from dvd_gan.errors import UsageError

SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.gif')


@dataclasses.dataclass(kw_only=True)
class VideoConfig(tfds.core.BuilderConfig):
  """How the clips are stored: pixels of the short side, frames a second, fewest frames, JPEG quality."""

  size: int = 64
  fps: float = 25.0
  min_frames: int = 25
  quality: int = 90


class Archive(NamedTuple):
  """A tar or zip file of clips, read as a stream; `clip` makes a Clip of a member's name."""

  path: str
  name: str  # for people: its path below the source
  clip: Callable[[str], ingest.Clip]
  size: int = 0  # bytes, for the progress


Source = ingest.Clip | Archive


class VideoBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A builder of video files. `decode_here` or `decode_on_beam` first, then `download_and_prepare`.

  Attributes:
    rejects: what could not be used, once prepared.
  """

  def __init__(self, *, source: str = '', **kwargs: Any):
    """`source`: the user's folder or archive; needed to prepare, not to read."""
    super().__init__(**kwargs)
    self.source = source
    self.rejects: list[ingest.Rejected] = []
    self._accepted: dict[str, list[ingest.Accepted]] = {}
    self._rejects_file: epath.Path | None = None

  @abc.abstractmethod
  def sources(self) -> dict[str, list[Source]]:
    """Everything under `source`, by split, in a fixed order.

    Raises:
      UsageError: if there is nothing.
    """

  def form(self, seconds: float) -> ingest.Form:
    """What a clip becomes, with the time limit of a file."""
    config = self.builder_config
    return ingest.Form(config.size, config.fps, config.min_frames, config.quality, seconds)

  def decode_here(self, cache: epath.Path, *, workers: int, seconds: float) -> None:
    """Decodes all sources into `cache`, as far as they are not there."""
    for split, sources in self.sources().items():
      accepted, rejected = ingest.fill(
        cache / split, _clips(sources), self.form(seconds), workers=workers, title=f'decoding {self.name} {split}'
      )
      self._accepted[split] = accepted
      self.rejects += rejected
    if not any(self._accepted.values()):
      first = self.rejects[0]
      raise UsageError(
        f'{self.source}: none of the {len(self.rejects)} videos can be used; {first.file}: {first.reason}'
      )

  def decode_on_beam(self, rejects: epath.Path, *, seconds: float) -> None:
    """Has the sources decoded by the Beam pipeline that writes the records; rejects go to files of this prefix."""
    self._rejects_file, self._seconds = rejects, seconds

  def _split_generators(self, dl_manager: Any):
    del dl_manager
    if self._rejects_file is not None:
      from dvd_gan.datasets import beam

      return {
        split: beam.decode(sources, self.form(self._seconds), f'{self._rejects_file}-{split}')
        for split, sources in self.sources().items()
      }
    return {split: self._generate_examples(clips) for split, clips in self._accepted.items() if clips}

  def _generate_examples(self, clips: list[ingest.Accepted]):
    for clip in clips:
      yield clip.key, {'video': clip.frames(), **clip.features}


def features(classes: Iterable[str], **more: Any) -> tfds.features.FeaturesDict:
  """Of a clip: `video`, a list of JPEGs, `label` (-1 for none), and more."""
  return tfds.features.FeaturesDict(
    {
      'video': tfds.features.Video((None, None, None, 3), encoding_format='jpeg'),
      'label': tfds.features.ClassLabel(names=list(classes)),
      **more,
    }
  )


def is_junk(parts: Iterable[str]) -> bool:
  """Whether a path is litter: ._* of macOS archives, .Trash and the like of file managers."""
  return any(part.startswith('.') for part in parts)


def walk(root: epath.Path) -> list[str]:
  """Paths below a folder, local or in a bucket, of its files without the litter; sorted."""
  walked = tf.io.gfile.walk(str(root))
  paths = [os.path.relpath(os.path.join(at, name), str(root)) for at, _, names in walked for name in names]
  return sorted(path for path in paths if not is_junk(path.split('/')))


def members(archive: Archive) -> Iterator[ingest.Clip]:
  """The clips of an archive, with their bytes; its damage is a rejected clip."""
  read = _zip_members if archive.path.endswith('.zip') else _tar_members
  count = 0
  try:
    for name, content, share in read(archive):
      parts = [part for part in name.split('/') if part != '.']
      if is_junk(parts) or not parts[-1].lower().endswith(SUFFIXES):
        continue
      count += 1
      clip = archive.clip('/'.join(parts))
      yield clip._replace(
        name=f'{archive.name}:{"/".join(parts)}',
        content=b'' if clip.reject else content,
        stamp=str(zlib.crc32(content)),
        share=share,
        reject=clip.reject or ('' if content else 'empty file'),
      )
  except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
    reason = f'the archive is damaged after {count} clips: {error or type(error).__name__}'
    yield ingest.Clip(f'archive {archive.name}', archive.name, share=1.0, reject=reason)


def _tar_members(archive: Archive) -> Iterator[tuple[str, bytes, float]]:
  with epath.Path(archive.path).open('rb') as file, tarfile.open(fileobj=file, mode='r|*') as tar:
    for member in tar:
      if member.isfile():
        content = tar.extractfile(member).read()
        if len(content) < member.size:
          raise EOFError(f'{member.name} is cut short')
        yield member.name, content, file.tell() / max(archive.size, 1)


def _zip_members(archive: Archive) -> Iterator[tuple[str, bytes, float]]:
  with epath.Path(archive.path).open('rb') as file, zipfile.ZipFile(file) as opened:
    names = sorted(info.filename for info in opened.infolist() if not info.is_dir())
    for i, name in enumerate(names):
      yield name, opened.read(name) if name.lower().endswith(SUFFIXES) else b'', (i + 1) / len(names)


def _clips(sources: list[Source]) -> Iterator[ingest.Clip]:
  """The clips of all sources, with what share of the work is done when each of them is."""
  for i, source in enumerate(sources):
    if isinstance(source, Archive):
      for clip in members(source):
        yield clip._replace(share=(i + clip.share) / len(sources))
    else:
      yield opened(source)._replace(share=(i + 1) / len(sources))


def opened(clip: ingest.Clip) -> ingest.Clip:
  """A clip of a local file, with its stamp; rejected where the file is not to be found."""
  if clip.reject or '://' in clip.path:  # asking a bucket about each of 500,000 files takes hours
    return clip
  try:
    stat = epath.Path(clip.path).stat()
  except OSError as error:
    return clip._replace(reject=f'cannot be read: {error.strerror or error}')
  return clip._replace(stamp=f'{stat.length}-{stat.mtime}', reject='' if stat.length else 'empty file')


def decoded(clip: ingest.Clip, form: ingest.Form) -> tuple[str, dict[str, Any]] | ingest.Rejected:
  """(key, example) of a clip, in this process, or why not."""
  try:
    if clip.reject:
      raise decoding.RejectedError(clip.reject)
    content = clip.content or (epath.Path(clip.path).read_bytes() if '://' in clip.path else clip.path)
    return clip.key, {'video': ingest.jpegs(content, form), **clip.features}
  except decoding.RejectedError as error:
    return ingest.Rejected(clip.key, clip.name, str(error))
  except OSError as error:
    return ingest.Rejected(clip.key, clip.name, f'cannot be read: {error}')
