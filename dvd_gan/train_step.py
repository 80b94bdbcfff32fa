"""One training step as pure functions: D steps, then a G step, on a TrainState."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dvd_gan import augment, losses, microbatches, models, optimizer, sharding
from dvd_gan.models import spectral
from dvd_gan.runtime import backend

Tree = Any
Batch = dict[str, jax.Array]  # {'video': uint8 [..., B, T, H, W, 3], 'label': int32 [..., B]}
Metrics = dict[str, jax.Array]


class NetState(NamedTuple):
  """A network's raw parameters, the vectors u of their spectral norm, and the optimizer state."""

  params: Tree
  spectral: Tree
  opt_state: Tree


class TrainState(NamedTuple):
  """The training state, as saved in checkpoints.

  Attributes:
    step: int32, number of generator updates so far.
    gen: the generator.
    disc: all discriminators, one top-level entry of the parameters for each.
    ema_params: exponential moving average of `gen.params`, used for sampling.
    score_means: moving averages of each discriminator's mean score if `train.lecam` is set, otherwise None; f32 scalars
      in nested dicts, {'real' or 'fake': {discriminator: mean}}.
  """

  step: jax.Array
  gen: NetState
  disc: NetState
  ema_params: Tree
  score_means: Tree = None


class StepSpec(NamedTuple):
  """The static arguments of a step: networks, optimizers and constants."""

  gen: Any
  disc: Any
  gen_opt: optax.GradientTransformation
  disc_opt: optax.GradientTransformation
  z_dim: int
  context: int  # C, the number of context frames
  frames_k: int  # k, frames of each video that D_S sees
  ema_decay: float
  ema_start: int
  unroll: bool  # compiles every D step and microbatch separately, without a loop
  overlap: bool = False  # on TPU, overlaps the gradients' all-reduce with computation
  truth_weight: float = 0.0  # weight of the squared error in G's loss; ours, for prediction
  truth_decay: tuple[int, int] = (0, 0)  # first and last step of the weight's linear decay to 0; (0, 0): constant
  crop: int = 1  # D_T sees a random square whose side is 1 / crop of the video's
  augment: tuple[str, ...] = ()  # a subset of augment.KINDS
  lecam: float = 0.0  # weight of the LeCam regularisation in D's loss
  microbatches: int = 1
  # Keeps gradients and weights replicated while the optimizer state is sharded; see sharding.keep_replicated.
  replicate: Callable[[Tree], Tree] = lambda tree: tree


def make_spec(config: Any, *, unroll: bool, resample_in_kernel: bool = False) -> StepSpec:
  """Builds the StepSpec of a validated config; `unroll` and `resample_in_kernel` come from `backend.step_options`."""
  gen, disc = models.build(config, resample_in_kernel)
  train = config.train
  adam = functools.partial(
    optimizer.adam, b1=train.b1, b2=train.b2, decay_from=train.decay_start or train.steps, decay_to=train.steps
  )
  return StepSpec(
    gen=gen,
    disc=disc,
    gen_opt=adam(train.gen_lr),
    disc_opt=adam(train.disc_lr),
    z_dim=config.gen.z_dim,
    context=config.data.context,
    frames_k=config.disc.frames_k,
    ema_decay=train.ema_decay,
    ema_start=train.ema_start,
    unroll=unroll,
    overlap=config.mesh.overlap,
    truth_weight=train.truth_weight,
    truth_decay=(train.truth_decay_start or train.steps, train.steps),
    crop=config.disc.pool if config.disc.phi == 'crop' else 1,
    augment=tuple(train.augment),
    lecam=train.lecam,
    microbatches=train.microbatches,
  )


def init_state(spec: StepSpec, params: tuple[Tree, Tree], key: jax.Array) -> TrainState:
  """Initialises a TrainState, f32 except for counters; call it under jit with `out_shardings` to place it on a mesh.

  Args:
    spec: static.
    params: (generator, discriminators), from `models.init`.
    key: PRNG key for the spectral vectors.
  """
  gen, disc = (
    NetState(tree, spectral.init(tree_key, tree), opt.init(tree))
    for tree, tree_key, opt in zip(params, jax.random.split(key), (spec.gen_opt, spec.disc_opt), strict=True)
  )
  score_means = None
  if spec.lecam:  # the keys equal those of the dict of scores
    score_means = {side: {part: jnp.float32(0) for part in disc.params} for side in ('real', 'fake')}
  return TrainState(jnp.int32(0), gen, disc, gen.params, score_means)


def state_shapes(config: Any) -> TrainState:
  """The TrainState of a config, with ShapeDtypeStructs as leaves."""
  init = functools.partial(init_state, make_spec(config, unroll=False))
  return jax.eval_shape(init, models.shapes(config), jax.random.key(0))


def to_float(video: jax.Array) -> jax.Array:
  """uint8 [0, 255] -> f32 [-1, 1]."""
  return video.astype(jnp.float32) / 127.5 - 1


def choose_frames(key: jax.Array, count: int, length: int, k: int) -> jax.Array:
  """Draws k distinct frame indices below `length`, independently for each of `count` videos: int32 [count, k]."""
  return jnp.argsort(jax.random.uniform(key, (count, length)), axis=1)[:, :k]


def take_frames(video: jax.Array, chosen: jax.Array) -> jax.Array:
  """Gathers the chosen frames of each video: [B, T, H, W, C] and [B, k] -> [B, k, H, W, C]."""
  return jnp.take_along_axis(video, chosen[..., None, None, None], axis=1)


def choose_corners(key: jax.Array, count: int, size: int, crop: int) -> jax.Array:
  """Draws the first row and column of a square of side `size // crop` for each of `count` videos: int32 [count, 2]."""
  return jax.random.randint(key, (count, 2), 0, size - size // crop + 1)


def take_squares(video: jax.Array, corners: jax.Array, crop: int) -> jax.Array:
  """Crops all frames of a video to the same square: [B, T, H, W, C] and [B, 2] -> [B, T, H // crop, W // crop, C]."""
  _, t, h, w, c = video.shape
  return jax.vmap(lambda clip, corner: jax.lax.dynamic_slice(clip, (0, *corner, 0), (t, h // crop, w // crop, c)))(
    video, corners
  )


def interleave(real: jax.Array, fake: jax.Array) -> jax.Array:
  """Interleaves two [B, ...] to [2B, ...]; a concatenation would move rows of a sharded batch between devices."""
  return jnp.stack([real, fake], axis=1).reshape(-1, *real.shape[1:])


def train_step(spec: StepSpec, state: TrainState, batch: Batch, seed_key: jax.Array) -> tuple[TrainState, Metrics]:
  """Runs the D steps, each on its own real batch, then one G step.

  Args:
    spec: static.
    state: donated by the caller's jit.
    batch: `video` uint8 [d_steps, B, T, H, W, 3], `label` int32 [d_steps, B].
    seed_key: PRNG key of the run; `state.step` is folded in.

  Returns:
    (new state, metrics). Metrics are f32 scalars, those of D averaged over the D steps; `finite` is a bool, whether all
    of them are finite.
  """
  key = jax.random.fold_in(seed_key, state.step)
  d_steps = batch['label'].shape[0]
  *d_keys, g_key = jax.random.split(key, d_steps + 1)

  # G's spectral norm is computed once: the D steps and the G step use the same weights.
  gen_weights, pullback, (gen_spectral, gen_sigmas) = _normalised(state.gen)
  (disc, score_means), d_metrics = jax.lax.scan(
    lambda carry, xs: d_step(spec, *carry, gen_weights, state.step, *xs),
    (state.disc, state.score_means),
    (batch, jnp.stack(d_keys)),
    unroll=0 if spec.unroll else 1,  # 0 unrolls all; `unroll=d_steps` would keep a loop if d_steps is 1
  )
  last = jax.tree.map(lambda x: x[-1], batch)
  gen, g_metrics = g_step(spec, state.gen, gen_weights, pullback, disc, state.step, last, g_key)
  gen = gen._replace(spectral=gen_spectral)
  ema = ema_update(spec, state.step, state.ema_params, gen.params)

  metrics = jax.tree.map(jnp.mean, d_metrics) | g_metrics
  metrics['gen_sigma_max'], metrics['gen_sigma_min'] = spectral.extremes(gen_sigmas)
  metrics['finite'] = jnp.all(jnp.isfinite(jnp.stack(jax.tree.leaves(metrics))))
  return TrainState(state.step + 1, gen, disc, ema, score_means), metrics


def jitted(spec: StepSpec, mesh: jax.sharding.Mesh, state: TrainState) -> Any:
  """Jits `train_step` for a mesh. `state`, or its shapes, determines the shardings; the state is donated."""
  step = functools.partial(train_step, spec._replace(replicate=sharding.keep_replicated(mesh)))
  places, platform = (sharding.state(mesh, state), None), mesh.devices.flat[0].platform
  options = backend.compiler_options(platform)
  if spec.overlap:
    options = options | backend.overlap_options(platform)
  return jax.jit(step, donate_argnums=0, out_shardings=places, compiler_options=options)


def disc_loss(
  spec: StepSpec, score_means: Tree, weights: Tree, inputs: dict[str, jax.Array]
) -> tuple[jax.Array, Metrics]:
  """The discriminators' loss on interleaved real and fake videos.

  Args:
    spec: static.
    score_means: `TrainState.score_means`.
    weights: the discriminators' weights after spectral norm.
    inputs: `frames` [2B, k, H, W, 3] and `video` [2B, T, H', W', 3], augmented (colours may leave [-1, 1]) and, with
      `spec.crop` > 1, `video` cropped; `label` int32 [2B]. Even rows are real.
  """
  scores = spec.disc.apply({'params': weights}, inputs['frames'], inputs['video'], inputs['label'])
  real, fake = ({name: score[i::2] for name, score in scores.items()} for i in range(2))
  loss = losses.hinge_disc(real, fake)
  metrics = {f'disc_loss_{name}': value for name, value in loss.items()}
  metrics |= {f'score_real_{name}': score.mean() for name, score in real.items()}
  metrics |= {f'score_fake_{name}': score.mean() for name, score in fake.items()}
  total = sum(loss.values())
  if spec.lecam:
    metrics['disc_lecam'] = losses.lecam(real, fake, score_means)
    total += spec.lecam * metrics['disc_lecam']
  return total, metrics


def gen_loss(
  spec: StepSpec,
  disc_weights: Tree,
  weights: Tree,
  inputs: dict[str, jax.Array],
  *,
  truth_factor: jax.Array | float = 1.0,
) -> tuple[jax.Array, Metrics]:
  """The generator's loss.

  Args:
    spec: static.
    disc_weights: the discriminators' weights after spectral norm.
    weights: the generator's weights after spectral norm.
    inputs: `z` [B, z_dim]; `label` int32 [B]; `context` [B, C, H, W, 3] in [-1, 1]; `chosen` int32 [B, k], indices of
      the generated frames that D_S sees; `draws`, from `augment.draw` for B clips. If `spec.crop` > 1, `corners` int32
      [B, 2] of D_T's crops. If `spec.truth_weight` > 0, `truth` [B, T - C, H, W, 3], the real frames after `context`.
    truth_factor: multiplies `spec.truth_weight`; f32 scalar.
  """
  context = inputs['context']
  fake = spec.gen.apply({'params': weights}, inputs['z'], inputs['label'], context, train=True)
  video = augment.apply(inputs['draws'], jnp.concatenate([context, fake], axis=1))
  frames = take_frames(video[:, spec.context :], inputs['chosen'])
  seen = take_squares(video, inputs['corners'], spec.crop) if spec.crop > 1 else video
  loss = losses.hinge_gen(spec.disc.apply({'params': disc_weights}, frames, seen, inputs['label']))
  total, metrics = sum(loss.values()), {f'gen_loss_{name}': value for name, value in loss.items()}
  if spec.truth_weight:
    metrics['gen_squared_error'] = losses.squared_error(fake, inputs['truth'])
    total += spec.truth_weight * truth_factor * metrics['gen_squared_error']
  return total, metrics


def d_step(
  spec: StepSpec, disc: NetState, score_means: Tree, gen_weights: Tree, step: jax.Array, batch: Batch, key: jax.Array
) -> tuple[tuple[NetState, Tree], Metrics]:
  """Updates the discriminators on a real batch and as many fake videos with the same labels and fresh z.

  Returns:
    ((new `disc`, new `score_means`), metrics).
  """
  z_key, frames_key, augment_key = jax.random.split(key, 3)
  label = batch['label']
  z = jax.random.normal(z_key, (label.shape[0], spec.z_dim))
  real = to_float(batch['video'])
  context = real[:, : spec.context]
  fake = spec.gen.apply({'params': gen_weights}, z, label, context, train=True)
  video = interleave(real, jnp.concatenate([context, fake], axis=1))  # [2B, T, H, W, 3]
  video = augment.apply(augment.draw(augment_key, video.shape[0], video.shape[2], spec.augment), video)
  chosen = spec.context + choose_frames(frames_key, video.shape[0], fake.shape[1], spec.frames_k)
  inputs = {'frames': take_frames(video, chosen), 'video': video, 'label': interleave(label, label)}
  if spec.crop > 1:
    corners = choose_corners(jax.random.fold_in(frames_key, 1), video.shape[0], video.shape[2], spec.crop)
    inputs['video'] = take_squares(video, corners, spec.crop)
  weights, pullback, (u, sigmas) = _normalised(disc)

  gradient = functools.partial(jax.grad(functools.partial(disc_loss, spec, score_means), has_aux=True), weights)
  weight_grads, metrics = microbatches.mean(gradient, inputs, spec.microbatches, unroll=spec.unroll, group=2)
  grads = spec.replicate(pullback(weight_grads)[0])
  updates, opt_state = spec.disc_opt.update(grads, disc.opt_state, disc.params, step=step)
  metrics['disc_grad_norm'] = optax.tree.norm(grads)
  metrics['disc_sigma_max'], metrics['disc_sigma_min'] = spectral.extremes(sigmas)
  if spec.lecam:
    score_means = losses.moved_means(score_means, metrics)
  params = spec.replicate(optax.apply_updates(disc.params, updates))
  return (NetState(params, u, opt_state), score_means), metrics


def g_step(
  spec: StepSpec,
  gen: NetState,
  gen_weights: Tree,
  pullback: Any,
  disc: NetState,
  step: jax.Array,
  batch: Batch,
  key: jax.Array,
) -> tuple[NetState, Metrics]:
  """Updates the generator, with fresh z and the labels and context frames of the last D batch.

  `gen_weights` are `gen.params` after spectral norm; `pullback` maps a gradient of them to a gradient of `gen.params`.
  The new vectors of the discriminators' power iteration are discarded: the next D step starts from the same parameters
  and vectors, computes the same new ones, and stores them.
  """
  z_key, frames_key, augment_key = jax.random.split(key, 3)
  label, real = batch['label'], to_float(batch['video'])
  inputs = {
    'z': jax.random.normal(z_key, (label.shape[0], spec.z_dim)),
    'label': label,
    'context': real[:, : spec.context],
    'truth': real[:, spec.context :],  # XLA removes it if the loss does not use it
    'chosen': choose_frames(frames_key, label.shape[0], spec.gen.frames, spec.frames_k),
    'draws': augment.draw(augment_key, label.shape[0], real.shape[2], spec.augment),
  }
  if spec.crop > 1:
    inputs['corners'] = choose_corners(jax.random.fold_in(frames_key, 1), label.shape[0], real.shape[2], spec.crop)
  disc_weights, _, _ = spectral.normalise(disc.params, disc.spectral)

  truth_factor = optimizer.linear_decay(step, *spec.truth_decay)
  loss_fn = functools.partial(gen_loss, spec, disc_weights, truth_factor=truth_factor)
  gradient = functools.partial(jax.grad(loss_fn, has_aux=True), gen_weights)
  weight_grads, metrics = microbatches.mean(gradient, inputs, spec.microbatches, unroll=spec.unroll)
  grads = spec.replicate(pullback(weight_grads)[0])
  updates, opt_state = spec.gen_opt.update(grads, gen.opt_state, gen.params, step=step)
  metrics['gen_grad_norm'] = optax.tree.norm(grads)
  return gen._replace(params=spec.replicate(optax.apply_updates(gen.params, updates)), opt_state=opt_state), metrics


def ema_update(spec: StepSpec, step: jax.Array, ema: Tree, params: Tree) -> Tree:
  """Returns the EMA of G's parameters after the update of `step`; before `ema_start` it equals the parameters."""
  decay = jnp.where(step >= spec.ema_start, spec.ema_decay, 0.0)
  return jax.tree.map(lambda average, new: decay * average + (1 - decay) * new, ema, params)


def _normalised(net: NetState) -> tuple[Tree, Callable[[Tree], tuple[Tree]], tuple[Tree, Tree]]:
  """Returns (weights after spectral norm, pullback of their gradient, (updated vectors u, sigmas))."""

  def normalise(params):
    weights, u, sigmas = spectral.normalise(params, net.spectral)
    return weights, (u, sigmas)

  return jax.vjp(normalise, net.params, has_aux=True)
