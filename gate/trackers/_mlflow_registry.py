"""MLflow's model registry: versions, the aliases that name them, and what was written down."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gate.registered import Bridge, Move, Version
from gate.trackers import _mlflow_bridges as bridges
from gate.trackers import _mlflow_content as content
from gate.trackers import _mlflow_experiments as experiments
from gate.trackers import _mlflow_moves as moves
from gate.trackers import _mlflow_sql as sql
from gate.trackers import _mlflow_store as store
from gate.trackers import _mlflow_versions as versions


class MlflowRegistry:
    """Releases as versions of `<model>-int8`; moves and bridges as runs of the model.

    Every method raises `TrackerError` where the store refuses or cannot be reached.
    """

    def versions(self, name: str) -> Sequence[Version]:
        """Of a registered model, oldest first; none where there is no such model.

        A version that MLflow does not call ready has one tag, `status`, and no other.
        """
        place = store.locate()
        if place.missing:
            return ()
        with store.opened(place) as client:
            return versions.every(client, name)

    def find(
        self, name: str, *, version: str | None = None, alias: str | None = None
    ) -> Version | None:
        """The version of that number, or that the alias names; None where there is none.

        Raises:
            UsageError: nothing can have that alias.
        """
        if (version is None) == (alias is None):
            raise ValueError("find() takes either a version or an alias")
        if alias is not None:
            moves.demand_alias(alias)
        place = store.locate()
        if place.missing:
            return None
        with sql.reading(place) as tables:
            if tables is not None and alias is not None:
                return versions.in_tables(tables, name, alias)
        with store.opened(place) as client:
            if version is not None:
                return versions.numbered(client, name, version)
            return versions.aliased(client, name, str(alias))

    def fetch(self, version: Version, folder: Path) -> Path:
        """Copy a version's INT8 ONNX file, and its external data, into an empty folder.

        Returns the ONNX file. Whether it is what was judged is for the caller to prove.
        """
        place = store.locate()
        with store.opened(place) as client:
            return versions.fetch(client, place, version, folder)

    def move(self, move: Move) -> None:
        """Point `move.alias` at `move.version`, and write down that it was done, and by whom.

        The same move again completes what was cut short, and changes nothing where it was done.

        MLflow has no compare-and-set. A sqlite store is read and written under its file lock, so
        of two gates that move the same alias at once one is refused; who uses MLflow without the
        gate takes no lock. Elsewhere, and where `MLFLOW_REGISTRY_URI` names another store than the
        runs', a claim, kept as a tag of the registered model, does the
        same as far as it goes: the alias and the claim are read again right before the alias is
        set, and the alias once more after it. Two gates can both succeed only where the second
        read the tags before the first wrote its claim and wrote its own after the first had read
        for the last time; then the last one wins, and the other finds out when it reads back
        what it set. A claim is stale after 60 s by the clock of who reads it.

        Raises:
            UsageError: nothing can have that alias.
            TrackerError: the alias does not name `move.previous` any more, the version is gone,
                or another move is under way; the alias is where it was.
        """
        place = store.locate()
        with store.opened(place) as client:
            moves.move(client, place, move)

    def moves(self, model: str) -> Sequence[Move]:
        """Every move of an alias of a policy's model that was written down, oldest first."""
        with sql.reading(store.locate()) as tables:
            if tables is not None:
                experiment = tables.experiment(f"{experiments.FOLDER}{model}")
                return () if experiment is None else moves.in_tables(tables, experiment, model)
        with experiments.kept(model) as found:
            return () if found is None else moves.every(*found, model)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set the gate's own tags of a version, given without their prefix."""
        with store.opened(store.locate()) as client:
            for key, value in tags.items():
                client.set_model_version_tag(
                    version.name,
                    version.version,
                    f"{content.PREFIX}{key}",
                    content.shortened(value, content.LONGEST_TAG),
                )

    def keep_bridge(self, bridge: Bridge, folder: Path) -> str:
        """Keep a bridge with the row files that it names, which lie in `folder`; its run's id.

        The same bridge again returns the same run.
        """
        files = bridges.gathered(bridge, folder)
        place = store.locate()
        with store.opened(place) as client:
            return bridges.keep(client, place, bridge, files)

    def bridges(self, model: str) -> Sequence[tuple[str, Bridge]]:
        """A policy's model's bridges with the ids of their runs, newest first.

        Raises:
            RecordError: one is damaged.
        """
        with sql.reading(store.locate()) as tables:
            if tables is not None:
                experiment = tables.experiment(f"{experiments.FOLDER}{model}")
                if experiment is None or not bridges.is_any(tables, experiment):
                    return ()
        with experiments.kept(model) as found:
            return () if found is None else bridges.every(*found)
