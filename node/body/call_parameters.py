"""Checks calls of a kind before they are stored: by the parameters of its callable, or by those that nodes publish."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from peerjob.model.codec import PLAIN, decode_value, encode_value, has_reference, has_secret
from peerjob.model.descriptor import KeyText, scalar_of
from peerjob.model.errors import ArgumentError, EncodeError, OptionError, path_text
from peerjob.model.injected import INJECTED
from peerjob.model.key_template import key_text, names_in, rendered
from peerjob.model.limits import MAX_ARGUMENTS
from peerjob.model.outputs import Output, Ref
from peerjob.model.secret import Secret
from peerjob.model.signature import EMPTY, TEXT_PLACEHOLDER, Parameter, Signature, is_placeholder
from peerjob.model.spec import encode_arguments

from .dropped_parts import first_dropped_part
from .typed_positions import ANYTHING, TypedPosition


def too_many(args: Collection[Any], kwargs: Collection[str]) -> str | None:
    """Say that a call has too many arguments; None if it has not."""
    count = len(args) + len(kwargs)
    return f"{count:,} arguments, over the limit of {MAX_ARGUMENTS:,}" if count > MAX_ARGUMENTS else None


def check_count(kind: str, args: Collection[Any], kwargs: Collection[str]) -> None:
    """Raise ArgumentError for a call with too many arguments."""
    if (excess := too_many(args, kwargs)) is not None:
        raise ArgumentError(kind, [excess])


class CallParameters:
    """The parameters of a kind, compiled once."""

    def __init__(self, kind: str, signature: Signature) -> None:
        self.kind = kind
        self.signature = signature
        self._positions = [_position_of(parameter) for parameter in signature.positional]
        self._named = {name: _position_of(parameter) for name, parameter in signature.by_name.items()}
        self._rest = None if signature.var_positional is None else _position_of(signature.var_positional)
        self._more = None if signature.var_keyword is None else _position_of(signature.var_keyword)
        self._min_args, self._max_args = self._simple_calls()
        types = [position.exact for position in self._positions]
        is_plain = PLAIN.issuperset(types) and self._min_args <= self._max_args == len(types)
        self._plain_types = types if is_plain else None
        """The types of all parameters, if a call with such values fits and needs no check to be encoded; else None."""
        is_untyped = all(position.exact is ANYTHING for position in self._positions)
        self._untyped_counts = range(self._min_args if is_untyped else 1, self._max_args + 1 if is_untyped else 0)
        """The numbers of values that fit, of any type; empty if a parameter has a type."""

    # -- before a call is stored -------------------------------------------------------------------------------

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Encode the given arguments as they are stored; raises ArgumentError with every reason why they do not fit."""
        plain = not kwargs and (
            list(map(type, args)) == self._plain_types
            or (len(args) in self._untyped_counts and PLAIN.issuperset(map(type, args)))
        )
        if plain or self._fits(args, kwargs):
            try:
                return encode_arguments(args, kwargs, plain=plain)
            except EncodeError:
                pass  # _encode_checked raises an error that names this value and every other bad one
        return self._encode_checked(args, kwargs)

    def _encode_checked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        check_count(self.kind, args, kwargs)
        aligned, problems = self._aligned(args, kwargs)
        for name, value, position in self._given(aligned, kwargs, problems):
            stored = b""
            try:
                # convert the stored form and not `value`, because the body gets what the store returns
                stored = encode_value(value)
                if has_reference(stored):
                    continue  # the node that runs the member checks the value, which is not known yet
                dropped = first_dropped_part(value, position.convert(decode_value(stored)))
                if dropped is not None:
                    hidden = position.secret or has_secret(stored)
                    problems.append(f"{name}{'' if hidden else path_text(dropped[0])}: {dropped[1]}")
            except EncodeError as error:
                problems.append(f"{name}{'' if position.secret else path_text(error.path)}: {error.reason}")
            except Exception as error:  # noqa: BLE001  # conversion runs code of users, which can raise anything
                problems += position.explain(error, hidden=position.secret or has_secret(stored), name=name)
        if problems:
            raise ArgumentError(self.kind, problems)
        kept = {
            name: _hidden(value, self._named.get(name, self._more))
            for name, value in kwargs.items()
            if not self._supplies(name)
        }
        given = [_hidden(value, self._position_at(index)) for index, value in enumerate(aligned)]
        if TEXT_PLACEHOLDER in [value for value in aligned if type(value) is str]:
            # keep the placeholders of supplied parameters, so that the node does not read the text "?" as a placeholder
            return self._encode_all(given, kept)
        return self._encode_all([value for value in given if value is not INJECTED], kept)

    def _encode_all(self, args: list[Any], kwargs: dict[str, Any]) -> bytes:
        try:
            return encode_arguments(tuple(args), kwargs)
        except EncodeError as error:
            raise ArgumentError(self.kind, [error.reason]) from error

    # -- keys --------------------------------------------------------------------------------------------------

    def check_template(self, key: Any) -> None:
        """Raise OptionError for a key template that names no argument of the caller, or a secret one."""
        if not isinstance(key, str):
            return
        for name in names_in(key):
            position = self._position_named(name)
            if (position is None and self._more is None) or (
                position is not None and (position.supplied or position.secret)
            ):
                known = [
                    parameter.name
                    for parameter in self.signature.parameters
                    if self._position_named(parameter.name) is not None
                ]
                expected = f"names of arguments of {self.kind!r}, no secret ones ({', '.join(known) or 'it has none'})"
                raise OptionError("key", key, expected)

    def key(self, template: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of a valid call; raises ArgumentError for arguments that have no text in a key."""
        aligned, _ = self._aligned(args, kwargs)
        given = {
            parameter.name: value for parameter, value in zip(self.signature.positional, aligned, strict=False)
        } | kwargs

        def text_of(name: str) -> str:
            return self._text(name, given[name]) if name in given else self.default_text(name)

        return rendered(template, text_of)

    def hides(self, name: str) -> bool:
        """Whether an argument of the caller is a secret."""
        position = self._position_named(name) or next(
            (typed for typed in (self._rest, self._more) if typed is not None and typed.name == name), None
        )
        return position is not None and position.secret and not position.supplied

    def default_text(self, name: str) -> str:
        """The text in a key of an argument that the caller leaves out."""
        default = next((parameter.default for parameter in self.signature.parameters if parameter.name == name), EMPTY)
        if default is EMPTY:
            raise ArgumentError(self.kind, [f"{name}: missing, and the key needs it"])
        return str(default) if isinstance(default, KeyText) else self._text(name, default)

    def _text(self, name: str, value: Any) -> str:
        if isinstance(value, Output | Ref):
            raise ArgumentError(self.kind, [f"{name}: the key needs its value, and {value!r} has none yet"])
        position = self._position_named(name)
        # only conversions that each node can do, also one without the code: the same call has the same key everywhere
        if position is not None and scalar_of(position.annotation)[0]:
            try:
                value = position.convert(value)
            except Exception as error:  # of the arguments of an older build, as a retry has them
                raise ArgumentError(self.kind, position.explain(error, hidden=position.secret)) from error
        text = key_text(value)
        if text is None:
            problem = f"{name}: the key is made of text, numbers, times, UUIDs, bools and None, not of {type(value)}"
            raise ArgumentError(self.kind, [problem])
        return text

    def _position_named(self, name: str) -> TypedPosition | None:
        return self._named.get(name) or next((position for position in self._positions if position.name == name), None)

    # -- matching arguments and parameters ---------------------------------------------------------------------

    def _simple_calls(self) -> tuple[int, int]:
        """Return the least and the most positional arguments that `_fits` can accept; (1, 0) if it accepts no call."""
        signature = self.signature
        if any(
            parameter.required and not parameter.supplied
            for parameter in signature.parameters
            if parameter not in signature.positional
        ):
            return 1, 0
        leading = next(
            (index for index, parameter in enumerate(signature.positional) if parameter.supplied), len(self._positions)
        )
        needed = [
            index + 1
            for index, parameter in enumerate(signature.positional)
            if parameter.required and not parameter.supplied
        ]
        return max(needed, default=0), leading

    def _fits(self, args: tuple[Any, ...] | list[Any], kwargs: dict[str, Any]) -> bool:
        """Whether the arguments fit without conversion. The check must be fast, because each call and run needs it."""
        if kwargs or not self._min_args <= len(args) <= self._max_args:
            return False
        for value, position in zip(args, self._positions):  # noqa: B905  # a call can omit parameters with defaults
            if type(value) is not position.exact and (position.exact is not ANYTHING or value is INJECTED):
                return False
        return True

    def _aligned(self, args: tuple[Any, ...] | list[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
        """Match positional arguments to parameters. A "?" is a placeholder if the call is valid with it, else text."""
        aligned = self.signature.align(args)
        problems = self.signature.misfits(aligned, kwargs)
        if problems and TEXT_PLACEHOLDER in [value for value in args if type(value) is str]:
            as_text = self.signature.align(args, text_placeholders=False)
            if not self.signature.misfits(as_text, kwargs):
                return as_text, []
        return aligned, problems

    def _given(
        self, aligned: list[Any], kwargs: Mapping[str, Any], problems: list[str]
    ) -> Iterator[tuple[str, Any, TypedPosition]]:
        """Yield name, value and position of each argument; add misplaced placeholders to `problems`."""
        for index, value in enumerate(aligned):
            position = self._position_at(index)
            if position is None:
                break  # `problems` already says that the call has too many arguments
            name = position.name if position is not self._rest else f"{position.name}[{index - len(self._positions)}]"
            if not self._is_open(index, value):
                yield from _checked(name, position, value, problems)
        for name, value in kwargs.items():
            typed = self._named.get(name, self._more)
            if typed is not None and not (typed.supplied and is_placeholder(value)):
                yield from _checked(name, typed, value, problems)

    def _position_at(self, index: int) -> TypedPosition | None:
        return self._positions[index] if index < len(self._positions) else self._rest

    def _is_open(self, index: int, value: Any) -> bool:
        return value is INJECTED and index < len(self._positions) and self._positions[index].supplied

    def _supplies(self, name: str) -> bool:
        return name in self._named and self._named[name].supplied


def _position_of(parameter: Parameter) -> TypedPosition:
    return TypedPosition(parameter.name, parameter.annotation, supplied=parameter.supplied)


def _hidden(value: Any, position: TypedPosition | None) -> Any:
    return Secret(value) if position is not None and position.secret and value is not INJECTED else value


def _checked(
    name: str, position: TypedPosition, value: Any, problems: list[str]
) -> Iterator[tuple[str, Any, TypedPosition]]:
    if position.supplied:
        problems.append(f"{name}: supplied by the node; leave it out")
    elif value is INJECTED:
        problems.append(f"{name}: a placeholder, where an argument is needed")
    else:
        yield name, value, position
