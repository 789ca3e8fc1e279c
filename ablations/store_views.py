"""What a user of MLflow's pages sees at once: saved views of a sweep, the kind of its experiment, notes.

MLflow keeps a view that can be shared as a tag of the experiment, whose value is the state of the page.  From 3.17 the
value may be an envelope with a name, under which the page lists the view; before, it is the state itself.  Here it is
both, so that all versions from 3.7 read it.  The format is of MLflow's pages (their bundle, ``mlflow.sharedViewState``)
and in no documentation; a page that cannot read it shows the experiment as it does without.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from ablations.plan import Plan
from ablations.store_text import TAG, safe, text_of
from unigrpo.io import JsonObject

#: Tag of an experiment by which MLflow's pages tell model training from GenAI, and our value.
KIND, TRAINING = "mlflow.experimentKind", "custom_model_development"
#: Tag of an experiment that holds a view.
SHARED = "mlflow.sharedViewState."
#: Tag of a run that its page shows as its description, in Markdown.
NOTE = "mlflow.note.content"
#: Most measures that have a column and a chart.
_MOST_MEASURES = 12
#: The page's own columns that stay before ours.
_FIRST_COLUMNS = ("0", "attributes.`Run Name`", "runDateAndNestInfo")
#: Most characters of a view's name, beside which the page has other things.
_TITLE = 80


def is_kind_open(kind: str | None) -> bool:
    """Whether an experiment of ``kind`` has none that somebody chose; MLflow's pages write down what they infer."""
    return not kind or kind.endswith("_inferred") or kind == "no_inferred_type"


def addresses(experiment: str, keys: Iterable[str]) -> list[str]:
    """What follows a server's address: the pages of the table and of the charts, of those of ``keys`` that exist.

    Without views it is one page, of the cells of all the experiment's sweeps.  The order by seed keeps MLflow from
    folding cells under the run of their sweep, and the ten runs that it draws at first are then from all arms.
    """
    # Without the type, pages of 3.17 show the menu of GenAI, whatever the experiment's kind.
    page = f"/#/experiments/{experiment}/runs?workflowType=machine_learning&"
    views = [f"{page}viewStateShareKey={key}" for key in keys]
    if not views:
        return [f"{page}searchFilter=params.arm%20!%3D%20%22%22&orderByKey=tags.%60seed%60&orderByAsc=true"]
    table, charts = views
    return [table, f"{charts}&compareRunsMode=CHART"]


def view_keys(root_id: str, sweep_id: str) -> tuple[str, str]:
    """Keys of the sweep's two views, table and charts: the same at every command, so that a view is made anew."""
    own = hashlib.sha256(ascii((root_id, sweep_id)).encode()).hexdigest()[:16]
    return f"{own}-arms", f"{own}-charts"


def views(plan: Plan, parent: str, keys: tuple[str, str], created: float) -> dict[str, str]:
    """The tags of an experiment that hold the views of one sweep.

    Args:
        plan: of the sweep.
        parent: id of the sweep's run; the views show the runs under it.
        keys: of :func:`view_keys`.
        created: seconds since 1970, by which the page sorts the views.
    """
    measures = [*dict.fromkeys(map(safe, (plan.grid.primary["metric"], *plan.grid.secondary)))][:_MOST_MEASURES]
    title = text_of(plan.sweep_id, _TITLE)
    arms = max(len(arm.name) for arm in plan.arms)
    table = _state(parent, "params.`arm`", measures, arms)
    charts = _state(parent, "tags.`seed`", measures, arms) | _charts(plan.grid.primary["metric"], measures)
    named = zip(keys, (f"{title}: arms and seeds", f"{title}: charts by arm"), (table, charts), strict=True)
    return {SHARED + key: _packed(name, state, created) for key, name, state in named}


def _state(parent: str, order: str, measures: list[str], longest: int) -> JsonObject:
    """The state of a page that shows the cells with their measures; every key that the page may ask for is there.

    Args:
        parent: id of the sweep's run.
        order: the column that the rows are sorted by.
        measures: metrics that have a column, in order.
        longest: characters of the longest name of an arm.
    """
    widths = {"params.`arm`": _width(longest), "params.`seed`": _width(4)}
    widths |= {f"metrics.`{name}`": _width(len(name)) for name in measures}
    columns = list(widths)
    return {
        # The parent's id has letters and digits alone; texts of a grid would have to be quoted.
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": order,
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": [*_FIRST_COLUMNS, *columns],
        "columnWidths": widths,
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _width(characters: int) -> int:
    """Pixels of a column that shows so many characters, as far as the page has room."""
    return min(40 + 8 * characters, 280)


def _charts(primary: str, measures: list[str]) -> JsonObject:
    """Runs averaged by arm; first the measures as bars (they have one point a run), then all that MLflow adds."""
    section = {"uuid": "measures", "name": f"Measures, primary: {safe(primary)}", "display": True, "isReordered": False}
    bars = [
        {
            "type": "BAR",
            "uuid": f"measure-{number}",
            "metricSectionId": section["uuid"],
            "metricKey": name,
            "displayName": name,
            "runsCountToCompare": 100,
            "deleted": False,
            "isGenerated": False,
        }
        for number, name in enumerate(measures)
    ]
    return {
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": "arm"}]},
        "compareRunCharts": bars,
        "compareRunSections": [section],
        "isAccordionReordered": True,  # otherwise sections are sorted by name
    }


def _packed(name: str, state: JsonObject, created: float) -> str:
    """The value of a view's tag; without the state of older versions if that would be too long."""
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    when = int(created * 1000)
    envelope = {"name": name, "createdAt": when, "updatedAt": when, "state": f"deflate;{packed}"}
    both = json.dumps({**state, **envelope}, separators=(",", ":"))
    return both if len(both) <= TAG else json.dumps(envelope, separators=(",", ":"))


def note_of(plan: Plan, report: Path | None) -> str:
    """The description of the sweep's run in Markdown: what its report says first, or what is asked."""
    page = report / "report.md" if report else None
    if page is None or not page.exists():
        return text_of(f"**{plan.grid.question}**\n\nThe report comes when the sweep's command ends.", TAG)
    card = page.read_text(encoding="utf-8").split("\n## ")[0].strip()
    card = re.sub(r"\A# (.+)", r"**\1**", card)  # the page sets the lines of a long heading upon each other
    where = "The whole report: *Artifacts*, `report/report.html`."
    return f"{text_of(card, TAG - len(where) - 2)}\n\n{where}"


def missing_tags(wanted: Mapping[str, str], present: Mapping[str, str]) -> dict[str, str]:
    """Those of ``wanted`` that an experiment does not have so."""
    return {key: value for key, value in wanted.items() if present.get(key) != value}
