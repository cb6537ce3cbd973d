"""run.json: the flags an output was made with, so that another run is not mistaken for it."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any, cast

from pipeline import storage
from pipeline.errors import UserError


def claim_output(config: Any, free: Collection[str]) -> None:
    """Write run.json under `config.output`, unless it is there.

    Args:
        config: a job's dataclass with a field `output`.
        free: fields that may differ between a run and its continuation; `output` may anyway.

    Raises:
        UserError: the output is another run's.
    """
    data = json.dumps(_flags(config, free), indent=2).encode()
    if not storage.create_bytes(storage.join(config.output, "run.json"), data):
        check_same_run(config, free)


def check_same_run(config: Any, free: Collection[str]) -> None:
    """Raises UserError where `config.output` holds a run with other flags."""
    uri = storage.join(config.output, "run.json")
    if not storage.exists(uri):
        return
    there, flags = read_object(uri), _flags(config, free)
    changed = sorted(k for k in flags | there if flags.get(k) != there.get(k))
    if changed:
        listed = ", ".join(f"{k} was {there.get(k)!r}, is {flags.get(k)!r}" for k in changed)
        raise UserError(
            f"--output {config.output}",
            f"holds another run ({listed})",
            "Give another --output, or the same flags to resume that run.",
        )


def read_object(uri: str) -> dict[str, Any]:
    """A JSON object of an earlier run. Raises UserError."""
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        there = json.loads(data)
    except ValueError as error:
        raise UserError(uri, f"is not JSON ({error})", "Give another --output.") from error
    if not isinstance(there, dict):
        raise UserError(uri, "is no JSON object", "Give another --output.")
    return there


def _flags(config: Any, free: Collection[str]) -> dict[str, Any]:
    flags = {k: v for k, v in asdict(config).items() if k not in free and k != "output"}
    return cast(dict[str, Any], json.loads(json.dumps(flags)))  # as it reads back
