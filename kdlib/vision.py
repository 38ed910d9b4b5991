"""torchvision, also beside a torch without CUDA: every use of it goes through here.

Its wheel is built for CUDA. Beside a CPU build of torch its compiled operators cannot be
loaded, and the import stops at the first one that is only described in Python. Declaring those
two is enough for models, data sets and transforms; where the real operators load, nothing is
declared.
"""

from __future__ import annotations

import sys

import torch

try:
    import torchvision
except RuntimeError:
    for _name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[_name]  # half imported
    _operators = torch.library.Library("torchvision", "DEF")  # has to stay alive
    _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
