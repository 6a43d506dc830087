"""Scikit-learn's real handwritten digits, a small CNN trained on them, and three ways to spoil it.

The models ship as ONNX beside this file and the data beside the policies that use them, so that
nothing here needs torch; `train.py` made both, and makes them again.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
MODELS = ("cnn.onnx", "wide-range.onnx", "subgraph.onnx")
