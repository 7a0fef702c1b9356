"""Teachers' folders with random weights, written by timm itself, for tests of what reads them."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn


def timm_folder(folder: Path, classes: int = 4, model: str = "test_resnet", **config: Any) -> nn.Module:
    """Write a classifier in timm's local-dir form; returns it in evaluation mode.

    Its BatchNorm statistics are those of some data, so that train and evaluation mode differ.
    """
    network = timm.create_model(model, num_classes=classes)
    network.train()
    with torch.no_grad():
        network(torch.rand(16, 3, 64, 64) * 3)
    cfg = {key: network.pretrained_cfg[key] for key in ("mean", "std", "interpolation", "classifier")}
    cfg |= {"input_size": (3, 64, 64), "num_classes": classes}
    save_for_hf(network, str(folder), model_config={"pretrained_cfg": cfg, **config}, safe_serialization=True)
    return network.eval()


def edit_config(folder: Path, **entries: Any) -> None:
    """Change top-level entries of a config.json; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
