"""C3D for the 101 classes of UCF-101, used for UCF-101's Inception Score (Tran et al. 2015, arXiv:1412.0767).

Preprocessing and weights are those of TGANv2's evaluation (Saito et al. 2020, pfnet-research/tgan2). Parameters have
the names of the released weights, but this module's layouts.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath

from dvd_gan.metrics.networks import weights
from dvd_gan.metrics.networks.resize import resize
from dvd_gan.models.ops.convolution import conv3d
from dvd_gan.runtime.errors import UsageError

FRAMES = 16
RESOLUTION = 112  # pixels
MEAN_CORNER = 8  # pixels, offset of the published evaluation's crop of the mean clip
MEAN_AXES = (1, 2, 3, 0)  # [channels, t, h, w] to [t, h, w, channels]
# Convolutions (name, channels) between max-pools; the first pool does not reduce time.
STAGES = (
  (('conv1a', 64),),
  (('conv2a', 128),),
  (('conv3a', 256), ('conv3b', 256)),
  (('conv4a', 512), ('conv4b', 512)),
  (('conv5a', 512), ('conv5b', 512)),
)


class C3D(nn.Module):
  """C3D with its preprocessing.

  Attributes:
    num_classes: 101.
    resolution: height and width of the network's input, 112; smaller in tests.
    hidden: width of fc6 and fc7, 4096; smaller in tests.
    full_scale: half of the input's range of grey levels: 128 in TGANv2's evaluation, 127.5 in MAGVIT's.
  """

  num_classes: int = 101
  resolution: int = RESOLUTION
  hidden: int = 4096
  full_scale: float = 128.0

  @nn.compact
  def __call__(self, video: jax.Array) -> dict[str, jax.Array]:
    """Class probabilities, logits and features of clips.

    Args:
      video: f32 [N, 16, H, W, 3], RGB in [-1, 1]; any H and W, because the video is resized here.

    Returns:
      f32 'probabilities' and 'logits' [N, num_classes], and 'fc7' [N, hidden], the features before the logits.

    Raises:
      UsageError: if the video does not have 16 frames and 3 channels.
    """
    if video.ndim != 5 or video.shape[1] != FRAMES or video.shape[-1] != 3:
      raise UsageError(f'C3D takes video [N, {FRAMES}, H, W, 3], got {list(video.shape)}')
    mean = self.param('mean', nn.initializers.zeros, (FRAMES, self.resolution, self.resolution, 3))
    # BGR from here on.
    x = resize(self.full_scale * video[..., ::-1], self.resolution, 'align_corners') + (self.full_scale - mean)
    for stage, convolutions in enumerate(STAGES):
      for name, channels in convolutions:
        x = nn.relu(self._convolution(x, name, channels))
      window = (2 if stage else 1, 2, 2)
      x = nn.max_pool(x, window, window, padding='SAME')  # Chainer's cover_all (ceil mode): 7x7 becomes 4x4
    x = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)  # channels first, the input order of fc6
    x = nn.relu(self._linear(x, 'fc6', self.hidden))
    fc7 = nn.relu(self._linear(x, 'fc7', self.hidden))
    logits = self._linear(fc7, 'fc8', self.num_classes)
    return {'probabilities': nn.softmax(logits), 'logits': logits, 'fc7': fc7}

  def _convolution(self, x, name, channels):
    kernel = self.param(f'{name}/W', nn.initializers.he_normal(), (3, 3, 3, x.shape[-1], channels))
    bias = self.param(f'{name}/b', nn.initializers.zeros, (channels,))
    return conv3d(x, kernel) + bias

  def _linear(self, x, name, features):
    kernel = self.param(f'{name}/W', nn.initializers.he_normal(), (x.shape[-1], features))
    bias = self.param(f'{name}/b', nn.initializers.zeros, (features,))
    return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias


def load(path: str, mean_path: str, net: C3D | None = None) -> weights.Weights:
  """Loads the weights of C3D.

  Args:
    path: `conv3d_deepnetA_ucf.npz`, local or gs://: `conv1a/W` [64, 3, 3, 3, 3] (out, in, t, h, w), `conv1a/b` [64],
      ..., `fc8/W` [101, 4096] (out, in), `fc8/b`.
    mean_path: `mean2.npz`: `mean` [3, 16, H, W], BGR in [0, 255]; only rows and columns 8 to 119 are used.
    net: the network that the weights are for; C3D() if None.

  Returns:
    The parameters, including the mean clip, and the sha256 of both files.

  Raises:
    UsageError: if a file cannot be read, or if its arrays do not fit the network.
  """
  net = net or C3D()
  at, mean_at = epath.Path(path), epath.Path(mean_path)
  content, mean_content = weights.read(at), weights.read(mean_at)
  params = weights.parameters(net, (1, FRAMES, net.resolution, net.resolution, 3))
  mean = {'mean': params.pop('mean')}
  axes = {2: weights.DENSE_AXES, 5: weights.CONV_AXES}
  slots = {name: weights.Slot(name, axes.get(len(shape), ())) for name, shape in weights.names(params).items()}
  filled = weights.place(weights.read_npz(content, at), slots, params, at)
  cut = slice(MEAN_CORNER, MEAN_CORNER + net.resolution)
  # An array of another rank is not cropped; `weights.place` rejects its shape.
  means = weights.read_npz(mean_content, mean_at).items()
  means = {name: array[:, :, cut, cut] if array.ndim == 4 else array for name, array in means}
  filled |= weights.place(means, {'mean': weights.Slot('mean', MEAN_AXES)}, mean, mean_at)
  return weights.Weights(filled, {at.name: weights.sha256(content), mean_at.name: weights.sha256(mean_content)})
