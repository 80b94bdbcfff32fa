"""The progress line of `--mode=prepare`."""

import os
import time

import tqdm


class Progress:
  """A line with the share done, the rate, the time left and the rejects."""

  def __init__(self, title: str):
    self._rejects = self._clips = 0
    # In a log every line stays: one in half a minute is enough.
    self._bar = tqdm.tqdm(
      total=1.0,
      desc=title,
      mininterval=0.5 if os.isatty(2) else 30.0,
      bar_format='{desc}: {percentage:3.0f}% {postfix} [{elapsed}, {remaining} left]',
    )
    self._start = time.monotonic()

  def show(self, share: float, rejected: bool) -> None:
    """One more clip is settled."""
    self._clips += 1
    self._rejects += rejected
    rate = self._clips / max(time.monotonic() - self._start, 1e-9)
    self._bar.set_postfix_str(f'{self._clips} files, {rate:.1f} a second, {self._rejects} rejected', refresh=False)
    self._bar.update(max(share - self._bar.n, 0.0))

  def close(self) -> None:
    """Ends the line."""
    self._bar.close()
