"""What the metadata of a dataset declare, for one whose data and videos are not here yet."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from vla_cl.data.cameras import Pairs
from vla_cl.data.dataset_folder import DatasetFolder, spec_of
from vla_cl.data.preflight import DatasetReport, described
from vla_cl.data.source import Source


class DeclaredDataset(DatasetFolder):
    """A dataset as its metadata declare it; the same is looked up in the files once they are here."""

    @cached_property
    def instructions(self) -> dict[int, str]:
        """Task number to instruction, as the task table has them; some may turn out to have no frames."""
        return {number: text for number, text in self.tasks.items() if text.strip()}

    @property
    def tells_sizes(self) -> bool:
        """Whether the size of every camera's pictures is declared."""
        return all(feature.sizes or feature.depth for feature in self._camera_features.values())

    @cached_property
    def _looks(self) -> dict[str, tuple[tuple[int, int], str | None]]:
        return {
            key: (feature.sizes[0] if feature.sizes else (0, 0), "it is a map of distances" if feature.depth else None)
            for key, feature in self._camera_features.items()
        }


def tell_sizes(roots: Iterable[Path]) -> bool:
    """Whether all these datasets declare the sizes of their pictures."""
    return all(DeclaredDataset(root).tells_sizes for root in roots)


def declared_report(root: Path, cameras: Pairs | None = None) -> DatasetReport:
    """What `vla_cl.data.preflight.inspect_dataset` will find if the metadata are right.

    Args:
        root: Folder with the metadata of a LeRobotDataset v3.
        cameras: As of `vla_cl.data.preflight.inspect_dataset`.

    Raises:
        ConfigurationError: The metadata are wrong, or contradict each other.
    """
    folder = DeclaredDataset(root)
    folder.require_episodes()
    spec = spec_of(Source(root, cameras=cameras), folder)
    frames = int(folder.info["total_frames"])
    pixels = sum(height * width for height, width in spec.cameras.values())
    return described(folder, spec, frames, 3 * pixels * frames)
