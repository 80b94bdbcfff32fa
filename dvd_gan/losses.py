"""The hinge losses (Lim & Ye 2017), and two terms not in the paper: LeCam regularisation and a squared error."""

import jax
import jax.numpy as jnp

LECAM_DECAY = 0.99  # decay of the moving averages per D step (Tseng et al. 2021)
Scores = dict[str, jax.Array]  # {'spatial': [B], 'temporal': [B]}, or only one of the two (config.disc.parts)


def hinge_disc(real: Scores, fake: Scores) -> dict[str, jax.Array]:
  """Each discriminator's loss, mean over the batch of relu(1 - D(x)) + relu(1 + D(G(z)))."""
  return {name: jnp.mean(jax.nn.relu(1 - real[name])) + jnp.mean(jax.nn.relu(1 + fake[name])) for name in real}


def hinge_gen(fake: Scores) -> dict[str, jax.Array]:
  """The generator's loss against each discriminator, mean over the batch of -D(G(z))."""
  return {name: -jnp.mean(score) for name, score in fake.items()}


def squared_error(video: jax.Array, truth: jax.Array) -> jax.Array:
  """Mean squared error between two f32 videos [B, T, H, W, 3] in [-1, 1]; f32 scalar."""
  return jnp.mean(jnp.square(video - truth))


def lecam(real: Scores, fake: Scores, means: dict[str, dict[str, jax.Array]]) -> jax.Array:
  """LeCam regularisation (Tseng et al. 2021), summed over the discriminators; f32 scalar.

  Penalises real scores above the moving average of fake scores, and fake scores below the moving average of real
  scores. This keeps the gap between the two small when training data are limited.

  Args:
    real, fake: scores of this batch.
    means: `TrainState.score_means`.
  """
  return sum(
    jnp.mean(jax.nn.relu(real[name] - means['fake'][name]) ** 2)
    + jnp.mean(jax.nn.relu(means['real'][name] - fake[name]) ** 2)
    for name in real
  )


def moved_means(
  means: dict[str, dict[str, jax.Array]], metrics: dict[str, jax.Array]
) -> dict[str, dict[str, jax.Array]]:
  """Updates the moving averages of scores with the metrics of one D step."""
  return {
    side: {
      name: LECAM_DECAY * mean + (1 - LECAM_DECAY) * metrics[f'score_{side}_{name}'] for name, mean in parts.items()
    }
    for side, parts in means.items()
  }
