"""One unit's Parquet file: its columns by kind, its header, its bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from audit.files import Document

_ROW = [pa.field("status", pa.string(), nullable=False), pa.field("error", pa.string())]
_SCORE = pa.struct([("label", pa.string()), *((name, pa.float64()) for name in ("score", "x", "y", "w", "h"))])

SCHEMAS: Mapping[str, pa.Schema] = {
    "erase": pa.schema([pa.field("artefact", pa.string(), nullable=False), *_ROW, ("facts", pa.string())]),
    "attack": pa.schema(
        [
            pa.field("item", pa.string(), nullable=False),
            *_ROW,
            ("prompt", pa.string()),  # what was found, where it is text; tensors lie in the unit's blob by item
            ("score", pa.float64()),  # by the method's own objective
            ("evaluations", pa.int64()),  # of that objective
            ("unet_calls", pa.int64()),
            ("report", pa.string()),  # JSON
        ]
    ),
    "invert": pa.schema(
        [
            pa.field("item", pa.string(), nullable=False),
            *_ROW,
            ("residual_max", pa.float64()),
            ("residual_mean", pa.float64()),
            ("passes_mean", pa.float64()),
            ("unet_calls", pa.int32()),
            ("roundtrip_error", pa.float64()),  # ||z0' - z0|| / ||z0||
            ("psnr_roundtrip_db", pa.float64()),  # D(z0') against D(z0)
            ("psnr_vae_db", pa.float64()),  # the image against D(z0)
            ("psnr_total_db", pa.float64()),  # the image against D(z0')
            ("latent_rms", pa.float64()),
            ("latent_autocorr", pa.float64()),
            ("nll_per_dim", pa.float64()),
        ]
    ),
    "generate": pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            *_ROW,
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # as `datasets` stores an Image
            ("pixel_sha256", pa.string()),
            ("invert_key", pa.string()),
            ("item", pa.string()),
            ("unet_calls", pa.int32()),  # that led to the picture; 0 where the latent is that of `denoised_by`
            ("guard_report", pa.string()),
            (
                "denoised_by",
                pa.string(),
            ),  # key of the invert unit whose round trip denoised the latent; null: this unit
        ]
    ),
    "filter": pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            *_ROW,  # the picture's own status where a filter has nothing to read
            ("blocked", pa.bool_()),  # null where there is no ruling
            ("report", pa.string()),  # JSON: what the ruling rests on
            pa.field("filter_id", pa.int64(), nullable=False),
        ]
    ),
    "detect": pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            *_ROW,
            ("scores", pa.list_(pa.field("element", _SCORE))),
            pa.field("instrument_id", pa.int64(), nullable=False),
        ]
    ),
    "quality": pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            *_ROW,
            pa.field("baseline", pa.string(), nullable=False),
            ("baseline_image_id", pa.int64()),
            pa.field("metric", pa.string(), nullable=False),
            ("value", pa.float64()),  # null for feature vectors, which are the unit's tensors
            pa.field("instrument_id", pa.int64(), nullable=False),
        ]
    ),
}
# Columns that files of earlier versions lack; there they read as null.
ADDED: Mapping[str, tuple[str, ...]] = {"generate": ("denoised_by",)}
_METADATA = b"erasure_audit"
_HUGGINGFACE = {
    "info": {
        "features": {
            field.name: {"_type": "Image"} if field.name == "image" else {"dtype": str(field.type), "_type": "Value"}
            for field in SCHEMAS["generate"]
        }
    }
}


def header_of(table: pa.Table) -> Document:
    """Return the header of the unit that a table was read from; empty without one."""
    return header_in(table.schema)


def runtime(table: pa.Table) -> Document:
    """Return where and how long a unit was computed, from the header that its table carries; empty without one."""
    described: Document = header_of(table).get("runtime", {})
    return described


def header_in(schema: pa.Schema) -> Document:
    """Return the header that a file's schema carries; empty without one."""
    document = (schema.metadata or {}).get(_METADATA)
    header: Document = json.loads(document) if document else {}
    return header


def encoded(kind: str, table: pa.Table, header: Document) -> bytes:
    """Return the bytes of one unit's file; `table` has `SCHEMAS[kind]`."""
    metadata = {_METADATA: json.dumps(header, sort_keys=True).encode()}
    if kind == "generate":
        metadata[b"huggingface"] = json.dumps(_HUGGINGFACE).encode()
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        # Files are small and read whole: statistics only cost time and would repeat parts of pictures.
        compression="snappy",
        write_statistics=False,
        use_dictionary=[name for name in ("status", "invert_key", "item") if name in table.column_names],
        write_page_checksum=True,
    )
    return sink.getvalue()
