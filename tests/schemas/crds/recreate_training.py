"""Makes the schema of the Kubeflow Trainer's TrainJob again, from the models that the project publishes; needs pip.

python tests/schemas/crds/recreate_training.py

`job_batch.volcano.sh_v1alpha1.json` is not made: no package carries Volcano's CRD. It was written after the fields of
its `JobSpec`; pod templates in it are checked as Kubernetes' own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "kubeflow-trainer-api==2.3.0"
TARGET = Path(__file__).resolve().parent / "trainjob_trainer.kubeflow.org_v1alpha1.json"
DUMP = """
import json
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
print(json.dumps(TrainerV1alpha1TrainJob.model_json_schema(by_alias=True)))
"""


def plain(schema: Any) -> Any:
    """A schema without words and defaults, and without the null that stands for a field left out."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return plain({**{key: value for key, value in schema.items() if key != "anyOf"}, **choices[0]})
    named = {
        key: {name: plain(item) for name, item in schema[key].items()}
        for key in ("properties", "$defs")
        if key in schema
    }
    dropped = {"title", "description", "default", *named}
    return {**{key: plain(value) for key, value in schema.items() if key not in dropped}, **named}


def main() -> None:
    """Downloads the package and writes the schema."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, PACKAGE]
        subprocess.run(pip, check=True)
        said = subprocess.run([sys.executable, "-c", DUMP], cwd=folder, check=True, capture_output=True, text=True)
    schema = plain(json.loads(said.stdout))
    schema["$defs"]["IoK8sApimachineryPkgApiResourceQuantity"] = {
        "type": "string"
    }  # a class that parses it, in the models
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    schema["properties"]["metadata"] = {"type": "object"}
    TARGET.write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
