"""Checks the Markdown pages: their lengths, links and names of files."""

import re
import subprocess

import pytest

from tests.conftest import ROOT

NAMES = subprocess.run(['git', 'ls-files', '*.md'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
FOLDERS = ('dvd_gan/', 'launch/')


@pytest.mark.parametrize('name', NAMES)
def test_relative_links_in_markdown_pages_lead_to_existing_files(name):
  text = (ROOT / name).read_text()
  targets = re.findall(r'\]\(([^)\s]+)\)', text)
  local = [target.partition('#')[0] for target in targets if '://' not in target and not target.startswith('#')]
  missing = [target for target in local if not ((ROOT / name).parent / target).exists()]
  assert not missing


def test_markdown_pages_do_not_exceed_their_length_limits():
  lengths = {name: len((ROOT / name).read_text().splitlines()) for name in NAMES}
  assert lengths['README.md'] <= 160
  pages = [name for name in NAMES if name.startswith(FOLDERS) or name == 'results/README.md']
  assert not {name: lengths[name] for name in pages if lengths[name] > 120}


@pytest.mark.parametrize('name', NAMES)
def test_project_files_named_in_markdown_pages_exist(name):
  """Covers paths that begin with `dvd_gan/`, `configs/`, `launch/`, `results/` or `tests/`."""
  text = (ROOT / name).read_text()
  named = set(
    re.findall(r'(?<![\w/.])((?:dvd_gan|configs|launch|results|tests)/[\w/]+\.(?:py|sh|md|json|txt))\b', text)
  )
  assert not [
    path for path in named if not (ROOT / path).exists() and path != 'configs/FILE.py' and path != 'configs/CONFIG.py'
  ]
