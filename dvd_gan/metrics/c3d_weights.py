"""C3D's weights from the two files of TGANv2's release (pfnet-research/tgan2)."""

from etils import epath

from dvd_gan.metrics import weights
from dvd_gan.metrics.c3d import C3D, FRAMES

MEAN_CORNER = 8  # pixels: where the published evaluation cuts the mean clip
MEAN_AXES = (1, 2, 3, 0)  # [channels, t, h, w] to [t, h, w, channels]


def load(path: str, mean_path: str, net: C3D | None = None) -> weights.Weights:
  """Weights of C3D.

  Args:
    path: `conv3d_deepnetA_ucf.npz`, local or gs://: `conv1a/W` [64, 3, 3, 3, 3] (out, in, t, h, w), `conv1a/b` [64],
      ..., `fc8/W` [101, 4096] (out, in), `fc8/b`.
    mean_path: `mean2.npz`: `mean` [3, 16, H, W], BGR in [0, 255], of which rows and columns 8 to 120 are used.
    net: the network to fill, C3D() if None.

  Returns:
    The parameters, the mean clip among them, and the sha256 of both files.

  Raises:
    UsageError: a file cannot be read, or its arrays are not the network's.
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
  # Of another rank it stays as it is, and is refused for its shape.
  means = weights.read_npz(mean_content, mean_at).items()
  means = {name: array[:, :, cut, cut] if array.ndim == 4 else array for name, array in means}
  filled |= weights.place(means, {'mean': weights.Slot('mean', MEAN_AXES)}, mean, mean_at)
  return weights.Weights(filled, {at.name: weights.sha256(content), mean_at.name: weights.sha256(mean_content)})
