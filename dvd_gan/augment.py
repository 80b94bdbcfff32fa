"""DiffAugment for clips (Zhao et al. 2020): differentiable random augmentations, with one draw per clip.

Both real and generated clips are augmented before the discriminators. The discriminators then cannot memorise a small
training set, and G does not learn to generate augmented clips. The ranges are those of the authors' code. Sharing a
draw among a clip's frames is ours: a draw for each frame would look like motion.
"""

import jax
import jax.numpy as jnp

Draws = dict[str, jax.Array]  # random parameters for B clips; each array is [B, ...]

KINDS = ('colour', 'translation', 'cutout')
SHIFT = 1 / 8  # largest translation, as a fraction of the side
CUTOUT = 1 / 2  # side of the blanked square, as a fraction of the clip's side


def draw(key: jax.Array, count: int, size: int, kinds: tuple[str, ...]) -> Draws:
  """Draws the random parameters of the augmentations for `count` clips.

  Args:
    key: a PRNG key.
    count: B.
    size: height and width of the clips in pixels.
    kinds: a subset of KINDS; if it is empty, so is the result, and `apply` returns its clips unchanged.

  Returns:
    'colour' f32 [B, 3], brightness offset, saturation factor and contrast factor; 'translation' int32 [B, 2], pixels
    down and to the right; 'cutout' int32 [B, 2], the square's first row and column, which may be negative.
  """
  keys = dict(zip(KINDS, jax.random.split(key, len(KINDS)), strict=True))
  shift, side = round(size * SHIFT), round(size * CUTOUT)
  draws = {
    'colour': jax.random.uniform(keys['colour'], (count, 3)) * jnp.array([1.0, 2.0, 1.0]) + jnp.array([-0.5, 0.0, 0.5]),
    'translation': jax.random.randint(keys['translation'], (count, 2), -shift, shift + 1),
    # The centre of the square may be any pixel, so the square may extend beyond the edge.
    'cutout': jax.random.randint(keys['cutout'], (count, 2), 0, size + 1 - side % 2) - side // 2,
  }
  return {kind: draws[kind] for kind in KINDS if kind in kinds}


def apply(draws: Draws, video: jax.Array) -> jax.Array:
  """Augments clips, all frames of a clip in the same way.

  Args:
    draws: from `draw`, for B clips.
    video: f32 [B, T, H, W, 3] in [-1, 1], H = W.

  Returns:
    f32 [B, T, H, W, 3]. Pixels that are shifted in or blanked are 0, mid-grey. Colours may leave [-1, 1].
  """
  if 'colour' in draws:
    brightness, saturation, contrast = (draws['colour'][:, i, None, None, None, None] for i in range(3))
    video = video + brightness
    grey = video.mean(-1, keepdims=True)
    video = grey + saturation * (video - grey)
    mean = video.mean((1, 2, 3, 4), keepdims=True)
    video = mean + contrast * (video - mean)
  pixel = jnp.arange(video.shape[2])
  if 'translation' in draws:
    # Products with shifted identity matrices: the gradient of a gather would be a scatter, slow on TPUs and CPUs.
    shifts = jax.nn.one_hot(pixel - draws['translation'][..., None], len(pixel))  # [B, 2, H, H]
    exact = jax.lax.Precision.HIGHEST
    video = jnp.einsum('bij,btjwc->btiwc', shifts[:, 0], video, precision=exact)
    video = jnp.einsum('bij,bthjc->bthic', shifts[:, 1], video, precision=exact)
  if 'cutout' in draws:
    from_corner = pixel - draws['cutout'][..., None]  # [B, 2, H]
    inside = (0 <= from_corner) & (from_corner < round(len(pixel) * CUTOUT))
    square = inside[:, 0, :, None] & inside[:, 1, None, :]  # [B, H, W]
    video = jnp.where(square[:, None, :, :, None], 0.0, video)
  return video
