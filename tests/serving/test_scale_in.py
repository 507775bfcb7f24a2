"""A pod that is scaled in loses no frame: short streams end on it, long ones go on with another server."""

from __future__ import annotations

from pathlib import Path

import yaml
from chart_rendering import ci_file, render
from served import scale_in

from csm_scaling.manifest import read_manifest

TIMES = {"drain.preStopSeconds": 2, "serving.exitTimeoutSeconds": 7, "serving.longestStreamSeconds": 7}


def test_a_scale_in_with_the_rendered_times_loses_no_frame(bundle: Path) -> None:
    objects = render("csm-serving", ci_file("csm-serving", "default"), set=TIMES)
    server = read_manifest(yaml.safe_dump_all(objects), start_s=60).server
    assert (server.pre_stop_s, server.exit_timeout_s) == (2, 7)
    assert server.grace_s > server.pre_stop_s + server.exit_timeout_s
    found = scale_in.run(server, slots=5, bundle=bundle, codec=None, speakers=(0,))
    for streams, moved in ((found.short, 0), (found.long, 2)):
        whole, came, expected = found.delivered(streams)
        assert whole == len(streams) == 2
        assert came == expected
        assert sum(taken.retries > 0 for taken in streams) == moved
    assert found.status is not None, "it ended by itself"
    assert found.took_s < server.grace_s
    assert found.late.end is not None, "a pod serves during its preStop"
    assert found.fresh.end is not None
    assert all(row.met for row in scale_in.rows_of(found))
