"""The golden files by the schedulers' own validators, where these are installed.

It needs nothing of mm1, so that it runs in an environment of its own:

    pip install pytest pyyaml jsonschema skypilot
    JOBSET_CRD=jobset.x-k8s.io_jobsets.yaml pytest --noconftest -c /dev/null FILE

The CRD is in github.com/kubernetes-sigs/jobset under config/components/crd/bases.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

GOLDEN = Path(__file__).parent / "golden"


def closed(schema: Any) -> Any:
    """A CRD's schema as the API server reads it: no fields that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


def test_the_jobset_fits_its_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    path = os.environ.get("JOBSET_CRD")
    if path is None:
        pytest.skip("JOBSET_CRD names the CRD's file")
    (version,) = (
        version
        for version in yaml.safe_load(Path(path).read_text())["spec"][
            "versions"
        ]
        if version["name"] == "v1alpha2"
    )
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft202012Validator(schema)
    job = yaml.safe_load((GOLDEN / "jobset.yaml").read_text())
    validator.validate(job)
    job["spec"]["replicatedJobs"][0]["template"]["spec"]["nodes"] = 4
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(job)


def test_skypilot_reads_the_task() -> None:
    sky = pytest.importorskip("sky")
    task = sky.Task.from_yaml(str(GOLDEN / "skypilot.yaml"))
    assert task.num_nodes == 2
    assert task.volumes == {"/data": "mm1-data"}
    (resources,) = task.resources
    assert resources.accelerators == {"H100": 8}
    assert resources.use_spot
    assert resources.job_recovery["recover_on_exit_codes"] == [75]
