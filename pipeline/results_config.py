"""What the jobs that read results can be told: compact, report, export. As in `pipeline.config`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import check_above_zero


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactConfig:
    """Flags of `jobs/compact.py`."""

    scored: str
    """The --output of a scoring run (or its scored/<run_id> folder)."""
    output: str
    """Where detections/<run_id>.parquet goes; mostly the same as --scored."""
    run_id: str | None = None
    """Only this run; by default each one gets its table."""
    memory_gib: float = 2.0
    """What sorting may hold in memory, beside the job's own 400 MB; the rest goes to --temp-folder."""
    temp_folder: str | None = None
    """A folder of this machine with room to sort, some 150 bytes a box; by default the system's."""
    dry_run: bool = False
    """Print what would be made of what; write nothing."""

    def __post_init__(self) -> None:
        check_above_zero(self, "memory_gib")
