"""Protocols of published numbers, by name: everything that two numbers must share to be compared."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """How a number is made.

  Attributes:
    source: where the protocol is from.
    number: 'frechet', 'inception_score', or 'toy' (both, and accuracies by class).
    network: 'i3d_400', 'i3d_600', 'c3d_101', 'c3d_101_255' or 'shapes' (networks/__init__.py).
    feature: which of its outputs.
    resize: (size, method) one after another before the network (networks/resize.py); the network's own resizing is not here.
    frames: of a video; 0 for as many as the model's.
    samples: N.
    real: clips of the real side; 0 for N, -1 for every clip once.
    split: of the real clips; empty for the config's `data.split`.
    windows: of the real clips: 'once', one of each clip, in random order, until there are none left; 'again', then others
      of the same clips, epoch after epoch; 'any', as 'again', but the floor may compare windows of one clip;
      'replacement', of clips drawn with replacement. Each begins at a random frame.
    crop: of each window, its square: 'random' or 'centre'.
    classes: of the samples: 'uniform' over all classes; 'data', those of clips drawn with replacement; 'windows', those
      of the real side's windows in turn.
    ddof: of covariances: 1 sample, 0 population.
    splits: parts of the samples, for the Inception Score.
    loops: repetitions with fresh samples, and real windows: the result is the mean, with the deviation over them.
    futures: of each context clip, in prediction.
    lengths: the least and the most frames that it is for, where `frames` is 0; empty for all.
    twice_below: a video of fewer frames is shown to the network with each frame twice.
    remark: what must stand beside each of its numbers.
    version: counts the times that this definition was mended; numbers of two versions are not compared.
  """

  source: str
  number: str = 'frechet'
  network: str = 'i3d_400'
  feature: str = 'logits'
  resize: tuple[tuple[int, str], ...] = ((224, 'tf1'),)
  frames: int = 16
  samples: int = 2048
  real: int = 0
  split: str = ''
  windows: str = 'once'
  crop: str = 'random'
  classes: str = 'uniform'
  ddof: int = 1
  splits: int = 1
  loops: int = 1
  futures: int = 1
  lengths: tuple[int, ...] = ()
  twice_below: int = 0
  remark: str = ''
  version: int = 1

  @property
  def compares(self) -> bool:
    """Whether the number is of two sets, the second of real clips; an Inception Score is of one."""
    return self.number != 'inception_score'


_C3D = {'number': 'inception_score', 'network': 'c3d_101', 'feature': 'probabilities', 'resize': ()}
_MAGVIT = {'classes': 'windows', 'loops': 4, 'version': 2}
_K600 = {'network': 'i3d_600', 'frames': 0, 'samples': 50_000}

PROTOCOLS = {
  'fvd_google': Protocol(source='Unterthiner et al. 2018, google-research/frechet_video_distance'),
  'fvd_stylegan_v': Protocol(
    source='Skorokhodov et al. 2022, universome/stylegan-v: population covariance in float64',
    resize=((224, 'half_pixel'),),
    crop='centre',
    classes='data',
    ddof=0,
    version=2,
  ),
  'fvd_magvit': Protocol(
    source='Yu et al. 2023, google-research/magvit: through 64x64, not rounded there',
    resize=((64, 'tf1'), (224, 'tf1')),
    samples=10_000,
    windows='again',
    **_MAGVIT,
  ),
  'fvd_magvit_ucf101': Protocol(
    source='Yu et al. 2023 on UCF-101: as many as its training clips',
    resize=((64, 'tf1'), (224, 'tf1')),
    samples=9_537,
    split='train_1',
    windows='again',
    **_MAGVIT,
  ),
  'fvd_bair_256x100': Protocol(
    source='Clark et al. 2019 and its successors: 256 test clips, 100 futures of each',
    samples=25_600,
    real=256,
    split='test',
    futures=100,
  ),
  'fvd_k600_16f': Protocol(
    source='Clark et al. 2019 on the test set, context frames included; samples and clips without replacement',
    samples=50_000,
    split='test',
  ),
  'fvd_k600_16f_train': Protocol(
    source='Clark et al. 2019 on the training set, context frames included; without replacement',
    samples=50_000,
    split='train',
  ),
  'fvd_k600_16f_replacement': Protocol(
    source='as fvd_k600_16f, clips drawn with replacement', samples=50_000, split='test', windows='replacement'
  ),
  'fid_k600': Protocol(
    source='Clark et al. 2019: average-pool features, all of the training set',
    feature='average_pool',
    real=-1,
    split='train',
    **_K600,
  ),
  'is_k600': Protocol(
    source='Clark et al. 2019; 10 splits as Salimans et al. 2016',
    number='inception_score',
    feature='probabilities',
    splits=10,
    **_K600,
  ),
  'is_ucf101_tgan2': Protocol(source='Saito et al. 2020, pfnet-research/tgan2: 10 loops of 2,048', loops=10, **_C3D),
  'is_ucf101_magvit': Protocol(
    source='Yu et al. 2023: 4 loops of 10,000; the network sees 255 x', samples=10_000, **_C3D | _MAGVIT | {'network': 'c3d_101_255'}
  ),
  'fvd_short': Protocol(
    source='ours, for videos too short for FVD; 8 frames or fewer are shown with each frame twice',
    frames=0,
    samples=512,
    windows='any',
    classes='windows',
    lengths=(5, 15),
    twice_below=9,
    remark='no standard FVD, which takes 16 frames: compare it only with fvd_short of as many frames',
  ),
  'toy': Protocol(
    source='ours, for moving_shapes',
    number='toy',
    network='shapes',
    feature='features',
    resize=((32, 'half_pixel'),),
    frames=0,
    samples=600,
    split='train',  # which the classifier has not seen, and which has as many clips again for the floor
  ),
}  # fmt: skip
