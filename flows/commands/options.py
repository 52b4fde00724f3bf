"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from flows.console import Format


class Compiler(StrEnum):
    """How networks are compiled."""

    INDUCTOR = "inductor"
    CUDA_GRAPHS = "cuda-graphs"


class Where(StrEnum):
    """Where units are computed."""

    INLINE = "inline"
    PROCESSES = "processes"
    RAY = "ray"


Root = Annotated[
    str | None,
    typer.Option("--root", help="Storage root: a folder or s3://bucket/prefix.", envvar="ERASURE_AUDIT_ROOT"),
]
Database = Annotated[str | None, typer.Option("--database", help="Path of the DuckDB index (default: <root>/db).")]
Reports = Annotated[str | None, typer.Option("--reports", help="Folder for the reports.")]
Device = Annotated[str | None, typer.Option("--device", help="torch device, such as cpu or cuda:1.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Pictures per model call.")]
Compile = Annotated[
    Compiler | None,
    typer.Option(
        "--compile",
        envvar="ERASURE_AUDIT_COMPILE",
        help="Compile networks (torch.compile): minutes at first, then quicker. cuda-graphs also records GPU launches.",
    ),
]
GpuSlot = Annotated[
    str | None,
    typer.Option("--gpu-slot", envvar="ERASURE_AUDIT_GPU_SLOT", help="Prefect concurrency limit that each unit holds."),
]
Runner = Annotated[
    Where,
    typer.Option(
        "--runner",
        envvar="ERASURE_AUDIT_RUNNER",
        help="Where units are computed: in this process, in several of this machine, or on a Ray cluster.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster, such as ray://head-node:10001 (default: ERASURE_AUDIT_RAY_ADDRESS)."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes of --runner processes (default: one for each GPU, or core)."),
]
CpusPerUnit = Annotated[float, typer.Option("--cpus-per-unit", min=0.01, help="CPUs that Ray reserves for a unit.")]
GpusPerUnit = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-unit", min=0.0, help="GPUs that Ray reserves for a unit (default: 1 where nodes have some)."
    ),
]
ShareWeights = Annotated[
    bool,
    typer.Option(
        "--share-weights", help="Copy the run's local model files to the storage root, for nodes that lack them."
    ),
]
ShowSensitive = Annotated[
    bool, typer.Option("--show-sensitive", help="Show sensitive pictures unblurred in the HTML report.")
]
OutputFormat = Annotated[Format, typer.Option("--format", help="How the result is printed.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; the same as --format json.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Prefect's log lines.")]
ExitZero = Annotated[bool, typer.Option("--exit-zero", help="Exit 0 when the audit ran, whatever the verdict.")]
Notify = Annotated[
    list[str] | None,
    typer.Option("--notify", help="Apprise URL that is told how it ended (default: ERASURE_AUDIT_NOTIFY); repeatable."),
]
Margin = Annotated[
    float | None,
    typer.Option("--margin", help="Share of cases that may have come back and still be no regression (default: 0.05)."),
]
NotifyShut = Annotated[bool, typer.Option("--notify-shut", help="Tell only of a gate that is shut, or of no verdict.")]
