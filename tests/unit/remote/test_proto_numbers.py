"""The wire format keeps the names and numbers of go-job, and what is new leaves them alone."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from peerjob.model.state import SINGLE, State
from peerjob.proto.job.v1 import service_pb2

ROOT = Path(__file__).parents[3]
FILE = service_pb2.DESCRIPTOR

TIME = "google.protobuf.Timestamp"
FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "VersionRequest": {},
    "VersionResponse": {"version": (1, "string"), "api_version": (2, "string")},
    "Job": {
        "kind": (1, "string"),
        "description": (2, "string"),
        "registered_at": (3, TIME),
        "cron_spec": (11, "optional string"),
        "schedule_at": (12, "optional string"),
    },
    "JobInstance": {
        "kind": (1, "string"),
        "uuid": (2, "string"),
        "state": (11, "job.v1.JobState"),
        "arguments": (12, "repeated string"),
        "results": (13, "repeated string"),
        "error": (14, "optional string"),
        "created_at": (21, TIME),
        "scheduled_at": (22, TIME),
        "processed_at": (23, TIME),
        "completed_at": (24, TIME),
        "terminated_at": (25, TIME),
        "canceled_at": (26, TIME),
        "timed_out_at": (27, TIME),
        "attempts": (31, "optional int32"),
    },
    "ScheduleJobRequest": {
        "kind": (1, "string"),
        "arguments": (11, "repeated string"),
        "priority": (12, "optional int32"),
    },
    "ScheduleJobResponse": {"instance": (1, "job.v1.JobInstance")},
    "ListRegisteredJobsRequest": {},
    "ListRegisteredJobsResponse": {"jobs": (1, "repeated job.v1.Job")},
    "Query": {
        "kind": (1, "optional string"),
        "uuid": (2, "optional string"),
        "state": (3, "optional job.v1.JobState"),
    },
    "LookupInstancesRequest": {"query": (1, "job.v1.Query")},
    "LookupInstancesResponse": {"instances": (1, "repeated job.v1.JobInstance")},
    "CancelInstancesRequest": {"query": (1, "job.v1.Query")},
    "CancelInstancesResponse": {"instances": (1, "repeated job.v1.JobInstance")},
}
RPCS = {
    "GetVersion": ("VersionRequest", "VersionResponse"),
    "ScheduleJob": ("ScheduleJobRequest", "ScheduleJobResponse"),
    "ListRegisteredJobs": ("ListRegisteredJobsRequest", "ListRegisteredJobsResponse"),
    "LookupInstances": ("LookupInstancesRequest", "LookupInstancesResponse"),
    "CancelInstances": ("CancelInstancesRequest", "CancelInstancesResponse"),
}
TYPES = {1: "double", 3: "int64", 5: "int32", 8: "bool", 9: "string", 12: "bytes"}


def _type_of(field: FieldDescriptor) -> str:
    name = (
        field.enum_type.full_name
        if field.enum_type is not None
        else field.message_type.full_name
        if field.message_type is not None
        else TYPES[field.type]
    )
    if field.is_repeated:
        return f"repeated {name}"
    # of a message, presence is no matter of a keyword
    return f"optional {name}" if field.has_presence and field.message_type is None else name


@pytest.mark.parametrize("message", FIELDS)
def test_fields_of_go_job_keep_numbers_and_types(message: str) -> None:
    found = FILE.message_types_by_name[message].fields_by_name

    kept = {name: (found[name].number, _type_of(found[name])) for name in FIELDS[message]}
    assert kept == FIELDS[message]


def test_rpcs_of_go_job_keep_their_names_and_messages() -> None:
    service = FILE.services_by_name["JobService"]

    assert service.full_name == "job.v1.JobService"
    for name, (request, response) in RPCS.items():
        method = service.methods_by_name[name]
        assert (method.input_type.name, method.output_type.name) == (request, response)
        assert not method.client_streaming
        assert not method.server_streaming


def test_states_have_the_numbers_that_the_model_has() -> None:
    numbers = {value.name: value.number for value in FILE.enum_types_by_name["JobState"].values}

    assert numbers == {
        "JOB_STATE_UNSET": 0,
        "JOB_STATE_CREATED": 1,
        "JOB_STATE_SCHEDULED": 2,
        "JOB_STATE_PROCESSING": 4,
        "JOB_STATE_CANCELLED": 8,
        "JOB_STATE_TIMED_OUT": 16,
        "JOB_STATE_COMPLETED": 32,
        "JOB_STATE_TERMINATED": 64,
    }
    assert set(numbers.values()) == {int(state) for state in (State.UNSET, *SINGLE)}


def test_every_rpc_has_messages_of_its_own() -> None:
    methods = FILE.services_by_name["JobService"].methods

    requests = [method.input_type.name for method in methods]
    assert len(set(requests)) == len(requests), "a message that two share cannot grow for one of them"


def test_a_message_of_a_newer_release_is_read() -> None:
    newer = service_pb2.Query(kind="sum").SerializeToString() + b"\xfa\x3f\x03new"

    assert service_pb2.Query.FromString(newer).kind == "sum"


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="the generator is not installed")
def test_generated_code_is_fresh() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate_proto.py"), "--check"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr
