"""The commands that the demo prints at its end. They work on what it leaves in its output."""

from __future__ import annotations

import shlex
from pathlib import Path

_QUESTION = """SELECT box.label, count(*) AS boxes, count(DISTINCT image_uri) AS images
FROM (SELECT image_uri, unnest(detections) AS box FROM '{scored}')
WHERE box.score >= 0.5 GROUP BY box.label ORDER BY boxes DESC"""


def next_steps(output: Path) -> dict[str, str]:
    """Give what to try next, and the command of a shell for each.

    Args:
        output: the --output of the demo, as it shall stand in the commands.
    """
    question = _QUESTION.replace("\n", " ").format(scored=output / "results/scored/*/*.parquet")
    again = output / "again"
    score = [
        "python",
        "jobs/score_bucket.py",
        f"--images={output / 'inbox'}",
        f"--checkpoint={output / 'model'}",
        f"--output={again}",
    ]
    report = ["python", "jobs/report.py", f"--scored={again}", f"--output={again / 'report.html'}"]
    first = next(path.name for path in sorted((output / "inbox").iterdir()))
    model, image = str(output / "model"), str(output / "inbox" / first)
    one = f"from pipeline import Detector; print(Detector({model!r})({image!r}).to_pandas())"
    return {
        "Score a folder (yours instead of inbox)": shlex.join(score),
        "Make its report": shlex.join(report),
        "Ask a question": shlex.join(
            ["python", "-c", f"import duckdb; duckdb.sql({question!r}).show()"]
        ),
        "Detect in Python": shlex.join(["python", "-c", one]),
    }
