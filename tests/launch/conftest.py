import shutil

import pytest

from tests.conftest import ROOT
from tests.launch.cloud import Cloud, commit, git


@pytest.fixture(scope='session')
def project(tmp_path_factory):
  """A git repository with the files of the project that the scripts need."""
  project = tmp_path_factory.mktemp('clone')
  git(project, 'init', '--quiet')
  shutil.copytree(ROOT / 'launch', project / 'launch')
  shutil.copy(ROOT / 'setup.py', project)
  commit(project)
  return project


@pytest.fixture
def cloud(tmp_path, project):
  cloud = Cloud(tmp_path, project)
  yield cloud
  cloud.close()
