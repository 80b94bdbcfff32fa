"""Base class of the TFDS builders of video files: from sources to records, on this machine or on Apache Beam."""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from dvd_gan.datasets.prepare import archives, decoding, ingest
from dvd_gan.runtime.errors import UsageError

# Folder name -> split.
SPLITS = {
  **dict.fromkeys(('train', 'training'), 'train'),
  **dict.fromkeys(('val', 'valid', 'validate', 'validation'), 'validation'),
  **dict.fromkeys(('test', 'testing'), 'test'),
}
UNLABELLED = -1


@dataclasses.dataclass(kw_only=True)
class VideoConfig(tfds.core.BuilderConfig):
  """Format of the stored clips: short side in pixels, frames per second, minimum number of frames, JPEG quality."""

  size: int = 64
  fps: float = 25.0
  min_frames: int = 25
  quality: int = 90


class VideoBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A builder of video files. Call `decode_here` or `decode_on_beam` before `download_and_prepare`.

  Attributes:
    rejects: clips that could not be used, set by `decode_here`.
  """

  def __init__(self, *, source: str = '', **kwargs: Any):
    """`source`: the user's folder or archive; needed to prepare, not to read."""
    super().__init__(**kwargs)
    self.source = source
    self.rejects: list[ingest.Rejected] = []
    self._accepted: dict[str, list[ingest.Accepted]] = {}
    self._work: epath.Path | None = None  # folder of a Beam build

  @abc.abstractmethod
  def sources(self) -> dict[str, list[archives.Source]]:
    """All clips and archives under `source`, by split, in a fixed order.

    Raises:
      UsageError: if there are none.
    """

  def cache_name(self) -> str:
    """Name of the folder for decoded clips; it differs between forms and between decoder versions."""
    form = json.dumps([self.form(0.0), decoding.VERSION])
    return (
      f'{self.name}-{self.builder_config.name}-{self.version}-{hashlib.sha256(form.encode()).hexdigest()[:8]}.cache'
    )

  def form(self, seconds: float) -> ingest.Form:
    """Format of the decoded clips, with the time limit per file."""
    config = self.builder_config
    return ingest.Form(config.size, config.fps, config.min_frames, config.quality, seconds)

  def decode_here(self, cache: epath.Path, *, workers: int, seconds: float) -> None:
    """Decodes all sources into `cache`, except clips that it already holds."""
    for split, sources in self.sources().items():
      accepted, rejected = ingest.fill(
        cache / split, _clips(sources), self.form(seconds), workers=workers, title=f'decoding {self.name} {split}'
      )
      self._accepted[split] = accepted
      self.rejects += rejected
    if not any(self._accepted.values()):
      if not self.rejects:
        raise UsageError(f'{self.source}: its archives hold no videos')
      first = self.rejects[0]
      raise UsageError(
        f'{self.source}: none of the {len(self.rejects)} videos can be used; {first.file}: {first.reason}'
      )

  def decode_on_beam(self, work: epath.Path, *, seconds: float) -> None:
    """Lets the Beam pipeline that writes the records decode the sources; rejects go to files in `work`."""
    self._work, self._seconds = work, seconds

  def _split_generators(self, dl_manager: Any):
    del dl_manager
    if self._work is not None:
      from dvd_gan.datasets.prepare import beam

      return {
        split: beam.decode(sources, self.form(self._seconds), self._work, split)
        for split, sources in self.sources().items()
      }
    return {split: self._generate_examples(clips) for split, clips in self._accepted.items() if clips}

  def _generate_examples(self, clips: list[ingest.Accepted]):
    for clip in clips:
      yield clip.key, {'video': clip.frames(), **clip.features}


def features(classes: Iterable[str], **more: Any) -> tfds.features.FeaturesDict:
  """Features of a clip: `video`, a list of JPEGs, `label` (-1 for none), and `more`."""
  return tfds.features.FeaturesDict(
    {
      'video': tfds.features.Video((None, None, None, 3), encoding_format='jpeg'),
      'label': tfds.features.ClassLabel(names=list(classes)),
      **more,
    }
  )


def _clips(sources: list[archives.Source]) -> Iterator[ingest.Clip]:
  """Yields the clips of all sources, each with the share of the work that is done after it."""
  for i, source in enumerate(sources):
    whole = not isinstance(source, archives.Archive)
    for clip in archives.clips_of(source):
      yield clip._replace(share=(i + (1.0 if whole else clip.share)) / len(sources))
