"""The reader of PromQL that the tests of rules and dashboards rest on."""

from __future__ import annotations

import pytest
from promql import Selector, read


@pytest.mark.parametrize(
    ("expression", "names", "labels"),
    [
        ("up", {"up"}, set()),
        ("sum(a) / count(b)", {"a", "b"}, set()),
        ("sum by (pod, le) (rate(a_bucket[5m]))", {"a_bucket"}, {"pod", "le"}),
        ("sum(rate(a_total[5m])) without (pod)", {"a_total"}, {"pod"}),
        ("a > on (x) group_left (y) b and ignoring(z) c unless d or e", {"a", "b", "c", "d", "e"}, {"x", "y", "z"}),
        ("track:a:rate5m offset 1h > bool 0.5", {"track:a:rate5m"}, set()),
        ('label_replace(a, "to", "$1", "from", "(b) by (c)")', {"a"}, set()),
        ("max_over_time(a[10m:1m]) @ end()", {"a"}, set()),
        ("a # sum(b)\n + c", {"a", "c"}, set()),
        ("histogram_quantile(0.95, sum by (le) (rate(by_bucket[2m])))", {"by_bucket"}, {"le"}),
        ("1e3 * vector(1) + Inf - time()", set(), set()),
        ("a == b atan2 c", {"a", "b", "c"}, set()),
    ],
)
def test_names_and_labels_are_found(expression: str, names: set[str], labels: set[str]) -> None:
    asked = read(expression)
    assert (asked.names, asked.labels) == (names, labels)


def test_matchers_belong_to_their_metric() -> None:
    asked = read('a{x="1",y=~\'b|c{d}\'} / {__name__="e", z!=`f,g`} - h{} + i')
    assert asked.selectors == (
        Selector("a", {"x": ("=", "1"), "y": ("=~", "b|c{d}")}),
        Selector("e", {"z": ("!=", "f,g")}),
        Selector("h"),
        Selector("i"),
    )
