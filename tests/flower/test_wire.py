"""Our copy of Flower's messages has the names, numbers and types of the installed flwr (edgefl/fleet/fleet.proto)."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.routing import APIRoute
from flwr.proto import error_pb2, fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, recorddict_pb2
from flwr.superlink.routers.fleet.router import router
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from edgefl.fleet import calls
from edgefl.fleet import fleet_pb2 as ours

THEIRS = {
    name: descriptor
    for module in (error_pb2, fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, recorddict_pb2)
    for name, descriptor in module.DESCRIPTOR.message_types_by_name.items()
}
NEVER_ON_THE_WIRE = {"JournalEntry"}
MESSAGES = {n: d for n, d in ours.DESCRIPTOR.message_types_by_name.items() if n not in NEVER_ON_THE_WIRE}


def describe(field: FieldDescriptor) -> tuple[object, ...]:
    kind = field.message_type.name if field.message_type is not None else field.type
    oneof = field.containing_oneof.name if field.containing_oneof is not None else None
    return field.name, field.number, kind, field.is_repeated, field.has_presence, oneof


def fields(descriptor: Descriptor) -> set[tuple[object, ...]]:
    own = {describe(field) for field in descriptor.fields}
    return own | {(nested.name, *f) for nested in descriptor.nested_types for f in fields(nested)}


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_every_field_is_one_of_flowers(name: str) -> None:
    assert fields(MESSAGES[name]) <= fields(THEIRS[name])


def test_the_comparison_sees_fields_at_all() -> None:
    assert ("created_at", 9, FieldDescriptor.TYPE_DOUBLE, False, False, None) in fields(MESSAGES["Metadata"])


def test_all_calls_are_all_that_have_a_name() -> None:
    named = [value for value in vars(calls).values() if isinstance(value, calls.Call)]
    assert sorted(call.path for call in calls.FLEET_CALLS) == sorted(call.path for call in named)


@pytest.mark.parametrize("call", calls.FLEET_CALLS, ids=lambda call: call.path)
def test_every_call_has_the_path_and_types_of_flowers_router(call: calls.Call[Any, Any]) -> None:
    (route,) = [r for r in router.routes if isinstance(r, APIRoute) and r.path == f"/v1/fleet/{call.path}"]
    request = route.endpoint.__annotations__["request"].__origin__
    response = route.endpoint.__annotations__["return"]
    assert (call.request.__name__, call.response.__name__) == (request.__name__, response.__name__)


def test_flowers_messages_and_ours_live_in_one_process() -> None:
    assert ours.DESCRIPTOR.package == "edgefl.fleet.v1"
    assert fleet_pb2.DESCRIPTOR.package == "flwr.proto"
