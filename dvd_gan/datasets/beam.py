"""Ingest on Apache Beam, for sets that one machine would take days for. An optional dependency: `pip install .[beam]`."""

import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from dvd_gan.datasets import ingest, video_builder


def decode(sources: list[video_builder.Source], form: ingest.Form, rejects: str) -> beam.PTransform:
  """A transform from nothing to (key, example); what is rejected goes to JSON lines in files that begin so."""
  return _Decode(sources, form, rejects)


class _Decode(beam.PTransform):
  def __init__(self, sources: list[video_builder.Source], form: ingest.Form, rejects: str):
    super().__init__()
    self._sources, self._form, self._rejects = sources, form, rejects

  def expand(self, pipeline: Any) -> Any:
    clips = (
      pipeline
      | 'Sources' >> beam.Create(list(enumerate(self._sources)))
      | 'Spread' >> beam.Reshuffle()
      | 'Clips' >> beam.FlatMap(_clips)
    )
    # As in the local build, of two clips with one key the first counts.
    outcomes = (
      clips
      | 'Gather' >> beam.GroupByKey()
      | 'First' >> beam.FlatMap(_first)
      | 'Balance' >> beam.Reshuffle()
      | 'Decode' >> beam.ParDo(_DecodeClip(self._form)).with_outputs('rejected', main='examples')
    )
    _ = (
      outcomes.rejected
      | 'Lines' >> beam.Map(lambda rejected: json.dumps(rejected._asdict()))
      | 'Write' >> beam.io.WriteToText(self._rejects, file_name_suffix='.jsonl')
    )
    return outcomes.examples


def _clips(numbered: tuple[int, video_builder.Source]) -> Iterator[tuple[str, tuple[tuple[int, int], ingest.Clip]]]:
  """(key, (place in the order of the sources, clip)) of each clip of a source."""
  number, source = numbered
  if isinstance(source, video_builder.Archive):
    for i, clip in enumerate(video_builder.members(source)):
      yield clip.key, ((number, i), clip)
  else:
    yield source.key, ((number, 0), video_builder.opened(source))


def _first(group: tuple[str, Any]) -> Iterator[ingest.Clip]:
  """The first clip of a key that may be used; the others, rejected."""
  _, found = group
  taken = False
  for _, clip in sorted(found, key=lambda item: item[0]):
    yield clip._replace(reject=ingest.DUPLICATE, content=b'') if taken else clip
    taken = taken or not clip.reject


class _DecodeClip(beam.DoFn):
  def __init__(self, form: ingest.Form):
    self._form = form

  def process(self, clip: ingest.Clip):
    outcome = video_builder.decoded(clip, self._form)
    if isinstance(outcome, ingest.Rejected):
      beam.metrics.Metrics.counter('ingest', 'rejected').inc()
      yield beam.pvalue.TaggedOutput('rejected', outcome)
    else:
      beam.metrics.Metrics.counter('ingest', 'accepted').inc()
      yield outcome
