"""Decodes clips on Apache Beam, for sets that take days on one machine. Optional dependency: `pip install .[beam]`."""

import functools
import json
import pickle
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from etils import epath

from dvd_gan.datasets.prepare import archives, ingest
from dvd_gan.runtime import files

CHUNK = 1000  # sources per list file; files keep the sources out of the job, which must stay small


def decode(sources: list[archives.Source], form: ingest.Form, work: epath.Path, split: str) -> beam.PTransform:
  """A root transform that yields (key, example).

  Args:
    sources: sources of the clips, in a fixed order.
    form: format of the decoded clips.
    work: a folder that all workers can access, for the lists of sources and for the rejects, as JSON lines in files
      rejects-SPLIT*.jsonl.
    split: name of the split.
  """
  chunks = []
  for i in range(0, len(sources), CHUNK):
    path = work / f'sources-{split}-{i:08d}.pickle'
    files.write(path, pickle.dumps(list(enumerate(sources[i : i + CHUNK], i))))
    chunks.append(str(path))
  return _Decode(chunks, form, str(work / f'rejects-{split}'))


class _Decode(beam.PTransform):
  def __init__(self, chunks: list[str], form: ingest.Form, rejects: str):
    super().__init__()
    self._chunks, self._form, self._rejects = chunks, form, rejects

  def expand(self, pipeline: Any) -> Any:
    outcomes = (
      pipeline
      | 'Chunks' >> beam.Create(self._chunks)
      | 'Sources' >> beam.FlatMap(lambda path: [(path, i) for i in range(len(_sources(path)))])
      | 'Spread' >> beam.Reshuffle()
      | 'Clips' >> beam.FlatMap(_clips)
      | 'Gather' >> beam.GroupByKey()  # also distributes the clips of one archive
      | 'Decode' >> beam.ParDo(_DecodeClips(self._form)).with_outputs('rejected', main='examples')
    )
    _ = (
      outcomes.rejected
      | 'Lines' >> beam.Map(lambda rejected: json.dumps(rejected._asdict()))
      | 'Write' >> beam.io.WriteToText(self._rejects, file_name_suffix='.jsonl')
    )
    return outcomes.examples


@functools.cache
def _sources(path: str) -> list[tuple[int, archives.Source]]:
  """The numbered sources of a list file. Each of its archives has all annotations, so sources stay out of shuffles."""
  return pickle.loads(epath.Path(path).read_bytes())


def _clips(place: tuple[str, int]) -> Iterator[tuple[str, tuple[tuple[int, int], ingest.Clip]]]:
  """Yields (key, (position in the order of the sources, clip)) for each clip of the source at (list file, position)."""
  path, position = place
  number, source = _sources(path)[position]
  for i, clip in enumerate(archives.clips_of(source)):
    yield clip.key, ((number, i), clip)


class _DecodeClips(beam.DoFn):
  """Decodes the clips of one key. As on one machine, the first usable clip is taken.

  Decoding runs in a subprocess, because a file that crashes or hangs the decoder must not end the job.
  """

  def __init__(self, form: ingest.Form):
    self._form = form

  def setup(self) -> None:
    self._pool = ingest.make_pool(1)

  def teardown(self) -> None:
    self._pool.stop()
    self._pool.join()

  def process(self, group: tuple[str, Any]):
    _, found = group
    taken = False
    for _, clip in sorted(found, key=lambda item: item[0]):
      reason = clip.reject or (ingest.DUPLICATE if taken else '')
      if not reason:
        limit = self._form.seconds + ingest.GRACE
        frames = ingest.verdict(
          self._pool.schedule(ingest.jpegs, args=(clip.content or clip.path, self._form, clip.name), timeout=limit)
        )
        if isinstance(frames, ingest.Outcome):
          reason = frames.reason
        else:
          taken = True
          yield clip.key, {'video': frames, **clip.features}
      if reason:
        yield beam.pvalue.TaggedOutput('rejected', ingest.Rejected(clip.key, clip.name, reason))
      beam.metrics.Metrics.counter('ingest', 'rejected' if reason else 'accepted').inc()
