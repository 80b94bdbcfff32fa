"""Scores training clips, held-out clips and samples with a checkpoint's discriminators, to see whether they overfit.

python results/scripts/disc_scores.py WORKDIR STEP HELD_OUT.npz [--num=512]

HELD_OUT.npz is an array_file of clips that were not trained on. If D scores training clips far above held-out ones, and
held-out ones like samples, it has memorised its training set. Prints one JSON object: for each discriminator and set
the mean score and the mean of its sign, which is above 0.6 on training clips when D overfits (Karras et al. 2020).
"""

import argparse
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dvd_gan import checkpoint, models, sharding, train_step  # noqa: E402
from dvd_gan.configs import default  # noqa: E402
from dvd_gan.datasets import evaluation_windows  # noqa: E402
from dvd_gan.models import spectral  # noqa: E402
from dvd_gan.runtime import run_config  # noqa: E402

BATCH = 32


def config_of(workdir: pathlib.Path) -> ConfigDict:
  """The config that a run was started with."""
  saved = run_config.read(epath.Path(workdir) / 'config.json')
  config = default.get_config()
  for group, fields in saved.items():
    for field, value in fields.items() if isinstance(fields, dict) else ():
      config[group][field] = tuple(value) if isinstance(value, list) else value
  return config


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('step', type=int)
  parser.add_argument('held_out', type=pathlib.Path)
  parser.add_argument('--num', type=int, default=512, help='clips of each set')
  args = parser.parse_args()
  config = config_of(args.workdir)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  state, _ = checkpoint.Checkpoints(epath.Path(args.workdir.absolute()) / 'checkpoints').restore(
    args.step, config, mesh
  )
  gen, disc = models.build(config)
  gen_weights, disc_weights = (spectral.normalise(net.params, net.spectral)[0] for net in (state.gen, state.disc))

  @jax.jit
  def generate(key, label):
    z = jax.random.normal(key, (len(label), config.gen.z_dim))
    empty = jnp.zeros((len(label), 0, config.data.resolution, config.data.resolution, 3))
    return gen.apply({'params': gen_weights}, z, label, empty, train=True)

  @jax.jit
  def scores(key, video, label):
    chosen = train_step.choose_frames(key, len(label), video.shape[1], config.disc.frames_k)
    return disc.apply({'params': disc_weights}, train_step.take_frames(video, chosen), video, label)

  held_out = config.copy_and_resolve_references()
  held_out.data.name, held_out.data.source = 'array_file', str(args.held_out)
  found = {}
  for name, source in (('training', config), ('held out', held_out), ('samples', config)):
    clips = evaluation_windows.Windows(source, source.data.split).first(args.num, frames=config.data.frames)
    parts = []
    for first in range(0, args.num, BATCH):
      key, rows = jax.random.key(first), slice(first, first + BATCH)
      label = jnp.asarray(clips.label[rows])
      video = generate(key, label) if name == 'samples' else train_step.to_float(jnp.asarray(clips.video[rows]))
      parts.append(scores(key, video, label))
    for part in parts[0]:
      values = np.concatenate([one[part] for one in parts])
      found.setdefault(part, {})[name] = {'mean': float(values.mean()), 'sign': float(np.sign(values).mean())}
  print(json.dumps({'step': args.step, **found}, indent=1))


if __name__ == '__main__':
  main()
