"""The tiny config for prediction, as a file: `--config=tests/tiny_prediction.py`."""

from tests import tiny


def get_config():
  """Two context frames and four generated frames; D_S sees all four generated ones."""
  config = tiny.get_config()
  config.data.context, config.data.frames, config.data.use_labels = 2, 6, False
  config.disc.frames_k = 4
  return config
