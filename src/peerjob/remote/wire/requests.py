"""Requests to schedule, on the wire: a request from a call, and a call from a request."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec
from google.protobuf.message import Message

from peerjob.model import errors
from peerjob.model.bounds import check_json
from peerjob.model.codec import decode_kept
from peerjob.model.durations import to_micros, to_seconds
from peerjob.model.errors import DecodeError, OptionError
from peerjob.model.job import Call, Job, refuse_flow_kind
from peerjob.model.limits import MAX_ARGUMENTS, MAX_ERROR_TESTS
from peerjob.model.policy import Backoff
from peerjob.model.printable import hidden
from peerjob.model.record import NewInstance
from peerjob.model.spec import encode_arguments
from peerjob.model.timing import Jitter
from peerjob.proto.job.v1 import service_pb2 as pb

from .values import given_moment, given_span, span, stamp

FOREVER = -1
MAX_BULK = 1_000
"""The most jobs of one request: while the node checks the jobs, all other work of the node waits."""
NOT_SENT = frozenset({"on_complete", "on_terminate", "on_state_change"})
"""Options that hold functions. A client cannot send functions; the definition of the job on a node has them."""
_Arguments = tuple[list[Any], dict[str, Any]]
_UNCHANGED = ("version", "run_in", "on_store_loss", "max_crashes", "description", "name")
_RECURRENCE = ("cron", "timezone", "overlap", "queue_limit", "misfire", "misfire_limit")


# -- from a client ---------------------------------------------------------------------------------------------------


def kind_request(
    kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, id: str, known: bool
) -> pb.ScheduleJobRequest:
    """A request for a kind that only the nodes know; with `known`, a node must have published it."""
    return pb.ScheduleJobRequest(
        uuid=id,
        kind=kind,
        encoded_arguments=encode_arguments(args, kwargs),
        allow_unknown=not known,
        view=pb.INSTANCE_VIEW_ENCODED,
    )


def job_request(
    job: Job[..., Any, Any], arguments: bytes, key: str | None, *, new: NewInstance | None, known: bool = False
) -> pb.ScheduleJobRequest:
    """A request for a job that the client knows; `arguments` are checked and encoded.

    `new` is the instance that a node would store for one run; without it, the request is for a schedule. With `known`,
    the nodes refuse a kind that none of them has published.

    A job with an executor sends only the options that a node stores with the instance; a handle sends all its options.
    """
    sent = dict(job.options if job.executor is None else job.overrides)
    for name in ("tags", "retention", "max_crashes", "priority", "at", "after"):
        if name in job.options:
            sent[name] = job.options[name]
    options = options_message(sent, job, key)
    if new is None:
        _set_recurrence(options, job)
    elif new.due_us is not None:
        options.at.CopyFrom(stamp(new.due_us))
    elif job.timing.after_us is not None:
        options.after.CopyFrom(span(new.delay_us or 0))
    return pb.ScheduleJobRequest(
        uuid=None if new is None else new.id,
        kind=job.kind,
        priority=sent.get("priority"),
        encoded_arguments=arguments,
        options=options,
        allow_unknown=not known,
        view=pb.INSTANCE_VIEW_ENCODED,
    )


def options_message(sent: Mapping[str, Any], job: Job[..., Any, Any], key: str | None) -> pb.JobOptions:
    """The message of checked options; raises OptionError for options that cannot leave this process."""
    message = pb.JobOptions(key=key, version=job.version or None)
    for name in NOT_SENT & sent.keys():
        if sent[name] is not None:
            raise OptionError(name, sent[name], "no function here: processors belong to the job's definition on a node")
    for name in ("run_in", "on_store_loss", "max_crashes"):
        if name in sent:
            setattr(message, name, sent[name])
    for name, convert in _CONVERTED.items():
        if name in sent:
            getattr(message, name).CopyFrom(convert(name, sent[name]))
    if "max_retries" in sent:
        message.max_retries = FOREVER if sent["max_retries"] is None else sent["max_retries"]
    if sent.get("retention") is not None:
        message.retention.CopyFrom(span(sent["retention"]))
    return message


def _set_recurrence(message: pb.JobOptions, job: Job[..., Any, Any]) -> None:
    timing = job.timing
    message.name = job.schedule_name
    if "description" in job.options:
        message.description = job.options["description"]
    if timing.cron is not None:
        message.cron = timing.cron
    if timing.every_us is not None:
        message.every.CopyFrom(span(timing.every_us))
    if timing.timezone is not None:
        message.timezone = timing.timezone
    message.jitter.CopyFrom(span(timing.jitter_us))
    message.jitter_by_name = timing.hashed
    message.overlap, message.queue_limit = str(timing.overlap), timing.queue_limit
    message.misfire, message.misfire_limit = timing.misfire, timing.misfire_limit
    message.start_deadline.CopyFrom(span(timing.start_deadline_us or 0))


def _backoff_message(_: str, backoff: Any) -> pb.Backoff:
    if isinstance(backoff, Backoff):
        return pb.Backoff(
            initial=span(to_micros(backoff.initial)),
            factor=backoff.factor,
            max=span(to_micros(backoff.max)),
            jitter=backoff.jitter,
        )
    if callable(backoff):
        raise OptionError("backoff", backoff, "a duration or a Backoff: functions do not leave this process")
    return pb.Backoff(initial=span(to_micros(backoff)))


def _class_name(option: str, test: Any) -> str:
    if isinstance(test, type) and _error_class(cast("type[Any]", test).__name__) is test:
        return cast("type[Any]", test).__name__
    raise OptionError(option, test, "built-in error classes or those of peerjob: others do not leave this process")


_CONVERTED: dict[str, Callable[[str, Any], Message]] = {
    "backoff": _backoff_message,
    "timeout": lambda _, timeout: span(0 if timeout is None else to_micros(timeout)),
    "tags": lambda _, tags: pb.Labels(values=tags),
    "retry_on": lambda option, tests: pb.Labels(values=[_class_name(option, test) for test in tests]),
    "no_retry_on": lambda option, tests: pb.Labels(values=[_class_name(option, test) for test in tests]),
}


def _error_class(name: str) -> type[BaseException] | None:
    for home in (builtins, errors):
        error_class = getattr(home, name, None)
        if isinstance(error_class, type) and issubclass(error_class, BaseException):
            return error_class
    return None


# -- on a node -------------------------------------------------------------------------------------------------------


def call_of(request: pb.ScheduleJobRequest, find: Callable[[str], Job[..., Any, Any] | None]) -> Call[Any]:
    """The call in a request, of the node's own job if the node has one.

    Raises OptionError or ScheduleError.
    """
    refuse_flow_kind(request.kind)
    job = find(request.kind) or Job(request.kind)
    args, kwargs = _arguments_of(request)
    options = _options_of(request.options) if request.HasField("options") else {}
    if request.HasField("priority"):
        options["priority"] = request.priority
    return Call(job.with_options(**cast(Any, options)) if options else job, args, kwargs)


def ids_of(requests: Sequence[pb.ScheduleJobRequest]) -> list[str]:
    """The ids that a client chose, which the node checks, or none; raises OptionError for ids of some requests only."""
    given = [request.uuid for request in requests if request.HasField("uuid")]
    if given and len(given) != len(requests):
        raise OptionError("uuid", f"{len(given)} of {len(requests)}", "an id for every request, or for none")
    return given


def _arguments_of(request: pb.ScheduleJobRequest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    json = request.HasField("json_arguments") or request.HasField("json_keyword_arguments")
    encoded = request.HasField("encoded_arguments")
    if bool(request.arguments) + json + encoded > 1:
        raise OptionError("arguments", "several forms", "arguments as text, as JSON, or encoded, but in one form only")
    if len(request.arguments) > MAX_ARGUMENTS:
        raise OptionError("arguments", f"{len(request.arguments):,} arguments", f"at most {MAX_ARGUMENTS:,}")
    if encoded:
        return _encoded_arguments(request.encoded_arguments)
    if json:
        args = _json("json_arguments", request.json_arguments or "[]", list[Any])
        return tuple(args), _json("json_keyword_arguments", request.json_keyword_arguments or "{}", dict[str, Any])
    return tuple(request.arguments), {}


def _encoded_arguments(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        value = decode_kept(data)
    except DecodeError as error:
        raise OptionError("encoded_arguments", f"{len(data):,} bytes", f"MessagePack of peerjob ({error})") from None
    try:
        args, kwargs = msgspec.convert(value, _Arguments)
    except msgspec.ValidationError as error:
        wanted = f"a list of positional arguments and a map of keyword ones ({error})"
        raise OptionError("encoded_arguments", f"{len(data):,} bytes", wanted) from None
    return tuple(args), kwargs


def _json(option: str, text: str, kind: Any) -> Any:
    try:
        check_json(text)
        return msgspec.json.decode(text, type=kind)
    except (ValueError, ArithmeticError, RecursionError) as error:  # errors of msgspec are subclasses of ValueError
        wanted = "a JSON array" if option == "json_arguments" else "a JSON object"
        # the text can contain secrets, which only a readable call would mask; the error has the position, but no text
        raise OptionError(option, hidden(text), f"{wanted} ({error})") from None


def _options_of(message: pb.JobOptions) -> dict[str, Any]:
    options: dict[str, Any] = {
        name: getattr(message, name) for name in (*_UNCHANGED, *_RECURRENCE, "key") if message.HasField(cast(Any, name))
    }
    if message.HasField("max_retries"):
        options["max_retries"] = None if message.max_retries == FOREVER else message.max_retries
    if message.HasField("backoff"):
        options["backoff"] = _backoff_of(message.backoff)
    for name in ("timeout", "start_deadline"):
        if message.HasField(cast(Any, name)):
            options[name] = given_span(name, getattr(message, name)) or None
    for name in ("retention", "after", "every"):
        if message.HasField(cast(Any, name)):
            options[name] = given_span(name, getattr(message, name))
    if message.HasField("at"):
        options["at"] = given_moment("at", message.at)
    if message.HasField("jitter"):
        made = Jitter.hashed if message.jitter_by_name else Jitter.random
        options["jitter"] = made(given_span("jitter", message.jitter))
    if message.HasField("tags"):
        options["tags"] = tuple(message.tags.values)
    for name in ("retry_on", "no_retry_on"):
        if message.HasField(cast(Any, name)):
            options[name] = _classes(name, getattr(message, name).values)
    return options


def _backoff_of(message: pb.Backoff) -> Any:
    initial = to_seconds(given_span("backoff", message.initial))
    if not message.HasField("factor") and not message.HasField("max") and not message.jitter:
        return initial
    return Backoff(
        initial=initial,
        factor=message.factor if message.HasField("factor") else 1.0,
        max=to_seconds(given_span("backoff", message.max)) if message.HasField("max") else initial,
        jitter=message.jitter,
    )


def _classes(option: str, names: Iterable[str]) -> tuple[type[BaseException], ...]:
    names = list(names)
    if len(names) > MAX_ERROR_TESTS:
        raise OptionError(option, f"{len(names):,} classes", f"at most {MAX_ERROR_TESTS:,}")
    classes: list[type[BaseException]] = []
    for name in names:
        error_class = _error_class(name)
        if error_class is None:
            raise OptionError(option, name, "the name of a built-in error class or of one of peerjob")
        classes.append(error_class)
    return tuple(classes)
