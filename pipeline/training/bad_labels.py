"""Reports bad labels: in the log, in the file of --report, or as the error that refuses the run."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Sequence

from pipeline import storage
from pipeline.annotations.labelled import BadLabel
from pipeline.annotations.rules import refuse
from pipeline.config import TrainConfig

logger = logging.getLogger(__name__)

_SHOWN = 20
"""Bad labels in the log of a training. A dry run lists all."""


def check_bad_labels(
    config: TrainConfig, bad: Sequence[BadLabel], before: Sequence[BadLabel] = ()
) -> None:
    """Log bad labels and write them to --report.

    Args:
        config: gives --on-bad-label, --report and --dry-run.
        bad: the labels.
        before: bad labels that were logged before; the report holds them too.

    Raises:
        UserError: there is a bad label, and --on-bad-label is `refuse`.
    """
    refused = config.on_bad_label == "refuse"
    if config.report is not None:
        with storage.driver_errors(config.report):
            storage.write_bytes(config.report, _as_csv([*before, *bad], refused))
    if not bad:
        return
    if refused:
        error = refuse(bad)
        if config.dry_run and error.cut_short:
            for one in bad:
                logger.warning("%s", one.text)
        raise error
    counts = Counter(one.done for one in bad)
    done = ", ".join(f"{count} {done}" for done, count in counts.most_common())
    files = len({one.annotation_uri for one in bad})
    logger.warning("%d bad labels in %d files: %s", len(bad), files, done)
    shown = bad if config.dry_run else bad[:_SHOWN]
    for one in shown:
        logger.warning("%s; %s", one.text, one.done)
    if len(shown) < len(bad):
        logger.warning("... and %d more bad labels; --report FILE lists all", len(bad) - len(shown))


def _as_csv(bad: Sequence[BadLabel], refused: bool) -> bytes:
    """Write one line a bad label, below the names of the columns."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(("file", "place", "problem", "done", "advice"))
    for one in bad:
        done = "refused" if refused else one.done
        writer.writerow((one.annotation_uri, one.where, one.reason, done, one.error.args[2]))
    return sink.getvalue().encode()
