"""Checks calls of a kind before they are stored: by the parameters of its callable, or by those that nodes publish."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from peerjob.model.codec import decode_value, encode_value, has_secret
from peerjob.model.descriptor import KeyText, scalar_of
from peerjob.model.errors import ArgumentError, EncodeError, OptionError, path_text
from peerjob.model.injected import INJECTED
from peerjob.model.key_template import key_text, names_in, rendered
from peerjob.model.limits import MAX_ARGUMENTS
from peerjob.model.secret import Secret
from peerjob.model.signature import EMPTY, TEXT_PLACEHOLDER, Parameter, Signature, is_placeholder
from peerjob.model.spec import encode_arguments

from .lost_parts import first_lost_part
from .typed_places import ANYTHING, TypedPlace


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
        self._places = [_place_of(one) for one in signature.positional]
        self._named = {name: _place_of(one) for name, one in signature.by_name.items()}
        self._rest = None if signature.var_positional is None else _place_of(signature.var_positional)
        self._more = None if signature.var_keyword is None else _place_of(signature.var_keyword)
        self._min_args, self._max_args = self._simple_calls()

    # -- before a call is stored -------------------------------------------------------------------------------

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Encode the given arguments as they are stored; raises ArgumentError with every reason why they do not fit."""
        if self._fits(args, kwargs):
            try:
                return encode_arguments(args, kwargs)
            except EncodeError:
                pass  # _encode_checked raises an error that names this value and every other bad one
        return self._encode_checked(args, kwargs)

    def _encode_checked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        check_count(self.kind, args, kwargs)
        placed, problems = self._placed(args, kwargs)
        for name, value, place in self._given(placed, kwargs, problems):
            stored = b""
            try:
                # convert the stored form and not `value`, because the body gets what the store returns
                stored = encode_value(value)
                lost = first_lost_part(value, place.convert(decode_value(stored)))
                if lost is not None:
                    hidden = place.secret or has_secret(stored)
                    problems.append(f"{name}{'' if hidden else path_text(lost[0])}: {lost[1]}")
            except EncodeError as error:
                problems.append(f"{name}{'' if place.secret else path_text(error.path)}: {error.reason}")
            except Exception as error:  # noqa: BLE001  # conversion runs code of users, which can raise anything
                problems += place.explain(error, hidden=place.secret or has_secret(stored), name=name)
        if problems:
            raise ArgumentError(self.kind, problems)
        kept = {
            name: _hidden(value, self._named.get(name, self._more))
            for name, value in kwargs.items()
            if not self._supplies(name)
        }
        given = [_hidden(value, self._place_at(index)) for index, value in enumerate(placed)]
        if TEXT_PLACEHOLDER in [one for one in placed if type(one) is str]:
            # keep the placeholders of supplied parameters, so that the node does not read the text "?" as a placeholder
            return self._encode_all(given, kept)
        return self._encode_all([one for one in given if one is not INJECTED], kept)

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
            place = self._place_named(name)
            if (place is None and self._more is None) or (place is not None and (place.supplied or place.secret)):
                known = [one.name for one in self.signature.parameters if self._place_named(one.name) is not None]
                expected = f"names of arguments of {self.kind!r}, no secret ones ({', '.join(known) or 'it has none'})"
                raise OptionError("key", key, expected)

    def key(self, template: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of a valid call; raises ArgumentError for arguments that have no text in a key."""
        placed, _ = self._placed(args, kwargs)
        given = {one.name: value for one, value in zip(self.signature.positional, placed, strict=False)} | kwargs

        def text_of(name: str) -> str:
            return self._text(name, given[name]) if name in given else self.default_text(name)

        return rendered(template, text_of)

    def hides(self, name: str) -> bool:
        """Whether an argument of the caller is a secret."""
        place = self._place_named(name) or next(
            (one for one in (self._rest, self._more) if one is not None and one.name == name), None
        )
        return place is not None and place.secret and not place.supplied

    def default_text(self, name: str) -> str:
        """The text in a key of an argument that the caller leaves out."""
        default = next((one.default for one in self.signature.parameters if one.name == name), EMPTY)
        if default is EMPTY:
            raise ArgumentError(self.kind, [f"{name}: missing, and the key needs it"])
        return str(default) if isinstance(default, KeyText) else self._text(name, default)

    def _text(self, name: str, value: Any) -> str:
        place = self._place_named(name)
        # only conversions that each node can do, also one without the code: the same call has the same key everywhere
        if place is not None and scalar_of(place.annotation)[0]:
            value = place.convert(value)
        text = key_text(value)
        if text is None:
            problem = f"{name}: the key is made of text, numbers, times, UUIDs, bools and None, not of {type(value)}"
            raise ArgumentError(self.kind, [problem])
        return text

    def _place_named(self, name: str) -> TypedPlace | None:
        return self._named.get(name) or next((place for place in self._places if place.name == name), None)

    # -- matching arguments and parameters ---------------------------------------------------------------------

    def _simple_calls(self) -> tuple[int, int]:
        """Return the least and the most positional arguments that `_fits` can accept; (1, 0) if it accepts no call."""
        signature = self.signature
        if any(one.required and not one.supplied for one in signature.parameters if one not in signature.positional):
            return 1, 0
        leading = next((index for index, one in enumerate(signature.positional) if one.supplied), len(self._places))
        needed = [index + 1 for index, one in enumerate(signature.positional) if one.required and not one.supplied]
        return max(needed, default=0), leading

    def _fits(self, args: tuple[Any, ...] | list[Any], kwargs: dict[str, Any]) -> bool:
        """Whether the arguments fit without conversion. The check must be fast, because each call and run needs it."""
        if kwargs or not self._min_args <= len(args) <= self._max_args:
            return False
        for value, place in zip(args, self._places):  # noqa: B905  # a call can omit parameters with defaults
            if type(value) is not place.exact and (place.exact is not ANYTHING or value is INJECTED):
                return False
        return True

    def _placed(self, args: tuple[Any, ...] | list[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
        """Match positional arguments to parameters. A "?" is a placeholder if the call is valid with it, else text."""
        placed = self.signature.align(args)
        problems = self.signature.misfits(placed, kwargs)
        if problems and TEXT_PLACEHOLDER in [one for one in args if type(one) is str]:
            as_text = self.signature.align(args, text_placeholders=False)
            if not self.signature.misfits(as_text, kwargs):
                return as_text, []
        return placed, problems

    def _given(
        self, placed: list[Any], kwargs: Mapping[str, Any], problems: list[str]
    ) -> Iterator[tuple[str, Any, TypedPlace]]:
        """Yield name, value and place of each argument with a parameter; add misplaced placeholders to `problems`."""
        for index, value in enumerate(placed):
            place = self._place_at(index)
            if place is None:
                break  # `problems` already says that the call has too many arguments
            name = place.name if place is not self._rest else f"{place.name}[{index - len(self._places)}]"
            if not self._is_open(index, value):
                yield from _checked(name, place, value, problems)
        for name, value in kwargs.items():
            found = self._named.get(name, self._more)
            if found is not None and not (found.supplied and is_placeholder(value)):
                yield from _checked(name, found, value, problems)

    def _place_at(self, index: int) -> TypedPlace | None:
        return self._places[index] if index < len(self._places) else self._rest

    def _is_open(self, index: int, value: Any) -> bool:
        return value is INJECTED and index < len(self._places) and self._places[index].supplied

    def _supplies(self, name: str) -> bool:
        return name in self._named and self._named[name].supplied


def _place_of(parameter: Parameter) -> TypedPlace:
    return TypedPlace(parameter.name, parameter.annotation, supplied=parameter.supplied)


def _hidden(value: Any, place: TypedPlace | None) -> Any:
    return Secret(value) if place is not None and place.secret and value is not INJECTED else value


def _checked(name: str, place: TypedPlace, value: Any, problems: list[str]) -> Iterator[tuple[str, Any, TypedPlace]]:
    if place.supplied:
        problems.append(f"{name}: supplied by the node; leave it out")
    elif value is INJECTED:
        problems.append(f"{name}: a placeholder, where an argument is needed")
    else:
        yield name, value, place
