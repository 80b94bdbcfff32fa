"""The hinge losses (Lim & Ye 2017; paper.md, discriminators), and a term of small prediction runs that is ours."""

import jax
import jax.numpy as jnp

Scores = dict[str, jax.Array]  # {'spatial': [B], 'temporal': [B]}, or one of them (config.disc.parts)


def hinge_disc(real: Scores, fake: Scores) -> dict[str, jax.Array]:
  """Each discriminator's loss, mean over the batch of relu(1 - D(x)) + relu(1 + D(G(z)))."""
  return {name: jnp.mean(jax.nn.relu(1 - real[name])) + jnp.mean(jax.nn.relu(1 + fake[name])) for name in real}


def hinge_gen(fake: Scores) -> dict[str, jax.Array]:
  """The generator's loss against each discriminator, mean over the batch of -D(G(z))."""
  return {name: -jnp.mean(score) for name, score in fake.items()}


def squared_error(video: jax.Array, truth: jax.Array) -> jax.Array:
  """Mean over all of two f32 arrays of one shape, [B, T, H, W, 3] in [-1, 1]."""
  return jnp.mean(jnp.square(video - truth))
