"""Writes SeaweedFS's `s3.json` from who may do what and from mounted keys: python identities.py IDENTITIES KEYS OUT

`IDENTITIES` is a list of `{"name", "actions"}`; `KEYS/NAME/` holds CSM_S3_ACCESS_KEY and CSM_S3_SECRET_KEY.
So the rights are reviewed with the chart, and the keys stay in their secrets.
"""

import json
import sys
from pathlib import Path

listed, keys, out = map(Path, sys.argv[1:])


def key(name: str, part: str) -> str:
    """One half of an identity's keys."""
    path = keys / name / part
    value = path.read_text().strip() if path.exists() else ""
    if not value:
        sys.exit(f"error: {name}: its secret has no {part}; put it there and start the pod again")
    return value


identities = [
    {
        "name": identity["name"],
        "actions": identity["actions"],
        "credentials": [
            {
                "accessKey": key(identity["name"], "CSM_S3_ACCESS_KEY"),
                "secretKey": key(identity["name"], "CSM_S3_SECRET_KEY"),
            }
        ],
    }
    for identity in json.loads(listed.read_text())
]
access = [identity["credentials"][0]["accessKey"] for identity in identities]
double = next((value for value in access if access.count(value) > 1), None)
if double is not None:
    sys.exit(f"error: access key {double} stands in two secrets; give each identity its own")
out.write_text(json.dumps({"identities": identities}))
