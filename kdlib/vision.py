"""torchvision, with any build of torch: kdlib imports it from here only.

torchvision's wheel is built for CUDA. Beside a CPU build of torch its compiled operators cannot be
loaded, and importing it fails where it describes two of them to torch. Declaring these two is
enough for models, data sets and transforms; where the operators load, nothing is declared.
"""

from __future__ import annotations

import sys

import torch

try:
    import torchvision
except RuntimeError:
    for _name in list(sys.modules):
        if _name.split(".")[0] == "torchvision":
            del sys.modules[_name]  # half imported
    _operators = torch.library.Library("torchvision", "DEF")  # declared as long as it is referenced
    _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
