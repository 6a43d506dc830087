"""An image classifier: a ResNet on a folder of PNG files, one subfolder a class.

    python docs/examples/vision.py OUTDIR

The layers are those of torchvision's ResNets, with a small stem and fewer channels, and its usual
preprocessing: resize, centre crop, scale, ImageNet's mean and standard deviation. The images are
scikit-learn's digits, written as files. OUTDIR keeps the policy, the images and the model.

Needs `pip install 'int8-gate[torch]' scikit-learn`, and half a minute.
"""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from gate import run_gate
from gate.examples.digits.train import splits

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZED, CROPPED, EPOCHS = 36, 32, 12
POLICY = """\
version: 1
model: digits-resnet
task: classification
build:
  recipe: static
  calibration: {{path: images/calibration, format: image_folder}}
  preprocess:                           # torchvision's usual transform, as data
    color: RGB
    resize: {{shortest: 36}}
    crop: [32, 32]
    scale: 0.00392156862745098          # bytes to 0..1
    mean: [0.485, 0.456, 0.406]
    std: [0.229, 0.224, 0.225]
  classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]    # in the order of the outputs
judge:
  held_out: {{path: images/held_out, format: image_folder}}
  expect_fp32: {{accuracy: {accuracy:.4f}, within: 0.005}}
  budgets:
    - {{metric: accuracy, max_drop: 0.01}}
    - {{metric: accuracy, max_drop: 0.05, each: target}}
    - {{metric: size, max_ratio: 0.35}}
    - {{metric: int8_share, at_least: 0.9}}
"""


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016, "Deep Residual Learning")."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        """From `inner` to `outer` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        found = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(found + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """(N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        """Three stages of `width`, twice and four times as many channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) -> (N, 10)."""
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def save(folder: Path, data: dict[str, np.ndarray]) -> None:
    """A PNG an image, in a subfolder of its class."""
    for image, target, name in zip(data["image"], data["target"], data["id"], strict=True):
        (folder / str(target)).mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(np.round(image[0] * 255).astype(np.uint8))
        grey.save(folder / str(target) / f"{name}.png")


def transform(path: Path) -> torch.Tensor:
    """What torchvision does: Resize(36), CenterCrop(32), ToTensor, Normalize. (3, 32, 32)."""
    image = Image.open(path).convert("RGB")
    image = image.resize((RESIZED, RESIZED), Image.Resampling.BILINEAR)
    edge = (RESIZED - CROPPED) // 2
    image = image.crop((edge, edge, edge + CROPPED, edge + CROPPED))
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def loaded(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 32, 32) and classes (N,)."""
    files = sorted(folder.glob("*/*.png"))
    classes = torch.tensor([int(file.parent.name) for file in files])
    return torch.stack([transform(file) for file in files]), classes


def fit(model: nn.Module, image: torch.Tensor, target: torch.Tensor) -> None:
    """An ordinary training loop."""
    steps = EPOCHS * -(-len(image) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(image)).split(32):
            up, right = torch.randint(-3, 4, (2,)).tolist()
            moved = torch.roll(image[rows], (up, right), dims=(2, 3))
            loss = nn.functional.cross_entropy(model(moved), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def accuracy(model: nn.Module, image: torch.Tensor, target: torch.Tensor) -> float:
    """The share of right answers."""
    with torch.no_grad():
        answers = torch.cat([model(part).argmax(1) for part in image.split(200)])
    return float((answers == target).float().mean())


def export(model: nn.Module, path: Path) -> None:
    """ONNX with a free batch."""
    logging.getLogger("torch").setLevel(logging.ERROR)  # it warns of torchvision
    shown: Any = torch.zeros(2, 3, CROPPED, CROPPED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        torch.onnx.export(
            model,
            (shown,),
            path,
            dynamo=True,
            external_data=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )


def main(folder: Path) -> int:
    """The gate's exit code."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, columns in splits().items():
        save(folder / "images" / name, columns)
    model = ResNet()
    fit(model, *loaded(folder / "images" / "train"))
    export(model, folder / "resnet.onnx")
    reached = accuracy(model, *loaded(folder / "images" / "held_out"))
    policy = folder / "policy.yaml"
    policy.write_text(POLICY.format(accuracy=reached))
    run = run_gate(policy, folder / "resnet.onnx", out=folder / "run", tracker="none")
    found = next(one for one in run.record.comparisons if one.metric == "accuracy")
    told = f"accuracy FP32 {found.reference:.3f}, INT8 {found.int8:.3f}"
    print(f"{run.verdict.outcome.upper()}  {told}, exit code {run.exit_code}")
    return run.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if sys.argv[1:] else "usage: python vision.py OUTDIR")
