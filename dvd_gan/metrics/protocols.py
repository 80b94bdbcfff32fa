"""Evaluation protocols by name. A protocol fixes everything that two results must share to be comparable."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """Definition of a metric.

  Attributes:
    source: publication and code that the protocol follows.
    number: 'frechet', 'inception_score', or 'toy' (both, and accuracies by class).
    network: 'i3d_400', 'i3d_600', 'c3d_101', 'c3d_101_255' or 'shapes' (networks/__init__.py).
    feature: the network output that is used.
    resize: (size, method) pairs, applied in order before the network (networks/resize.py); resizing inside the network
      is not listed.
    frames: frames per video; 0 for the model's.
    samples: N, the number of samples.
    real: number of real clips; 0 for N, -1 for every clip once.
    split: of the real clips; empty for the config's `data.split`.
    windows: how windows of real clips are drawn, each from a random frame on. 'once': one per clip, in random order,
      until the clips are used up. 'again': then other windows of the same clips, epoch after epoch. 'any': as 'again',
      but the floor may compare windows of one clip. 'replacement': from clips drawn with replacement.
    crop: square crop of each window: 'random' or 'centre'.
    classes: classes of the samples: 'uniform' over all classes; 'data', those of clips drawn with replacement;
      'windows', those of the real windows in turn.
    ddof: 1 for the sample covariance, 0 for the population covariance.
    splits: number of parts of the samples, for the Inception Score.
    loops: repetitions, each with new samples and real windows; the result is their mean and standard deviation.
    futures: number of futures per context clip, in prediction.
    lengths: smallest and largest number of frames that the protocol accepts, if `frames` is 0; empty for any.
    twice_below: the network sees each frame twice if a video has fewer frames than this.
    remark: note that is shown with each result.
    version: incremented when the definition is corrected; results of different versions are not comparable.
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
    """Whether the metric compares the set with real clips; the Inception Score does not."""
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
    split='train',  # not used to train the classifier, and large enough for the floor
  ),
}  # fmt: skip
