"""What a scrape of a node's metrics says."""

from prometheus_client.parser import text_string_to_metric_families

from peerjob.node.observe.metrics import Metrics
from peerjob.node.observe.metrics.catalogue import Metric

Samples = dict[str, dict[tuple[str, ...], float]]


def series_of(metric: Metric) -> tuple[str, ...]:
    """The names under which a metric can be queried."""
    names = (metric.name, metric.compat) if metric.compat else (metric.name,)
    if metric.type != "histogram":
        return names
    return tuple(name + ending for name in names for ending in ("_bucket", "_sum", "_count"))


def samples_of(text: str) -> Samples:
    """Name → values of the labels, in the order of the labels' names → value."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            samples.setdefault(sample.name, {})[labels] = sample.value
    return samples


async def scrape(metrics: Metrics) -> Samples:
    _, text = await metrics.exposition()
    return samples_of(text.decode())
