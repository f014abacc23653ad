"""What every section of a configuration file is made of, and how its errors are told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic import ValidationInfo as Info
from pydantic_core import ErrorDetails, PydanticCustomError

WORDS = {  # by the type of an error, what files hold in place of what Python has
    "dict_type": "must be keys with values",
    "invalid_key": "keys must be text",
    "model_type": "must be keys with values",
    "string_type": "must be text",
    "tuple_type": "must be a list",
}
PROBLEMS = "problems"  # type of an error whose message is whole lines, each with its own path


class Section(BaseModel):
    """A mapping of known keys; a key without a value counts as left out.

    Attributes:
        elsewhere: keys that are known and not taken here, with the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    elsewhere: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


def _scalar(value: Any) -> Any:
    members = value if isinstance(value, list) else [value]
    if any(isinstance(member, dict) for member in members):
        raise PydanticCustomError("filters", "must be one value for all tensors; filters by name are not supported")
    if isinstance(value, list):
        raise PydanticCustomError("gradient", "must be one value for all layers; gradients (lists) are not supported")
    return value


def _number(value: Any) -> Any:
    if isinstance(_scalar(value), bool):
        raise PydanticCustomError("number", "must be a number; found {found}", {"found": str(value).lower()})
    return value


Scalar = BeforeValidator(_scalar)
# YAML 1.1 reads 1e-3 as text: text that is a number is taken as one
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
Density = Annotated[Number, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_number)]
Flag = Annotated[bool, Scalar]


def _file(path: str, info: Info) -> str:
    """Take a path relative to the folder of the configuration, which the validation's context names."""
    return str(_folder(info) / Path(path).expanduser())


def _model(name: str, info: Info) -> str:
    """Take the folders of a model, and of its adapter behind a plus sign, relative to the configuration's folder."""
    folder = _folder(info)
    if (folder / Path(name).expanduser()).exists():
        return _file(name, info)
    parts = name.split("+")
    if len(parts) > 2 or not all(parts):
        raise PydanticCustomError("model", "must be a model, or model+adapter; found {found}", {"found": repr(name)})
    return "+".join(_file(part, info) if _is_local(part, folder) else part for part in parts)


def _dataset(name: str, info: Info) -> str:
    """Take the folder of a data set relative to the configuration's folder; a repository's name stays as it is."""
    return _file(name, info) if _is_local(name, _folder(info)) else name


def _is_local(name: str, folder: Path) -> bool:
    path = Path(name).expanduser()
    return path.is_absolute() or name.startswith(".") or name.count("/") > 1 or (folder / path).exists()


def _folder(info: Info) -> Path:
    context = info.context or {}
    return Path(context.get("folder", ""))


FilePath = Annotated[str, AfterValidator(_file)]
ModelSource = Annotated[str, AfterValidator(_model)]
DatasetSource = Annotated[str, AfterValidator(_dataset)]


def problems(lines: Iterable[str]) -> PydanticCustomError:
    """Make an error of whole lines, which each begin with the path of their key."""
    return PydanticCustomError(PROBLEMS, "{text}", {"text": "\n".join(lines)})


def lines_of(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    """Tell every problem of a configuration in one line: the path of its key, and what is wrong there."""
    return [line for each in error.errors() for line in _lines(each, kind)]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names what was perhaps meant: the nearest known word, or all of few."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(words)}" if words else "; none is known here"


def path_of(location: Iterable[str | int]) -> str:
    """Write the path of a key: `models[1].parameters.density`."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return path.removeprefix(".")


def _lines(error: ErrorDetails, kind: type[BaseModel]) -> list[str]:
    if error["type"] == PROBLEMS:
        return error["msg"].splitlines()
    path = path_of(error["loc"])
    if error["type"] == "extra_forbidden":
        return [f"{path}: {_unknown(str(error['loc'][-1]), _section_at(kind, error['loc'][:-1]))}"]
    if error["type"] == "missing":
        return [f"{path}: must be given"]
    message = WORDS.get(error["type"], error["msg"].removeprefix("Value error, "))
    message = message[0].lower() + message[1:]
    found = "" if "found" in message else f"; found {error['input']!r}"
    return [f"{path}: {message}{found}" if path else f"{message}{found}"]


def _unknown(key: str, section: type[BaseModel] | None) -> str:
    if section is None:
        return "unknown key"
    reasons: Mapping[str, str] = getattr(section, "elsewhere", {})
    if key in reasons:
        return reasons[key]
    return f"unknown key{nearest(key, (field.alias or name for name, field in section.model_fields.items()))}"


def _section_at(kind: Any, location: Iterable[str | int]) -> type[BaseModel] | None:
    """Find the class of the section at a path, if the steps lead to one."""
    for step in location:
        kind = _without_none(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
            kind = fields.get(str(step))
        else:
            arguments = [argument for argument in get_args(kind) if argument is not Ellipsis]
            kind = arguments[-1] if arguments else None
    kind = _without_none(kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        rest = [argument for argument in get_args(kind) if argument is not type(None)]
        return rest[0] if len(rest) == 1 else kind
    return kind
