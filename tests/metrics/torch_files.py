"""Writes the two PyTorch files that test_pickles.py reads (PyTorch 2.13; it is not among the tests' requirements).

python tests/metrics/torch_files.py tests/metrics
"""

import io
import pathlib
import sys
import zipfile

import torch


class Unit(torch.nn.Module):
  def __init__(self):
    super().__init__()
    self.conv3d = torch.nn.Conv3d(2, 3, (1, 2, 2), bias=False)
    self.batch3d = torch.nn.BatchNorm3d(3)

  def forward(self, x):
    return torch.relu(self.batch3d(self.conv3d(x)))


class Net(torch.nn.Module):
  def __init__(self):
    super().__init__()
    self.conv3d_1a_7x7 = Unit()
    self.branch_1 = torch.nn.Sequential(torch.nn.Identity(), Unit())
    self.sizes = [1, 2]

  def forward(self, x):
    return self.branch_1(x) + self.sizes[0]


def main(folder: str) -> None:
  net = Net().eval()
  for i, value in enumerate(net.state_dict().values()):
    value.copy_(torch.arange(value.numel()).reshape(value.shape) + 100 * i)
  state = dict(net.state_dict())
  state['strided'] = torch.arange(24.0).reshape(4, 6)[1:, ::2].t()
  state['half'] = torch.nn.Parameter(torch.arange(3).half())
  torch.save(state, pathlib.Path(folder) / 'torch_state.pt')
  script = io.BytesIO()
  torch.jit.save(torch.jit.script(net), script)
  with zipfile.ZipFile(script) as whole, zipfile.ZipFile(pathlib.Path(folder) / 'torch_script.pt', 'w') as without:
    for member in whole.infolist():
      if not member.filename.endswith('.debug_pkl'):  # paths of the machine at hand
        without.writestr(member, whole.read(member))


if __name__ == '__main__':
  main(sys.argv[1])
