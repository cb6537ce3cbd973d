#!/usr/bin/env python3
"""python jobs/score_bucket.py --images s3://bucket/photos --checkpoint URI --output URI

ray job submit --working-dir . -- python jobs/score_bucket.py --images ... (on a cluster)

ray job submit --working-dir . -- jobs/score_bucket.py --images ... (the same)

ray job submit -- jobs/score_bucket.py --images ... (on a cluster started in the checkout)

Scores every image of a prefix, a glob or a manifest (.txt, .csv, .parquet of URIs) on Ray Data actors and
writes one row an image to OUTPUT/scored/<run_id>/*.parquet: boxes, or a status that says why there are
none. Run the same command again and it continues, or scores what is new or changed since. Another
checkpoint stands beside it.

A prefix takes the objects whose names end in an image suffix (whatever the case) and counts the others; a
glob takes what it matches; a manifest every URI it names. URIs are local paths or any fsspec URL; S3
endpoint, region and credentials come from the AWS variables on every worker.

Exit code 0: done, broken images are rows. 1: failed, run it again. 2: yours to mend, said in one line.
"""

import sys
from pathlib import Path

# `ray job submit jobs/score_bucket.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli import main  # noqa: E402
from pipeline.config import ScoreConfig  # noqa: E402
from pipeline.score import run  # noqa: E402

if __name__ == "__main__":
    main(ScoreConfig, run, __doc__ or "")
