"""TFDS builder of the embedded data set; the drawing is in shapes.py."""

import dataclasses

import tensorflow_datasets as tfds

from dvd_gan.datasets import jpeg, shapes

SEEDS = {'train': 0, 'validation': 1}


@dataclasses.dataclass(kw_only=True)
class MovingShapesConfig(tfds.core.BuilderConfig):
  """Size of the pictures in pixels, frames of a clip, clips in the training split, JPEG quality."""

  size: int = 64
  frames: int = 32
  clips: int = 6000
  quality: int = 95


class MovingShapes(tfds.core.GeneratorBasedBuilder):
  """Coloured shapes with one of five motions; 30 balanced classes; drawn, not downloaded."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.size
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'video': tfds.features.Video((None, size, size, 3), encoding_format='jpeg'),
          'label': tfds.features.ClassLabel(names=shapes.CLASSES),
        }
      )
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    clips = self.builder_config.clips
    return {
      'train': self._generate_examples('train', clips),
      'validation': self._generate_examples('validation', -(-clips // 10)),
    }

  def _generate_examples(self, split: str, clips: int):
    config = self.builder_config
    for i in range(clips):
      video, label = shapes.draw(SEEDS[split], i, frames=config.frames, size=config.size)
      yield i, {'video': jpeg.encode(video, config.quality), 'label': label}
