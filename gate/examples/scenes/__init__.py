"""Which digits are where? Scikit-learn's real digits placed in scenes, and a small detector.

The model was made by `train.py` from digits that the bundled scenes do not show; nothing here
needs torch.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
MODEL = "detector.onnx"
MODELS = (MODEL,)
