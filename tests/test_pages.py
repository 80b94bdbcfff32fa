"""The pages: short enough to be read, and their links lead somewhere."""

import re
import subprocess

import pytest

from tests.conftest import ROOT

NAMES = subprocess.run(['git', 'ls-files', '*.md'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
FOLDERS = ('dvd_gan/', 'launch/')


@pytest.mark.parametrize('name', NAMES)
def test_links_lead_to_files(name):
  text = (ROOT / name).read_text()
  targets = re.findall(r'\]\(([^)\s]+)\)', text)
  local = [target.partition('#')[0] for target in targets if '://' not in target and not target.startswith('#')]
  missing = [target for target in local if not ((ROOT / name).parent / target).exists()]
  assert not missing


def test_pages_are_short():
  lengths = {name: len((ROOT / name).read_text().splitlines()) for name in NAMES}
  assert lengths['README.md'] <= 160
  pages = [name for name in NAMES if name.startswith(FOLDERS) or name == 'results/README.md']
  assert not {name: lengths[name] for name in pages if lengths[name] > 120}


@pytest.mark.parametrize('name', NAMES)
def test_files_that_pages_name_are_there(name):
  """`dvd_gan/...`, `configs/...`, `launch/...`, `results/...` and `tests/...` in code marks or commands."""
  text = (ROOT / name).read_text()
  named = set(
    re.findall(r'(?<![\w/.])((?:dvd_gan|configs|launch|results|tests)/[\w/]+\.(?:py|sh|md|json|txt))\b', text)
  )
  assert not [
    path for path in named if not (ROOT / path).exists() and path != 'configs/FILE.py' and path != 'configs/CONFIG.py'
  ]
