"""Times our train step and those of two public PyTorch re-implementations, as their authors train them, alternately.

python results/performance/reimplementations.py PYTHON HARRY MCKEE [--rounds=3] [--out=FILE.json]

PYTHON is the interpreter of an environment with torch and numpy, HARRY a clone of Harrypotterrrr/DVD-GAN and MCKEE one
of dmckee5/BigVidGAN (`none` omits one). Each runs in its own process, which waits while the others compute: 64x64, 12
frames, 8 of them for D_S, ch = 32, 4 videos, float32. The clones' own trainers run: `Trainer.train` with a loader of
random videos, and `GAN_training_function` with the flags of `scripts/launch_DVDGAN_64.sh`, except for the sizes and a
loss of weight 0. Modules that only read videos or write logs are mocked, and one method of each clone is replaced to
run on a CPU.

The models differ (the first has ConvGRUs of three layers at each resolution and one D step, the second another D_T), so
compare FLOP/s, not steps. Their FLOPs are those that ran, from PyTorch's counter with our count of convolutions
(without taps on padding). Ours are given twice: of the layers as described, and those that ran.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

# In the trainers' processes the clone's folder is inserted before this one.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

FRAMES, RESOLUTION, CHANNELS, BATCH, CLASSES, K = 12, 64, 32, 4, 600, 8
UNUSED = (  # modules for reading videos and writing logs
  'PIL animal_hash datasets h5py pandas tensorboardX torchvision torchvision.datasets torchvision.datasets.utils '
  'torchvision.transforms torchvision.utils tqdm'
).split()


@contextlib.contextmanager
def absent(names: list[str]) -> Iterator[None]:
  """Replaces modules by mocks while the modules that import them are imported."""
  sys.modules.update({name: mock.MagicMock() for name in names})
  yield
  for name in names:
    del sys.modules[name]


class Served:
  """A trainer in another process that runs a step on request."""

  def __init__(self, python: str, name: str, folder: str):
    command = [python, os.path.abspath(__file__), '--serve', name, folder]
    self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    first = self._ask()  # counts FLOPs; the first step is slower
    self.flop, self.about = first['flop'], first['about']

  def _ask(self) -> dict[str, Any]:
    self._process.stdin.write('step\n')
    self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError('the trainer stopped; its message is above')
    return json.loads(line)

  def seconds(self, repeats: int) -> list[float]:
    return [self._ask()['seconds'] for _ in range(repeats)]

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait()


def convolution_flop() -> dict[Any, Any]:
  """Formulas for PyTorch's counter, without taps on padding, as in flops.py; transposed convolutions do not occur."""
  import torch

  with absent(['jax']):
    from dvd_gan import flops

  def forward(x, kernel, bias, stride, padding, dilation, transposed, output_padding, groups, *, out_shape):
    taps = 1
    for axis, (size, length, out) in enumerate(zip(x[2:], kernel[2:], out_shape[2:], strict=True)):
      by, low, kernel_dilation = (
        of[axis % len(of)] for of in (stride, padding, dilation)
      )  # one value may apply to all axes
      taps *= flops.inner_taps(size, length, out, stride=by, low=low, kernel_dilation=kernel_dilation)
    return 2 * x[0] * kernel[0] * kernel[1] * taps

  def backward(d_out, x, kernel, bias, *rest, out_shape):
    *rest, wanted = rest
    return forward(x, kernel, bias, *rest, out_shape=d_out) * (wanted[0] + wanted[1])

  return {torch.ops.aten.convolution: forward, torch.ops.aten.convolution_backward: backward}


def steps_asked_for(answers: Any) -> Iterator[int]:
  """Yields a number for each step that the parent requests, then answers with its time, or its FLOPs for the first."""
  import torch
  from torch.utils import flop_counter

  for number, _ in enumerate(sys.stdin):
    if number:
      start = time.perf_counter()
      yield number
      answer = {'seconds': time.perf_counter() - start}
    else:
      with flop_counter.FlopCounterMode(display=False, custom_mapping=convolution_flop()) as counter:
        yield number  # the caller runs the step until it takes the next number
      answer = {'flop': counter.get_total_flops(), 'about': f'torch {torch.__version__}'}
    print(json.dumps(answer), file=answers, flush=True)
  os._exit(0)  # otherwise the trainer would continue


def serve_harry(steps: Iterator[int]) -> None:
  with absent(UNUSED):
    import parameter
    import torch
    import trainer

  class Loader:
    """Random videos (batch, 3, frames, height, width) in -1 to 1, in the format of the clone's own loader."""

    def __len__(self) -> int:
      return 10**9

    def __iter__(self) -> Iterator[Any]:
      video = torch.rand(BATCH, 3, FRAMES, RESOLUTION, RESOLUTION) * 2 - 1
      label = torch.randint(CLASSES, (BATCH,))
      return ((video, label) for _ in steps)

  sys.argv = [sys.argv[0], '--adv_loss=hinge', f'--g_chn={CHANNELS}', f'--ds_chn={CHANNELS}', f'--dt_chn={CHANNELS}']
  sys.argv += [f'--n_frames={FRAMES}', f'--k_sample={K}', f'--batch_size={BATCH}', f'--n_class={CLASSES}']
  sys.argv += ['--test_batch_size=1']
  config = parameter.get_parameters()
  config.gpus = ''  # selects the CPU
  torch.nn.Module.cuda = lambda self, *_: self  # called on a CPU too
  trainer.Trainer(Loader(), config).train()


def serve_mckee(steps: Iterator[int]) -> None:
  with absent(UNUSED):
    import BigGAN
    import torch
    import train_fns
    import utils

  flags = f"""
    --D_hinge_loss_sum after --Dv_hinge_loss_sum after --T_into_B --D_loss_weight 1.0 --Dv_no_res --no_avg_pixel_loss
    --num_G_accumulations 1 --num_D_accumulations 1 --num_D_steps 2 --G_lr 5e-4 --D_lr 1e-4 --D_B2 0.999
    --G_B2 0.999 --G_attn 32 --D_attn 0 --G_nl relu --D_nl relu --SN_eps 1e-8 --BN_eps 1e-5 --adam_eps 1e-8
    --G_init N02 --D_init N02 --dim_z 128 --G_shared --shared_dim 128 --ema --use_ema --ema_start 1000
    --time_steps {FRAMES} --k {K} --G_ch {CHANNELS} --D_ch {CHANNELS} --batch_size {BATCH}
  """
  config = vars(utils.prepare_parser().parse_args(flags.split()))
  config.update(resolution=RESOLUTION, n_classes=CLASSES)
  config.update(dataset='C10')  # the trainer reads it only for class names in logs
  for network in 'GD':
    config[f'{network}_activation'] = utils.activation_dict[config[f'{network}_nl']]
  gen = BigGAN.Generator(**config)
  image, video = BigGAN.ImageDiscriminator(**config), BigGAN.VideoDiscriminator(**config)
  averaged = BigGAN.Generator(**{**config, 'skip_init': True, 'no_optim': True})
  both = torch.nn.DataParallel(BigGAN.G_D(gen, image, video, config['k'], config['T_into_B']))
  z, y = utils.prepare_z_y(BATCH, gen.dim_z, CLASSES, device='cpu')
  utils.Distribution.to = torch.Tensor.to  # its own returns a type that this PyTorch's FLOP counter does not support
  state = {'itr': 0}
  train = train_fns.GAN_training_function(
    gen, image, video, both, z, y, utils.ema(gen, averaged, config['ema_decay'], config['ema_start']), state, config
  )
  reals = torch.rand(2 * BATCH, FRAMES, 3, RESOLUTION, RESOLUTION) * 2 - 1
  labels = torch.randint(CLASSES, (2 * BATCH,))
  for network in (gen, image, video, averaged):
    network.train()
  for _ in steps:
    state['itr'] += 1
    train(reals, labels)


SERVED = {'Harrypotterrrr/DVD-GAN': serve_harry, 'dmckee5/BigVidGAN': serve_mckee}


def serve(name: str, folder: str) -> None:
  """Entry point of a trainer's process: answers on standard output; the clone's own output is discarded."""
  answers, sys.stdout = sys.stdout, open(os.devnull, 'w')
  sys.path.insert(0, folder)
  SERVED[name](steps_asked_for(answers))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('python')
  parser.add_argument('harry')
  parser.add_argument('mckee')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--out', type=pathlib.Path, help='write the rows there as JSON too')
  args = parser.parse_args()
  import jax

  from dvd_gan import benchmark  # imported here, because the trainers' processes have no jax
  from results.scripts import measured

  steps = {f'ours, jax {jax.__version__}': benchmark.Step(benchmark.SIZES['64x64x12_ch32_b4']())}
  for name, folder in zip(SERVED, (args.harry, args.mckee), strict=True):
    if folder != 'none':
      served = Served(args.python, name, os.path.abspath(folder))
      steps[f'{name}, {served.about}'] = served
  rates, seconds = [benchmark.matmul_rate('float32')], {name: [] for name in steps}
  for _, (name, step) in itertools.product(range(args.rounds), steps.items()):
    seconds[name] += step.seconds(1)
    rates.append(benchmark.matmul_rate('float32'))
  rows = table(steps, seconds, statistics.median(rates))
  if args.out:
    measured.save(args.out, rows)
  for step in steps.values():
    if isinstance(step, Served):
      step.close()


def table(steps: dict[str, Any], seconds: dict[str, list[float]], rate: float) -> list[dict[str, Any]]:
  """Prints the median of each step, ours twice and first; returns the rows."""
  print(f'matrix product {rate / 1e9:.0f} GFLOP/s')
  print('| train step | s: median (range) | TFLOP | GFLOP/s | share of matmul rate | per FLOP, times ours |')
  print('|---|---|---|---|---|---|')
  rows = [(name, seconds[name], step.flop) for name, step in steps.items()]
  ours, first_seconds, first_flop = rows[0]
  rows.insert(1, (f'{ours}, of what ran', first_seconds, steps[ours].computed_flop))
  first, result = statistics.median(first_seconds) / first_flop, []
  for label, found, flop in rows:
    median = statistics.median(found)
    print(
      f'| {label} | {median:.2f} ({min(found):.2f} to {max(found):.2f}) | {flop / 1e12:.3f} | {flop / median / 1e9:.0f} '
      f'| {flop / median / rate:.0%} | {median / flop / first:.2f} |'
    )
    result.append({'step': label, 'step_s': found, 'gflop': flop / 1e9, 'matmul_gflops': rate / 1e9})
    result[-1] |= {'share_of_matmul_rate': flop / median / rate, 'seconds_a_flop_times_ours': median / flop / first}
  return result


if __name__ == '__main__':
  if sys.argv[1:2] == ['--serve']:
    serve(*sys.argv[2:])
  else:
    main()
