"""Which language is a text in? CLDR's real names of the world, and a small transformer.

The model and its tokenizer were made by `train.py` from the names that the bundled data leave
over; nothing here needs torch.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
MODEL = "transformer.onnx"
MODELS = (MODEL,)
