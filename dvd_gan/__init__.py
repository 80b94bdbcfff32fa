"""DVD-GAN (Clark, Donahue, Simonyan 2019) in JAX and Flax, from a laptop CPU to a TPU pod.

model = dvd_gan.load('runs/mine')
videos = model.sample(classes=['bikes'], num=4)  # uint8 [4, T, H, W, 3]
"""

from typing import Any

__version__ = '0.1.0'


def load(path: Any, step: int | None = None) -> Any:
  """Opens a trained model; see `dvd_gan.model.load`, which is imported only on this call."""
  from dvd_gan import model

  return model.load(path, step)
