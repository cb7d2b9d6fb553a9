"""The model card: `README.md` in the Hugging Face format, its metadata written by the hub's own library."""

from __future__ import annotations

from tasks.data.report import columns, tables, template
from tasks.data.report.comparison import Comparison
from tasks.data.report.lineage import Lineage


def render(table: Comparison, lineage: Lineage) -> str:
    return template.render(
        "card.md.j2",
        metadata=_metadata(table, lineage),
        markdown_table=tables.as_markdown(table),
        table=table,
        lineage=lineage,
        suites=any(column.key.startswith(columns.SUITE) for column in table.columns),
    )


def _metadata(table: Comparison, lineage: Lineage) -> str:
    """YAML. `base_model` is a hub id or absent: the hub refuses a card that names anything else there."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="tuneline",
            dataset_name=column.label if column.key.startswith(columns.SUITE) else "held-out test rows",
            dataset_split=None if column.key.startswith(columns.SUITE) else "test",
            metric_type=column.key,
            metric_name=column.label,
            metric_value=value,
        )
        for column in table.quality.columns
        if (value := table.tuned.values[column.key]) is not None
    ]
    return ModelCardData(
        base_model=lineage.base.hub_id,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["tuneline", lineage.adapter.method],
        model_name=f"{lineage.base.name} tuned with {lineage.adapter.method}",
        eval_results=results,
    ).to_yaml()  # pyright: ignore[reportUnknownMemberType]  line_break, unused here, has no type
