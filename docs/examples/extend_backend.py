"""The door `backends`, by entry point: ONNX's reference implementation, in numpy, as an oracle."""

from onnx.reference import ReferenceEvaluator

from gate import backends
from gate.errors import EvaluationError


class Oracle:
    """Runs models by the letter of the ONNX standard; all else is ONNX Runtime's."""

    key = "oracle"

    def __getattr__(self, name):
        """What it does not do itself."""
        return getattr(backends.get("onnxruntime"), name)

    def open(self, model, *, threads):
        """A model as `gate.backends.Runner`."""
        return Evaluated(model, backends.get("onnxruntime").open(model, threads=threads))


class Evaluated:
    """A model, loaded: `inputs` and `outputs` as the runtime tells them, and `run`."""

    def __init__(self, model, runner):
        """Of an ONNX file, with what the runtime tells of it."""
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self._evaluator = ReferenceEvaluator(str(model))

    def run(self, feeds):
        """Outputs by name."""
        names = [output.name for output in self.outputs]
        try:
            return dict(zip(names, self._evaluator.run(names, dict(feeds)), strict=True))
        except Exception as error:
            raise EvaluationError(f"the reference implementation failed: {error}") from error


BACKEND = Oracle()
