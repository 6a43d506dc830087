"""The door `formats`, by plugin: a folder with one `.npy` file a column."""

import numpy as np

from gate.errors import DataError


class NpyFolder:
    """`{path: held_out, format: npy_folder}` reads held_out/image.npy, held_out/target.npy, …"""

    key = "npy_folder"
    suffixes = ()  # folders have none, so the policy writes `format:`

    def read(self, path, scratch):  # noqa: ARG002 - for what has to be unpacked
        """Columns by name, first axis N."""
        files = sorted(path.glob("*.npy"))
        if not files:
            raise DataError(f"{path} holds no .npy file")
        try:  # mapped, not read; what is pickled is never loaded
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error

    def columns(self, path):
        """Their shapes."""
        return {name: column.shape for name, column in self.read(path, path).items()}


FORMATS = {"npy_folder": NpyFolder()}
