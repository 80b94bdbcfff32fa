"""PSNR and SSIM of predicted videos against the truth, frame by frame."""

import functools
import itertools

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

WINDOW = 11  # pixels, side of SSIM's Gaussian window (Wang et al. 2004)
ROUNDING = 1 / 12  # mean squared error of rounding to 8 bits; a lower bound of the error, so PSNR is at most 58.9 dB
FRAMES = 256  # frames per call; the last call is padded to avoid a second compilation


def psnr_and_ssim(videos: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
  """Compares videos frame by frame.

  Args:
    videos: uint8 [..., T, H, W, 3].
    truth: the same shape, or one that broadcasts to it.

  Returns:
    {'psnr', 'ssim'}, each f32 [..., T]. PSNR is in dB with peak 255, over all three channels; it is 58.9 for equal
    frames. SSIM is as in tf.image.ssim: the window and constants of Wang et al., computed per channel, then averaged.
    The window is as large as the shorter side if that is below 11 pixels.
  """
  truth = np.broadcast_to(truth, videos.shape)
  shape, frame = videos.shape[:-3], videos.shape[-3:]
  videos, truth = videos.reshape(-1, *frame), truth.reshape(-1, *frame)
  compare = _compare(min(WINDOW, *frame[:2]))
  parts = []
  for start in range(0, len(videos), FRAMES):
    part = videos[start : start + FRAMES], truth[start : start + FRAMES]
    fill = FRAMES - len(part[0])
    padded = (np.pad(frames, ((0, fill), *[(0, 0)] * 3)) for frames in part)
    parts.append(np.stack(compare(*padded))[:, : len(part[0])])
  psnr, ssim = np.concatenate(parts, axis=1)
  return {'psnr': psnr.reshape(shape), 'ssim': ssim.reshape(shape)}


@functools.lru_cache
def _compare(window: int):
  def compare(frames, truth):
    a, b = frames.astype(jnp.float32), truth.astype(jnp.float32)
    error = jnp.maximum(dm_pix.mse(a, b), ROUNDING)
    return 10 * jnp.log10(255**2 / error), dm_pix.ssim(a, b, max_val=255.0, filter_size=window)

  return jax.jit(compare)


def summary(futures: np.ndarray, truth: np.ndarray, last: np.ndarray) -> dict[str, dict[str, list[float]]]:
  """Summarises several futures per clip as prediction papers do, with a baseline that copies the last context frame.

  Args:
    futures: uint8 [N, n, T, H, W, 3], n futures per clip.
    truth: uint8 [N, T, H, W, 3].
    last: uint8 [N, H, W, 3], the last context frame.

  Returns:
    For 'psnr' and 'ssim': 'mean' over futures, 'best' (per clip, the future with the best mean over frames, as in SVG,
    Denton and Fergus 2018) and 'copy_last'. Each is a list of T means over clips.
  """
  ours = psnr_and_ssim(futures, truth[:, None])
  copy_last = psnr_and_ssim(np.broadcast_to(last[:, None], truth.shape), truth)
  result = {}
  for name, values in ours.items():  # [N, n, T]
    best = np.take_along_axis(values, values.mean(2).argmax(1)[:, None, None], axis=1)
    rows = {'mean': values.mean((0, 1)), 'best': best.mean((0, 1)), 'copy_last': copy_last[name].mean(0)}
    result[name] = {row: np.round(by_frame.astype(float), 4).tolist() for row, by_frame in rows.items()}
  return result


def spread(futures: np.ndarray) -> float | None:
  """Diversity of the futures of a clip: the root mean square difference between two futures, in grey levels.

  Args:
    futures: uint8 [N, n, T, H, W, 3].

  Returns:
    The mean over clips and pairs; 0 if all futures are equal, None for n = 1.
  """
  if futures.shape[1] < 2:
    return None
  apart = []
  for clip in futures:  # convert one clip at a time: float32 takes four times the memory of uint8
    pairs = itertools.combinations(clip.astype(np.float32), 2)
    apart += [np.sqrt(np.mean((one - other) ** 2)) for one, other in pairs]
  return round(float(np.mean(apart)), 4)
